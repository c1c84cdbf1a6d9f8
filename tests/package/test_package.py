"""The .deb: what it is made of, and its life on a host: install, upgrade, remove, purge."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.container import Container

ROOT = Path(__file__).resolve().parents[2]
PACKAGED = re.findall(r"^PACKAGED := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
DAEMONS = ("supervisor", "infrastructure", "governance", "memory", "librarian", "verification", "healing", "code")


def field(deb: Path, name: str) -> str:
    """A field of a package's control file."""
    done = subprocess.run(["dpkg-deb", "-f", str(deb), name], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def build(tree: Path, output: Path, version: str) -> None:
    """Builds a source tree into a package."""
    present = [name for name in PACKAGED if (tree / name).exists()]
    subprocess.run(
        ["packaging/build-deb", version, str(output), *present], cwd=tree, check=True, capture_output=True, timeout=300
    )


def copy_of_the_tree(to: Path) -> Path:
    """A checkout somewhere else, made at another time."""
    to.mkdir()
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, copy_function=shutil.copy, ignore=shutil.ignore_patterns("*.pyc"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, to / name)
    return to


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory, deb: Path) -> Path:
    """The same package with the next version number."""
    tree = copy_of_the_tree(tmp_path_factory.mktemp("newer") / "tree")
    version = field(deb, "Version") + ".1"
    changelog = tree / "packaging/debian/changelog"
    changelog.write_text(re.sub(r"\(\S+\)", f"({version})", changelog.read_text(), count=1))
    output: Path = tree.parent / f"graced_{version}_all.deb"
    build(tree, output, version)
    return output


@pytest.fixture
def root(suite: str, tmp_path: Path) -> Iterator[Path]:
    """A Debian in a directory, as image builders have it: nothing runs, and the machine-id is empty."""
    path = tmp_path / "root"
    image.copy(image.base(suite), path)
    assert (path / "etc/machine-id").read_bytes() == b""
    yield path
    shutil.rmtree(path)


def everything(root: Path) -> set[str]:
    """All paths below a directory but those that dpkg, systemd and Python keep for themselves."""
    ignored = re.compile(
        r"^(var/lib/dpkg/|var/cache/|var/log/|var/lib/systemd/(deb-systemd-helper|catalog)|etc/(passwd|group|shadow|gshadow)-?$|"
        r"etc/\.pwd\.lock|tmp/|run/|proc/|sys/|dev/)|__pycache__"
    )
    found = (str(path.relative_to(root)) for path in root.rglob("*"))
    return {path for path in found if not ignored.search(path)}


def test_the_same_source_gives_the_same_bytes(deb: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.deb"
    build(copy_of_the_tree(tmp_path / "tree"), again, field(deb, "Version"))
    assert hashlib.sha256(again.read_bytes()).hexdigest() == hashlib.sha256(deb.read_bytes()).hexdigest()


def test_lintian_finds_no_error_and_no_warning(deb: Path) -> None:
    done = subprocess.run(
        ["lintian", "--profile", "debian", "--fail-on", "error,warning", "--allow-root", str(deb)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_override_has_a_reason() -> None:
    for path in (ROOT / "packaging/debian").glob("*lintian-overrides"):
        lines = path.read_text().splitlines()
        for before, line in zip(["", *lines], lines, strict=False):
            assert line.startswith("#") or not line or before.startswith("#"), line


def test_one_package_for_every_architecture(deb: Path) -> None:
    assert (field(deb, "Package"), field(deb, "Architecture")) == ("graced", "all")


def test_installs_without_a_running_systemd(root: Path, deb: Path, suite: str) -> None:
    before = everything(root)
    image.install(root, deb)
    assert (root / "etc/machine-id").read_bytes() == b""
    # Keys belong to one host: an image must not carry any.
    assert list((root / "var/lib/graced").glob("keys/*")) == []
    assert (root / "etc/systemd/system/multi-user.target.wants/graced.target").is_symlink()
    assert image.chroot(root, ["gracectl", "version"]).strip().endswith(field(deb, "Version"))
    assert image.chroot(root, ["dpkg", "--verify", "graced"]) == ""
    compiled = list((root / "usr/lib/python3/dist-packages/graced").rglob("*.pyc"))
    sources = list((root / "usr/lib/python3/dist-packages/graced").rglob("*.py"))
    assert len(compiled) == len(sources) > 0

    image.chroot(root, ["dpkg", "--purge", "graced"])
    assert everything(root) - before == set()


def test_preset_of_the_admin_is_respected(root: Path, deb: Path) -> None:
    image.install(root, deb)
    image.chroot(root, ["systemctl", "disable", "graced.target"])
    image.install(root, deb)
    assert not (root / "etc/systemd/system/multi-user.target.wants/graced.target").exists()


def test_upgrade_keeps_state_and_restarts(machine: Container, newer: Path) -> None:
    pids = {name: machine.pid(f"graced-{name}.service") for name in DAEMONS}
    machine.write("/etc/graced/graced.toml", "# edited by the admin\n")
    keys = machine.sh("sha256sum /var/lib/graced/keys/*.key").ok().stdout
    for number in range(3):
        machine.unit(["gracectl", "submit", "report", f"page-{number}", "--priority=low"]).ok()
    queued = _tasks(machine)
    assert [task["state"] for task in queued] == ["queued"] * 3
    machine.put(newer, "/tmp/newer.deb")
    machine.unit(["dpkg", "--unpack", "/tmp/newer.deb"], timeout=120).ok()
    for name in set(DAEMONS) - {"infrastructure", "verification"}:
        # What dpkg replaces is no longer mounted on, also where others see it: nothing hears their watchdogs then.
        mounts = machine.run(["cat", f"/proc/{pids[name]}/mountinfo"]).ok().stdout
        assert " /run/systemd/notify " in mounts, name
    machine.unit(["dpkg", "--configure", "graced"], timeout=120).ok()

    for name in DAEMONS:
        machine.wait_state(f"graced-{name}.service", "active")
        assert machine.pid(f"graced-{name}.service") not in (0, pids[name]), name
    assert machine.read("/etc/graced/graced.toml") == "# edited by the admin\n"
    assert machine.sh("sha256sum /var/lib/graced/keys/*.key").ok().stdout == keys
    assert _tasks(machine) == queued, "what was acknowledged before the upgrade is there after it"
    machine.unit(["gracectl", "audit", "verify"]).ok()


def _tasks(machine: Container) -> list[dict[str, object]]:
    """Every task with what must survive an upgrade."""
    tasks = machine.unit(["gracectl", "tasks", "--json=short"]).json()
    kept = ("id", "state", "handler", "task_type", "priority", "created_at", "deadline_at")
    return [{name: task[name] for name in kept} for task in tasks]


def test_install_remove_and_purge_on_a_running_host(bare: Container, deb: Path) -> None:
    bare.put(deb, "/tmp/graced.deb")
    bare.unit(["dpkg", "--install", "/tmp/graced.deb"], timeout=120).ok()
    for name in DAEMONS:
        bare.wait_state(f"graced-{name}.service", "active")
    # What an adoption leaves.
    bare.write("/etc/graced/watch.d/nginx.toml", "")
    bare.write("/etc/systemd/system/graced-watch@nginx.service.path.d/paths.conf", "[Path]\nPathChanged=/etc/x\n")
    bare.sh("systemctl daemon-reload; systemctl enable --now graced-watch@nginx.service.path").ok()

    bare.unit(["dpkg", "--remove", "graced"], timeout=120).ok()
    active = bare.systemctl("list-units", "--state=active,failed", "--plain", "--no-legend", "graced*").stdout.split(
        "\n"
    )
    assert [line for line in active if line and not line.startswith("graced.slice")] == []
    assert bare.sh("ls /var/lib/graced/memory /etc/graced/graced.toml").ok()

    bare.unit(["dpkg", "--purge", "graced"], timeout=120).ok()
    left = bare.sh(
        "find /etc /var/lib /usr /run -name '*graced*' ! -path '/run/systemd/*' ! -path '/var/lib/systemd/*' "
        "! -path '/run/user/*' ! -path '/run/log/*'"
    ).ok()
    assert left.stdout == ""
