"""Imports go down only, each third-party package has one home, chaos stays a black box."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FLOOR = {
    "base": 0,
    "model": 1,
    **dict.fromkeys(("htm", "brain", "heal", "policy", "ingest", "drift"), 2),
    **dict.fromkeys(("varlink", "store", "trust", "host", "metrics"), 2),
    "runtime": 3,
    **dict.fromkeys(("kernels", "supervisor", "actuator", "exporter", "worker"), 4),
    "cli": 5,
}
PURE = {"htm", "brain", "heal", "policy", "ingest", "drift", "metrics", "model"}
HOME = {
    "click": "graced/cli/",
    "nacl": "graced/trust/",
    "psutil": "graced/host/",
    "jeepney": "graced/host/",
    "prometheus_client": "graced/exporter/",
    "systemd": "graced/base/log.py",
}
# What an engine may not reach: the outside world.
IMPURE = {"os", "socket", "subprocess", "selectors", "sqlite3", "time", "random", "threading", "urllib", "http"}
# hashlib-like helpers with no I/O of their own are fine; these engines need one listed name, with the reason.
PURE_EXCEPTIONS: dict[str, set[str]] = {}


def sources() -> list[Path]:
    return sorted((ROOT / "graced").rglob("*.py"))


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of every import in a file, lazy ones included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def room(dotted: str) -> str:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else ""


def violations() -> list[str]:
    found = []
    for path in sources():
        here = path.relative_to(ROOT)
        own = here.parts[1] if len(here.parts) > 2 else ""
        if own and own not in FLOOR:
            found.append(f"{here}: the package {own} has no floor")
            continue
        for line, name in imports(path):
            where = f"{here}:{line}"
            top = name.split(".")[0]
            home = HOME.get(top)
            if home and not str(here).startswith(home):
                found.append(f"{where}: {top} belongs in {home}")
            if own in PURE and top in IMPURE and top not in PURE_EXCEPTIONS.get(str(here), set()):
                found.append(f"{where}: a pure engine imports {top}")
            if top != "graced" or not own or name in {"graced.__version__"}:
                continue
            other = room(name)
            if other not in FLOOR:
                continue
            if FLOOR[other] > FLOOR[own]:
                found.append(f"{where}: {own} (floor {FLOOR[own]}) imports {other} (floor {FLOOR[other]}) above it")
            elif other != own and FLOOR[other] == FLOOR[own]:
                found.append(f"{where}: {own} and {other} share a floor and have no door between them")
    return found


def test_floors():
    assert violations() == []


def test_kernels_do_not_know_each_other():
    for path in (ROOT / "graced/kernels").glob("*.py"):
        names = {name for _, name in imports(path)}
        assert not any(name.startswith("graced.kernels.") for name in names), path


def test_a_worker_needs_nothing_but_the_wire():
    """Admins' own programs import it: the standard library, and graced's own floor 0 and wire."""
    for path in (ROOT / "graced/worker").glob("*.py"):
        for line, name in imports(path):
            top, where = name.split(".")[0], f"{path}:{line}"
            assert top in sys.stdlib_module_names or top == "graced", f"{where}: {name}"
            assert top != "graced" or room(name) in {"base", "varlink", "worker", "__version__"}, f"{where}: {name}"


def test_chaos_is_a_black_box():
    for path in [*(ROOT / "chaos").rglob("*.py"), *(ROOT / "tests/support").rglob("*.py")]:
        names = {name.split(".")[0] for _, name in imports(path)}
        assert "graced" not in names, f"{path} imports graced"


def test_a_floor_breach_is_found(tmp_path, monkeypatch):
    """The test itself can fail: an engine that imports a port and the clock is reported with file and line."""
    (tmp_path / "graced/brain").mkdir(parents=True)
    (tmp_path / "graced/brain/bad.py").write_text(
        "import time\nfrom graced.store import db\nfrom graced.runtime import loop\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert [one.split(": ")[0] for one in violations()] == [
        "graced/brain/bad.py:1",
        "graced/brain/bad.py:2",
        "graced/brain/bad.py:3",
    ]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_size(path):
    """Small rooms: no module over 400 lines, and `__init__.py` says nothing but what the package is."""
    lines = path.read_text().count("\n") + 1
    assert lines <= 400, f"{path}: {lines} lines"
    if path.name == "__init__.py":
        assert lines <= 10, path
