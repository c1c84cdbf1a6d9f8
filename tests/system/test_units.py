"""The units as systemd sees them: properties against a table, the verbs an admin uses, exposure, the last resort."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.container import Container

DAEMONS = ("supervisor", "infrastructure", "governance", "memory", "librarian", "verification", "healing", "code")
SIGNERS = ("supervisor", "governance", "verification")
PROBERS = ("infrastructure", "verification")
SOCKETS = {name: f"/run/graced/io.graced.{name.capitalize()}" for name in (*DAEMONS, "actuator")}
OWN_ROOT = {"bin", "dev", "etc", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"}
EXPOSURE = {
    **dict.fromkeys(DAEMONS, 1.0),
    **dict.fromkeys((*PROBERS, "exporter"), 1.5),
    "actuator": 2.5,
}

EVERY_DAEMON = {
    "Type": "notify",
    "NotifyAccess": "main",
    "Restart": "always",
    "RestartUSec": "0",
    "RestartPreventExitStatus": "78",
    "WatchdogUSec": "3s",
    "WatchdogSignal": "9",
    "Slice": "graced.slice",
    "Group": "_graced",
    "StateDirectoryMode": "0700",
    "UMask": "0077",
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "NoNewPrivileges": "yes",
    "PrivateUsers": "no",
    "PrivateTmp": "yes",
    "DevicePolicy": "closed",
    "ProtectSystem": "strict",
    "ProtectClock": "yes",
    "ProtectKernelModules": "yes",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "KeyringMode": "private",
    "SystemCallArchitectures": "native",
    "OOMScoreAdjust": "-500",
}

# Of each family that no daemon may call, one or two; io_uring and userfaultfd above all.
REFUSED_CALLS = {"io_uring_setup", "userfaultfd", "keyctl", "mlock", "setresgid", "shmget", "mq_open", "timer_create"}
REFUSED_CALLS |= {"process_vm_readv", "mount", "ptrace", "setuid", "setrlimit"}


def expected(name: str) -> dict[str, str]:
    """What `systemctl show` must say about a daemon's service."""
    table = {**EVERY_DAEMON, "User": f"_graced-{name}", "StateDirectory": f"graced/{name}"}
    if name in PROBERS:
        table |= {
            "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
            "PrivateNetwork": "no",
            "PrivateDevices": "yes",
            "ProcSubset": "all",
            "ProtectControlGroups": "yes",
            "ProtectHome": "tmpfs",
            "ProtectHostname": "yes",
            "RootDirectory": "",
            "SupplementaryGroups": "systemd-journal",
        }
    else:
        table |= {
            "RestrictAddressFamilies": "AF_UNIX",
            "PrivateNetwork": "yes",
            "MountAPIVFS": "no",
            "ProtectKernelLogs": "yes",
            "ProtectHome": "yes",
            "RootDirectory": "/usr/lib/graced/root",
            "SupplementaryGroups": "",
        }
    if name == "supervisor":
        table |= {"PrivateDevices": "yes", "SupplementaryGroups": "systemd-journal"}
    return table


def seen(machine: Container, unit: str, names: dict[str, str]) -> dict[str, str]:
    """The same properties as they are, in one order where the order means nothing."""
    shown = machine.show(unit, *names)
    shown = {key: shown.get(key, "") for key in names}
    shown["RestrictAddressFamilies"] = " ".join(sorted(shown["RestrictAddressFamilies"].split()))
    return shown


def unit_of(name: str) -> str:
    """The service of a daemon."""
    return f"graced-{name}.service"


def all_active(machine: Container) -> bool:
    """Whether every daemon is up."""
    states = machine.systemctl("is-active", *map(unit_of, DAEMONS)).stdout.split()
    return states == ["active"] * len(DAEMONS)


def test_boot_brings_everything_up_with_a_status_sentence(machine: Container) -> None:
    assert all_active(machine)
    for name in DAEMONS:
        assert machine.show(unit_of(name), "StatusText")["StatusText"].strip(), name
        assert machine.state(f"graced-{name}.socket") == "active"
    assert machine.state("graced-actuator.socket") == "active"
    assert machine.state("graced-actuator.service") == "inactive"
    assert machine.state("graced-exporter.socket") == "active"
    assert machine.state("graced-rescue.timer") == "active"
    assert machine.show("graced-keys.service", "Result", "SubState") == {"Result": "success", "SubState": "dead"}


def test_properties_are_the_contract(machine: Container) -> None:
    for name in DAEMONS:
        table = expected(name)
        assert seen(machine, unit_of(name), table) == table, name
        calls = set(machine.show(unit_of(name), "SystemCallFilter")["SystemCallFilter"].split())
        assert {"read", "sendmsg", "fdatasync"} <= calls, name
        assert not calls & REFUSED_CALLS, name
        # "systemctl show" calls credentials unprintable.
        text = machine.systemctl("cat", unit_of(name)).ok().stdout
        credentials = [line for line in text.splitlines() if line.startswith("LoadCredential=")]
        wanted = [f"LoadCredential={kind}:/var/lib/graced/keys/{name}.{kind}" for kind in ("seal", "key")]
        assert credentials == (wanted if name in SIGNERS else []), name
    assert machine.show("graced.service", "Id")["Id"] == "graced-supervisor.service"
    actuator = machine.show("graced-actuator.service", "User", "PrivateNetwork", "Restart", "RestrictAddressFamilies")
    assert actuator == {
        "User": "",
        "PrivateNetwork": "yes",
        "Restart": "on-failure",
        "RestrictAddressFamilies": "AF_UNIX",
    }


def test_no_limit_of_starts_where_nothing_can_loop(machine: Container) -> None:
    # A socket at its limit keeps its daemon down without a failed unit that the rescue would see.
    for unit in (*(f"graced-{name}.socket" for name in SOCKETS), "graced-exporter.socket", "graced-rescue.timer"):
        assert machine.show(unit, "StartLimitIntervalUSec") == {"StartLimitIntervalUSec": "0"}, unit


FOUND_BY = """
import sys
text = open(sys.argv[1]).read()
assert text.endswith("main()\\n")
exec(text.removesuffix("main()\\n"))
before = ("graced.base", "graced.base.finder")
found = {name: type(one.__loader__).__name__ for name, one in sys.modules.items() if name.startswith("graced.")}
print(*sorted({loader for name, loader in found.items() if name not in before}))
"""


def test_daemons_find_their_own_modules_compiled(machine: Container) -> None:
    for name in (*DAEMONS, "actuator"):
        found = machine.run(["python3", "-IS", "-c", FOUND_BY, f"/usr/lib/graced/graced-{name}"]).ok().stdout.strip()
        assert found == "OwnFinder", name


def test_sockets_are_root_owned_where_only_root_writes(machine: Container) -> None:
    assert machine.run(["stat", "-c", "%U:%G %a", "/run/graced"]).ok().stdout.strip() == "root:root 755"
    for name, path in SOCKETS.items():
        wanted = "root:_graced 660" if name == "actuator" else "root:root 666"
        assert machine.run(["stat", "-c", "%U:%G %a", path]).ok().stdout.strip() == wanted, name
        refused = machine.run(["rm", "-f", path], user="_graced-memory")
        assert refused.returncode != 0, name


def test_who_does_not_look_at_the_host_does_not_see_it(machine: Container) -> None:
    machine.write("/srv/secret", "x")
    machine.write("/etc/graced/watch.d/README", "x")
    tree = "/usr/lib/graced/root"
    listed = machine.run(["dpkg", "-L", "graced"]).ok().stdout.splitlines()
    shipped = {path for path in listed if path.startswith(tree)}
    for name in DAEMONS:
        pid = machine.show(unit_of(name), "MainPID")["MainPID"]
        top = set(machine.run(["ls", "-A", f"/proc/{pid}/root"]).ok().stdout.split())
        assert ("srv" in top) == (name in PROBERS), name
        if name in PROBERS:
            continue
        assert top == OWN_ROOT, name
        # No device and no process in it, not even its own: nothing to hide or to make read-only.
        for empty in ("proc", "sys", *(("dev",) if name != "supervisor" else ())):
            assert machine.run(["ls", "-A", f"/proc/{pid}/root/{empty}"]).ok().stdout == "", (name, empty)
        under = set(machine.run(["ls", "-A", f"/proc/{pid}/root/var/lib"]).ok().stdout.split())
        assert under == {"graced"}, name
        # What is written to the host after the start is seen: these are the host's directories, no copies.
        assert machine.run(["cat", f"/proc/{pid}/root/etc/graced/watch.d/README"]).ok().stdout == "x", name
        for line in machine.run(["cat", f"/proc/{pid}/mountinfo"]).ok().stdout.splitlines():
            where, options = line.split()[4:6]
            if where in {"/", "/usr", "/etc", "/var/lib/graced"}:
                assert options.split(",")[0] == "ro", (name, line)
    # Every place that systemd mounts on: it makes what is missing, which fails where /usr is read-only.
    made = f"{tree}/run/systemd/notify"
    assert set(machine.run(["find", tree]).ok().stdout.split()) == shipped | {made}
    assert made not in shipped


def test_a_host_with_a_read_only_usr_starts_everything(machine: Container) -> None:
    machine.systemctl("stop", "graced.target").ok()
    # As the package leaves it, whatever an earlier start has made.
    script = "rm /usr/lib/graced/root/run/systemd/notify; /var/lib/dpkg/info/graced.postinst configure 0.1.0"
    machine.unit(["/bin/sh", "-ec", f"{script}; systemctl stop graced.target"]).ok()
    for name in DAEMONS:
        machine.wait_state(unit_of(name), "inactive")
        machine.wait_state(f"graced-{name}.socket", "inactive")
    machine.unit(["/bin/sh", "-ec", "mount --bind /usr /usr; mount -o remount,bind,ro /usr"]).ok()
    assert machine.run(["touch", "/usr/x"]).returncode != 0
    machine.systemctl("start", "graced.target").ok()
    assert all_active(machine)


def test_state_is_private_to_its_daemon(machine: Container) -> None:
    for name in DAEMONS:
        line = machine.run(["stat", "-c", "%U %a", f"/var/lib/graced/{name}"]).ok().stdout.strip()
        assert line == f"_graced-{name} 700"
    assert machine.run(["ls", "/var/lib/graced/memory"], user="_graced-code").returncode != 0
    assert machine.run(["ls", "/var/lib/graced/keys"], user="_graced-governance").returncode != 0
    assert machine.run(["stat", "-c", "%U:%G %a", "/var/lib/graced/inbox"]).stdout.strip() == (
        "_graced-librarian:_graced-admin 2770"
    )


def test_no_daemon_sees_a_home(machine: Container) -> None:
    machine.write("/home/somebody/.profile", "secret")
    machine.write("/root/.profile", "secret")
    for name in (*DAEMONS, "exporter"):
        machine.systemctl("start", unit_of(name)).ok()
        inside = ["nsenter", "--target", str(machine.pid(unit_of(name))), "--mount", "--"]
        for home in ("/home", "/root", "/run/user"):
            listed = machine.run([*inside, "ls", "-A", f"{home}/"])
            assert listed.stdout == "", f"{name}: {home}"
            if name not in (*PROBERS, "exporter"):
                assert "No such file" in listed.stderr, f"{name}: {home}"
                continue
            listed.ok()
            assert "Read-only" in machine.run([*inside, "touch", f"{home}/x"]).stderr, f"{name}: {home}"


def test_exposure_stays_under_its_limit(machine: Container) -> None:
    scores = {}
    for name in EXPOSURE:
        lines = machine.run(["systemd-analyze", "security", "--no-pager", unit_of(name)]).stdout.strip()
        scores[name] = float(lines.splitlines()[-1].split(":")[1].split()[0])
    assert {name: score for name, score in scores.items() if score > EXPOSURE[name]} == {}


def test_systemd_has_nothing_to_say_about_the_files(machine: Container) -> None:
    machine.write(
        "/etc/systemd/system/graced-watch@nginx.service.path.d/paths.conf",
        "[Path]\nPathChanged=/etc/nginx/nginx.conf\n",
    )
    units = machine.sh("cd /lib/systemd/system; ls -d graced*").ok().stdout.split()
    units = [u for u in units if "@" not in u] + [
        "graced-watch@nginx.service.path",
        "graced-watch@nginx.service.service",
    ]
    said = machine.run(["systemd-analyze", "verify", "--man=no", *units]).ok()
    assert [line for line in (said.stdout + said.stderr).splitlines() if "graced" in line] == []


def test_stop_start_and_restart_of_the_target(machine: Container) -> None:
    before = {name: machine.pid(unit_of(name)) for name in DAEMONS}
    machine.systemctl("restart", "graced.target").ok()
    machine.wait_until("all daemons back", lambda: all_active(machine))
    after = {name: machine.pid(unit_of(name)) for name in DAEMONS}
    assert not set(before.values()) & set(after.values())

    machine.systemctl("stop", "graced.target").ok()

    def left() -> list[str]:
        listed = machine.systemctl("list-units", "--state=active", "--plain", "--no-legend", "graced*").stdout
        return [line.split()[0] for line in listed.splitlines() if not line.startswith("graced.slice")]

    machine.wait_until("nothing of graced is left", lambda: left() == [])
    assert machine.sh("ls /run/graced").stdout.split() == []
    for name in DAEMONS:
        assert machine.show(unit_of(name), "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}

    machine.systemctl("start", "graced.target").ok()
    assert all_active(machine)


def test_a_start_right_after_a_stop_of_the_target_starts_everything(machine: Container) -> None:
    # `stop` returns when the target is down; its daemons are still stopping then.
    at_once = ["/bin/sh", "-ec", "systemctl stop graced.target; systemctl start graced.target"]
    for _ in range(6):
        machine.systemctl("reset-failed").ok()  # a start that waits for its stop counts several times
        machine.unit(at_once).ok()
        machine.wait_until("no job is left", lambda: machine.systemctl("list-jobs", "--no-legend").stdout == "")
        sockets = [f"graced-{name}.socket" for name in (*DAEMONS, "actuator", "exporter")]
        down = [u for u in (*map(unit_of, DAEMONS), *sockets) if machine.state(u) != "active"]
        assert down == []


@pytest.mark.parametrize("name", DAEMONS)
def test_stop_of_one_daemon_is_respected(machine: Container, name: str) -> None:
    unit = unit_of(name)
    machine.systemctl("restart", unit).ok()
    assert machine.state(unit) == "active"
    assert machine.state(f"graced-{name}.socket") == "active"

    machine.allow(r"\.socket", "io.graced")  # the others say that they miss it
    machine.systemctl("stop", unit).ok()
    machine.wait_state(f"graced-{name}.socket", "inactive")
    assert machine.show(unit, "Result", "ExecMainStatus") == {"Result": "success", "ExecMainStatus": "0"}
    # Neither a caller nor the rescue starts what the admin stopped.
    machine.run(["python3", "-c", f"import socket; socket.socket(socket.AF_UNIX).connect('{SOCKETS[name]}')"])
    machine.systemctl("start", "graced-rescue.service").ok()
    assert machine.state(unit) == "inactive"

    machine.systemctl("start", unit).ok()
    assert machine.state(f"graced-{name}.socket") == "active"


def test_reload_reaches_every_daemon_and_restarts_none(machine: Container) -> None:
    before = {name: machine.pid(unit_of(name)) for name in DAEMONS}
    machine.systemctl("reload", "graced.target").ok()
    for name in DAEMONS:
        machine.wait_journal("configuration reloaded", _SYSTEMD_UNIT=unit_of(name))
    assert {name: machine.pid(unit_of(name)) for name in DAEMONS} == before

    machine.allow("configuration refused")
    machine.write("/etc/graced/graced.toml", "[memory\n")
    machine.systemctl("reload", "graced-memory.service").ok()
    refused = machine.wait_journal("configuration refused", _SYSTEMD_UNIT=unit_of("memory"))
    assert "/etc/graced/graced.toml:1" in refused["MESSAGE"]
    assert machine.pid(unit_of("memory")) == before["memory"]


def test_kill_is_answered_with_a_new_process(machine: Container) -> None:
    for name in DAEMONS:
        unit = unit_of(name)
        pid = machine.pid(unit)
        machine.allow(f"{unit}: (Main process exited|Failed with result)")
        machine.unit(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit]).ok()
        machine.wait_until(f"{unit} is back", lambda u=unit, p=pid: machine.pid(u) not in (0, p))
        machine.wait_state(unit, "active")


def test_rescue_brings_back_what_hit_its_start_limit_once_the_cause_is_gone(machine: Container) -> None:
    unit = unit_of("memory")
    machine.allow("Failed", "Main process exited", "refuses to start", "Start request repeated", "io.graced.Memory")
    machine.systemctl("stop", unit).ok()
    program = "/usr/lib/graced/graced-memory"
    good = machine.read(program)
    machine.write(program, "#!/bin/sh\nexit 1\n", 0o755)
    machine.systemctl("start", unit)
    machine.wait_state(unit, "failed")

    # The cause is still there: tried, and failed again.
    machine.systemctl("start", "graced-rescue.service").ok()
    assert machine.wait_journal(f"trying again: .*{unit}", _SYSTEMD_UNIT="graced-rescue.service")
    machine.wait_until(
        "failed again", lambda: machine.journal(UNIT=unit, MESSAGE=f"{unit}: Start request repeated too quickly.")
    )
    machine.wait_state(unit, "failed")

    machine.write(program, good, 0o755)
    # By the timer alone, within its 30 s.
    machine.wait_state(unit, "active")
    assert machine.state("graced-memory.socket") == "active"


def test_rescue_leaves_masked_units_alone_and_says_nothing_when_idle(machine: Container) -> None:
    unit = unit_of("librarian")
    machine.allow("Failed", "Main process exited", "Start request repeated", "io.graced.Librarian")
    machine.allow_failed(unit, "graced-librarian.socket")
    machine.systemctl("start", "graced-rescue.service").ok()
    assert machine.journal(UNIT="graced-rescue.service") == []
    assert machine.journal(_SYSTEMD_UNIT="graced-rescue.service") == []

    machine.systemctl("stop", unit).ok()
    machine.write("/usr/lib/graced/graced-librarian", "#!/bin/sh\nexit 78\n", 0o755)
    machine.systemctl("start", unit)
    machine.wait_state(unit, "failed")
    machine.systemctl("mask", unit).ok()
    machine.systemctl("start", "graced-rescue.service").ok()
    assert machine.state(unit) == "failed"
    assert machine.journal(_SYSTEMD_UNIT="graced-rescue.service") == []


def test_code_asks_systemd_about_dropins_from_a_root_of_its_own(machine: Container) -> None:
    machine.allow("limits.conf:2")
    machine.write("/etc/graced/dropins/good.conf", "[Service]\nLimitNOFILE=1024\n")
    machine.write("/etc/graced/dropins/limits.conf", "[Service]\nLimitNOFLIE=1\n")
    refused = machine.wait_journal("limits.conf:2.*LimitNOFLIE", _SYSTEMD_UNIT=unit_of("code"))
    ask = "from graced.varlink.client import Client; import json\n"
    ask += f"print(json.dumps(Client('{SOCKETS['code']}', 10).call('io.graced.Code.Refused', {{}})))"
    files = machine.run(["python3", "-c", ask]).ok().json()["files"]
    assert [file["path"] for file in files] == ["/etc/graced/dropins/limits.conf"], refused


def test_bad_configuration_is_not_retried_in_a_loop(machine: Container) -> None:
    unit = unit_of("code")
    machine.allow("Failed", "Main process exited", "refuses to start", "io.graced.Code")
    machine.allow_failed(unit)
    machine.write("/etc/graced/graced.toml", "[code]\nno_such_option = 1\n")
    machine.systemctl("restart", unit)
    machine.wait_state(unit, "failed")
    assert machine.show(unit, "ExecMainStatus", "NRestarts") == {"ExecMainStatus": "78", "NRestarts": "0"}


def test_keys_are_made_once_and_again_for_a_clone(machine: Container) -> None:
    def digest() -> str:
        return machine.sh("cat /var/lib/graced/keys/*.key | sha256sum").ok().stdout

    first = digest()
    machine.systemctl("start", "graced-keys.service").ok()
    assert machine.show("graced-keys.service", "ConditionResult") == {"ConditionResult": "no"}, "no process at boot"
    assert digest() == first
    machine.allow("lost", "restored")
    machine.unit(["rm", "/var/lib/graced/keys/governance.key"]).ok()
    machine.systemctl("start", "graced-keys.service").ok()
    assert digest() == first, "the lost file came back from its record"
    machine.allow("machine.id", "clone", "copy of another host")
    machine.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444)
    machine.systemctl("daemon-reexec").ok()
    machine.systemctl("start", "graced-keys.service").ok()
    assert digest() != first
    machine.systemctl("start", "graced-keys.service").ok()
    assert machine.show("graced-keys.service", "ConditionResult") == {"ConditionResult": "no"}


def test_a_watched_path_tells_infrastructure(machine: Container) -> None:
    machine.systemctl("start", "nginx.service").ok()
    machine.run(["gracectl", "adopt", "nginx"]).ok()
    watch = "graced-watch@nginx.service.service"
    assert machine.state("graced-watch@nginx.service.path") == "active"
    for _ in range(2):
        before = machine.show(watch, "InvocationID")["InvocationID"]
        machine.unit(["touch", "/etc/nginx/nginx.conf"]).ok()
        machine.wait_until("the watch ran", lambda b=before: machine.show(watch, "InvocationID")["InvocationID"] != b)
        machine.wait_state(watch, "inactive")
        assert machine.show(watch, "ExecMainStatus")["ExecMainStatus"] == "0"


def test_every_account_is_its_own(machine: Container) -> None:
    uids = {machine.run(["id", "-u", f"_graced-{name}"]).ok().stdout.strip() for name in (*DAEMONS, "exporter")}
    assert len(uids) == len(DAEMONS) + 1
    running = json.loads(machine.run(["systemctl", "show", "-P", "MainPID", unit_of("memory")]).ok().stdout)
    assert machine.run(["cat", f"/proc/{running}/environ"], user="_graced-code").returncode != 0
    assert machine.run(["kill", "-0", str(running)], user="_graced-code").returncode != 0
