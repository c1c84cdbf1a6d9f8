"""What the finder takes, what it leaves to Python's own, and that nobody can tell the difference afterwards."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from graced.base.finder import OwnFinder

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).parents[3]
FINDER = OwnFinder("rooms")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with a module and a package in it, compiled."""
    top = tmp_path / "rooms"
    (top / "inner").mkdir(parents=True)
    for name in ("__init__.py", "one.py", "inner/__init__.py", "inner/two.py"):
        (top / name).write_text(f"NAME = {name!r}\n")
        py_compile.compile(str(top / name), doraise=True)
    return top


def cached(package: Path, name: str) -> Path:
    return next(package.glob(f"__pycache__/{name}.*.pyc"))


def test_a_compiled_module_and_a_package_are_found(package: Path) -> None:
    found = FINDER.find_spec("rooms.one", [str(package)])
    assert found is not None
    assert (found.origin, found.cached) == (str(package / "one.py"), str(cached(package, "one")))
    assert found.submodule_search_locations is None
    inner = FINDER.find_spec("rooms.inner", [str(package)])
    assert inner is not None
    assert inner.submodule_search_locations == [str(package / "inner")]


def test_what_is_not_its_own_is_left_to_python(package: Path) -> None:
    assert FINDER.find_spec("rooms", None) is None
    assert FINDER.find_spec("roomsother.one", [str(package)]) is None
    assert FINDER.find_spec("rooms.three", [str(package)]) is None


def _older(package: Path) -> None:
    os.utime(package / "one.py", (1, 1))


def _longer(package: Path) -> None:
    before = (package / "one.py").stat()
    (package / "one.py").write_text("NAME = 'a longer one'\n")
    os.utime(package / "one.py", (before.st_atime, before.st_mtime))


def _gone(package: Path) -> None:
    cached(package, "one").unlink()


def _no_source(package: Path) -> None:
    (package / "one.py").unlink()


def _of_another_python(package: Path) -> None:
    path = cached(package, "one")
    path.write_bytes(b"\x00\x00\r\n" + path.read_bytes()[4:])


def _by_hash(package: Path) -> None:
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(package / "one.py"), doraise=True, invalidation_mode=mode)


def _empty(package: Path) -> None:
    cached(package, "one").write_bytes(b"")


@pytest.mark.parametrize("spoil", [_older, _longer, _gone, _no_source, _of_another_python, _by_hash, _empty])
def test_byte_code_that_is_not_of_this_source_is_left_to_python(package: Path, spoil: Callable[[Path], None]) -> None:
    spoil(package)
    assert FINDER.find_spec("rooms.one", [str(package)]) is None


def test_modules_look_as_if_python_had_found_them(package: Path) -> None:
    program = (
        "import sys\n"
        "sys.path[:0] = sys.argv[2:]\n"
        "if sys.argv[1] == 'own':\n"
        "    from graced.base.finder import OwnFinder\n"
        "    OwnFinder('rooms').install()\n"
        "import rooms.one, rooms.inner.two\n"
        "for name in ('rooms.one', 'rooms.inner', 'rooms.inner.two'):\n"
        "    m = sys.modules[name]\n"
        "    s = m.__spec__\n"
        "    print(m.NAME, m.__file__, m.__cached__, m.__package__, getattr(m, '__path__', None), s.name, s.parent,\n"
        "          s.has_location, s.loader_state)\n"
        "print(type(rooms.one.__loader__).__name__, file=sys.stderr)\n"
    )
    own, usual = (
        subprocess.run(
            [sys.executable, "-c", program, which, str(package.parent), str(REPOSITORY)],
            capture_output=True,
            text=True,
            check=True,
        )
        for which in ("own", "usual")
    )
    assert own.stdout == usual.stdout
    assert (own.stderr.strip(), usual.stderr.strip()) == ("OwnFinder", "SourceFileLoader")


@pytest.mark.parametrize("option", ["-O", "-Xpycache_prefix=/nowhere"])
def test_it_stays_out_where_byte_code_is_made_otherwise(option: str) -> None:
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from graced.base.finder import OwnFinder\n"
        "OwnFinder('rooms').install()\n"
        "print(type(sys.meta_path[0]).__name__)\n"
    )
    command = [sys.executable, option, "-c", program, str(REPOSITORY)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert said != "OwnFinder"
