"""The unit files and what is installed beside them, without booting anything."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "units"
DAEMONS = ("supervisor", "infrastructure", "governance", "memory", "librarian", "verification", "healing", "code")
# Those that look at the host have its root; the others have one of their own.
LOOKERS = ("infrastructure", "verification")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make install` puts into a file system."""
    path: Path = tmp_path_factory.mktemp("root")
    # As on every Debian since 12; systemd-analyze of Debian 13 looks for units nowhere else.
    (path / "usr/lib").mkdir(parents=True)
    (path / "lib").symlink_to("usr/lib")
    subprocess.run(["make", "-s", "install", f"DESTDIR={path}"], cwd=ROOT, check=True, capture_output=True)
    return path


def test_systemd_analyze_verify(tree: Path) -> None:
    drop_in = tree / "etc/systemd/system/graced-watch@x.service.path.d/paths.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Path]\nPathChanged=/etc/x\n")
    names = sorted(path.name for path in (tree / "lib/systemd/system").iterdir() if "@" not in path.name)
    # What graced's units name and do not bring along.
    for target in Path("/lib/systemd/system").glob("*.target"):
        shutil.copy(target, tree / "lib/systemd/system" / target.name)
    (tree / "bin").mkdir()
    shutil.copy("/bin/kill", tree / "bin/kill")
    names += ["graced-watch@x.service.path", "graced-watch@x.service.service"]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={tree}", *names], capture_output=True, text=True, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "graced" in line]
    assert said == []


def test_every_program_a_unit_starts_is_installed(tree: Path) -> None:
    for unit in UNITS.glob("*.service"):
        for program in re.findall(r"^Exec\w+=[-+]*(/usr/lib/graced/\S+)", unit.read_text(), re.MULTILINE):
            installed = tree / program.lstrip("/")
            assert installed.stat().st_mode & 0o111, f"{unit.name}: {program}"


def test_launchers_start_modules_that_exist() -> None:
    for launcher in (ROOT / "packaging/launchers").iterdir():
        for module in re.findall(r"^from (graced[\w.]+) import", launcher.read_text(), re.MULTILINE):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file(), f"{launcher.name}: {module}"


def test_catalog_explains_every_message_id() -> None:
    source = (ROOT / "graced/base/messages.py").read_text()
    ids = re.findall(r'^[A-Z_]+ = "([0-9a-f]{32})"', source, re.MULTILINE)
    entries = re.findall(r"^-- ([0-9a-f]{32})$", (UNITS / "graced.catalog").read_text(), re.MULTILINE)
    assert len(ids) > 0
    assert sorted(ids) == sorted(entries)
    assert len(set(ids)) == len(ids)


def test_daemons_differ_only_where_they_are_meant_to() -> None:
    own = re.compile(
        r"^#|^Environment=MALLOC_|^(Description|Requires|ExecStart|User|StateDirectory|LoadCredential|Wants|After|SupplementaryGroups|"
        r"LimitNOFILE|RestrictAddressFamilies|IPAddress\w+|PrivateNetwork|ProtectProc|ProcSubset|PrivateDevices|"
        r"ProtectControlGroups|ProtectHostname|ProtectKernelLogs|ProtectHome|TemporaryFileSystem|RootDirectory|"
        r"RootDirectoryStartOnly|MountAPIVFS|BindPaths|BindReadOnlyPaths)="
    )
    common = {
        name: [line for line in (UNITS / f"graced-{name}.service").read_text().splitlines() if not own.match(line)]
        for name in DAEMONS
    }
    for name in DAEMONS:
        assert common[name] == common["memory"], name


def test_the_calls_that_are_refused_are_the_same_wherever_they_are_written() -> None:
    refused = {
        unit.name: tuple(re.findall(r"^SystemCallFilter=~.*", unit.read_text(), re.MULTILINE))
        for unit in UNITS.glob("*.service")
        if "@privileged" in unit.read_text()
    }
    assert refused.keys() >= {*(f"graced-{name}.service" for name in DAEMONS), "graced-exporter.service"}
    assert len(set(refused.values())) == 1


def test_sockets_are_there_for_as_long_as_somebody_calls_them() -> None:
    calls = {
        "supervisor": {"infrastructure", "governance", "memory", "actuator"},
        "infrastructure": {"supervisor"},
        "governance": {"supervisor", "infrastructure", "actuator"},
        "memory": {"supervisor"},
        "librarian": {"supervisor", "memory"},
        "verification": {"supervisor", "actuator"},
        "healing": {"supervisor", "governance", "verification", "code", "actuator"},
        "code": {"supervisor"},
    }
    for name, called in calls.items():
        text = (UNITS / f"graced-{name}.service").read_text()
        after = {one for line in re.findall(r"^After=(.*)", text, re.MULTILINE) for one in line.split()}
        assert {one for one in after if one.endswith(".socket")} == {f"graced-{one}.socket" for one in (name, *called)}
        # What its own file calls; the runtime's calls are in the table only.
        source = (ROOT / f"graced/kernels/{name}.py") if name != "supervisor" else ROOT / "graced/supervisor/main.py"
        named = {one.lower() for one in re.findall(r'"io\.graced\.(\w+)\.\w+"', source.read_text())}
        assert named - {"bus", "htm", "ledger"} <= called | {name}, name


def test_only_who_looks_at_the_host_has_its_root() -> None:
    def paths(name: str) -> list[str]:
        text = (UNITS / f"graced-{name}.service").read_text()
        return re.findall(r"^(?:RootDirectory|Bind\w*Paths|ProtectHome|TemporaryFileSystem)=.*", text, re.MULTILINE)

    more = {
        "supervisor": ["BindReadOnlyPaths=/var/log -/run/log", "BindPaths=-/var/lib/graced/anchor"],
        "librarian": ["BindPaths=/var/lib/graced/inbox"],
    }
    for name in DAEMONS:
        wanted = (
            ["ProtectHome=tmpfs", "TemporaryFileSystem=/home:ro /root:ro /run/user:ro"]
            if name in LOOKERS
            else [
                *more.get(name, []),
                "ProtectHome=yes",
                "RootDirectory=/usr/lib/graced/root",
                "BindReadOnlyPaths=/usr:/usr:norbind /etc /var/lib/graced",
                "BindPaths=/run/graced /run/systemd/journal /usr/lib/graced/root/sys:/sys",
            ]
        )
        assert paths(name) == wanted, name


def test_the_root_of_the_daemons_has_only_places_to_mount_on(tree: Path) -> None:
    root = tree / "usr/lib/graced/root"
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    run = ["run", *(f"run/{one}" for one in ("credentials", "graced", "log", "systemd"))]
    run += [f"run/systemd/{one}" for one in ("incoming", "journal")]
    top = ["bin", "dev", "etc", "lib", "lib64", "proc", "root", *run, "sbin", "sys", "tmp", "usr"]
    assert found == [*top, "var", "var/lib", "var/lib/graced", "var/log", "var/tmp"]
    # dpkg replaces files, and what is mounted on one is gone then in daemons that run; directories it leaves alone.
    assert not [path for path in root.rglob("*") if path.is_file()]
    links = {path.name: str(path.readlink()) for path in root.iterdir() if path.is_symlink()}
    assert links == {name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")} | {"root": "nowhere"}


def test_versions_agree() -> None:
    version = re.search(r"^version = (\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert version is not None
    changelog = (ROOT / "packaging/debian/changelog").read_text()
    assert changelog.startswith(f"graced ({version[1]}) ")
    assert f'"{version[1]}"' in (ROOT / "graced/__init__.py").read_text()
