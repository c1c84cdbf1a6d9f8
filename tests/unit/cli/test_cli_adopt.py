"""adopt is all or nothing; release undoes it; config check tells every mistake."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graced.base.errors import HostError
from graced.cli import adoption
from graced.cli.checks import check_all
from graced.cli.commands import adopt as adopt_command
from graced.cli.watches import watch_name, watched_paths
from graced.varlink.wire import VarlinkError

PROFILE = """\
unit = "redis-server.service"
[config]
paths = ["/etc/redis/redis.conf", "/etc/redis/conf.d/*.conf"]
[heal]
playbooks = ["restart-unit"]
"""
ESCAPED = r"graced-watch@redis\x2dserver.service.path"


class FakeHost:
    """Remembers what adopt does to the host; fails at the named step."""

    def __init__(self, root: Path) -> None:
        self.systemd_dir = root / "systemd"
        self.systemd_dir.mkdir()
        self.done: list[str] = []
        self.fail_at = ""
        self.copied = [{"path": "/etc/redis/redis.conf"}]
        self.hands = adoption.Hands(systemctl=self._systemctl, call=self._call, systemd_dir=str(self.systemd_dir))

    def _note(self, what: str) -> None:
        self.done.append(what)
        if self.fail_at and what.startswith(self.fail_at):
            raise HostError(f"{what} failed", hint="look")

    def _systemctl(self, arguments) -> str:
        self._note(" ".join(arguments))
        return ""

    def _call(self, method: str, parameters: dict) -> dict:
        self._note(f"{method} {parameters['unit']}")
        return {"digest": {"lkg": {"taken_at": "now"}, "files": self.copied}}


@pytest.fixture
def host(run, systemd, monkeypatch):
    (run / "share/profiles").mkdir()
    (run / "share/profiles/redis-server.toml").write_text(PROFILE)
    systemd["redis-server.service"] = {"LoadState": "loaded", "ActiveState": "active", "MainPID": "9"}
    fake = FakeHost(run)
    monkeypatch.setattr(adopt_command, "hands", lambda: fake.hands)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return fake


def tree(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_adopt_writes_everything_and_release_takes_it_away(ctl, host, run) -> None:
    before = tree(run)
    adopted = ctl("adopt", "redis-server", "--tier", "2")
    assert adopted.exit_code == 0, adopted.stderr
    assert "tier 2" in adopted.stderr
    watch = run / "etc/watch.d/redis-server.toml"
    assert 'unit = "redis-server.service"' in watch.read_text()
    assert stat.S_IMODE(watch.stat().st_mode) == 0o644
    drop_in = host.systemd_dir / f"{ESCAPED}.d/paths.conf"
    assert drop_in.read_text().splitlines()[1:] == [
        "[Path]",
        "PathChanged=/etc/redis/redis.conf",
        "PathChanged=/etc/redis/conf.d",
    ]
    assert host.done[:4] == [
        "daemon-reload",
        f"enable --quiet {ESCAPED}",
        f"restart {ESCAPED}",
        "io.graced.Actuator.Snapshot redis-server.service",
    ]
    host.done.clear()
    assert ctl("release", "redis-server.service").exit_code == 0
    assert tree(run) == before
    assert not list(host.systemd_dir.iterdir())
    assert f"disable --now --quiet {ESCAPED}" in host.done
    assert "io.graced.Actuator.Forget redis-server.service" in host.done


def test_a_service_without_configuration_is_adopted_too(ctl, host, run) -> None:
    assert ctl("adopt", "redis-server").exit_code == 0
    before = tree(run)
    (run / "etc/profiles").mkdir(exist_ok=True)
    mine = run / "etc/profiles/redis-server.toml"
    mine.write_text('unit = "redis-server.service"\n[heal]\nplaybooks = ["restart-unit"]\n')
    host.copied, host.fail_at = [], "io.graced.Actuator.Snapshot"
    assert ctl("adopt", "redis-server", "--refresh").exit_code == 1
    assert host.done[-2] == f"enable --now --quiet {ESCAPED}"
    assert tree(run) == {**before, "etc/profiles/redis-server.toml": mine.read_text()}
    host.done.clear()
    host.fail_at = ""
    adopted = ctl("adopt", "redis-server", "--refresh")
    assert adopted.exit_code == 0, adopted.stderr
    assert "watches:      no files" in adopted.stderr
    assert "last-known-good copy: none, the profile names no configuration" in adopted.stderr
    assert host.done[:3] == [
        f"disable --now --quiet {ESCAPED}",
        "daemon-reload",
        "io.graced.Actuator.Snapshot redis-server.service",
    ]
    assert not (host.systemd_dir / f"{ESCAPED}.d/paths.conf").exists()


@pytest.mark.parametrize("verb", ["adopt", "release"])
def test_one_adoption_at_a_time(ctl, host, run, monkeypatch, verb: str) -> None:
    if verb == "release":
        assert ctl("adopt", "redis-server").exit_code == 0
        host.done.clear()
    waits = threading.Event()
    monkeypatch.setattr(adopt_command, "say", lambda text: waits.set() if "Waiting" in text else None)
    with ThreadPoolExecutor(1) as pool:
        with adoption.alone(str(run / "etc"), print):
            other = pool.submit(ctl, verb, "redis-server")
            assert waits.wait(30)
            assert host.done == []
        assert other.result(30).exit_code == 0
    assert host.done != []


@pytest.mark.parametrize("step", ["daemon-reload", "enable", "restart", "io.graced.Actuator.Snapshot", "try-reload"])
def test_a_failed_adoption_leaves_nothing(ctl, host, run, step: str) -> None:
    before = tree(run)
    host.fail_at = step
    failed = ctl("adopt", "redis-server")
    assert failed.exit_code == 1
    assert "was not adopted" in failed.stderr
    assert tree(run) == before
    assert not list(host.systemd_dir.iterdir())


def test_a_failed_refresh_leaves_the_old_adoption(ctl, host, run) -> None:
    assert ctl("adopt", "redis-server", "--tier", "1").exit_code == 0
    before = tree(run)
    host.fail_at = "io.graced.Actuator.Snapshot"
    assert ctl("adopt", "redis-server", "--refresh", "--tier", "3").exit_code == 1
    assert tree(run) == before
    host.fail_at = ""
    assert ctl("adopt", "redis-server", "--refresh").exit_code == 0
    assert "tier = 1" in (run / "etc/watch.d/redis-server.toml").read_text()


def test_an_actuator_that_took_no_copy_is_a_failure(ctl, host, run, monkeypatch) -> None:
    hands = host.hands.replace(call=lambda _method, _parameters: {"digest": {"lkg": None}})
    monkeypatch.setattr(adopt_command, "hands", lambda: hands)
    assert ctl("adopt", "redis-server").exit_code == 1
    assert not (run / "etc/watch.d/redis-server.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["adopt", "nothing"], "no profile is for nothing.service"),
        (["adopt", "redis-server", "--profile", "x"], "there is no profile x"),
        (["adopt", "systemd-journald"], "deny list"),
        (["adopt", "dbus"], "deny list"),
        (["adopt", "graced-memory"], "deny list"),
        (["adopt", "x.timer"], "only services"),
        (["adopt", "redis-server", "--refresh"], "nothing to refresh"),
        (["release", "redis-server"], "is not adopted"),
    ],
)
def test_refusals(ctl, host, run, arguments: list[str], words: str) -> None:
    before = tree(run)
    refused = ctl(*arguments)
    assert (refused.exit_code, refused.stdout, host.done) == (1, "", [])
    assert words in refused.stderr
    assert tree(run) == before
    if "profile" in words:
        assert "redis-server" in refused.stderr


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"LoadState": "not-found"}, "there is no unit"),
        ({"LoadState": "masked"}, "is masked"),
        ({"LoadState": "loaded", "ActiveState": "failed"}, "is failed"),
        ({"LoadState": "loaded", "ActiveState": "active", "Id": "redis.service"}, "another name"),
    ],
)
def test_only_a_serving_unit_is_adopted(ctl, host, systemd, state: dict, words: str) -> None:
    systemd["redis-server.service"] = state
    refused = ctl("adopt", "redis-server")
    assert refused.exit_code == 1
    assert words in refused.stderr
    assert host.done == []


def test_adopting_needs_root(ctl, host, monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for arguments in (["adopt", "redis-server"], ["release", "redis-server"]):
        refused = ctl(*arguments)
        assert (refused.exit_code, host.done) == (1, [])
        assert "sudo" in refused.stderr


def test_adopting_twice_is_refused(ctl, host) -> None:
    assert ctl("adopt", "redis-server").exit_code == 0
    assert "--refresh" in ctl("adopt", "redis-server").stderr


def test_release_tells_what_it_could_not_do_and_does_the_rest(ctl, host, run) -> None:
    assert ctl("adopt", "redis-server").exit_code == 0
    host.fail_at = "disable"
    left = ctl("release", "redis-server")
    assert left.exit_code == 1
    assert "disable" in left.stderr
    assert not (run / "etc/watch.d/redis-server.toml").exists()


def test_remote_refusals_reach_the_person(ctl, host, monkeypatch) -> None:
    def refuse(_method, _parameters):
        raise VarlinkError("io.graced.Actuator.Refused", {"reason": "writable", "detail": "uid 33 may write it"})

    monkeypatch.setattr(adopt_command, "hands", lambda: host.hands.replace(call=refuse))
    assert "writable" in ctl("adopt", "redis-server").stderr


def test_watch_names_are_names_and_never_shared() -> None:
    assert watch_name("redis-server.service") == "redis-server"
    names = {watch_name(f"{stem}.service") for stem in ("a-b", "a.b", "a_b", "A-b", "a@b", "@", r"a\x2db")}
    assert len(names) == 7


def test_globs_watch_their_directory() -> None:
    assert watched_paths(("/etc/a/b.conf", "/etc/a/*.conf", "/etc/a/x?")) == ["/etc/a/b.conf", "/etc/a"]


def test_config_check_reports_everything_with_lines(run) -> None:
    from graced.base.paths import Paths
    from graced.exporter.main import OPTIONS

    etc = run / "etc"
    for name in ("profiles", "playbooks", "watch.d", "policy.d"):
        (etc / name).mkdir()
    (etc / "graced.toml").write_text('[exporter]\nask_timeout = "1w"\nnonsense = 1\n[nobody]\n')
    (etc / "profiles/redis.toml").write_text(PROFILE)
    (etc / "playbooks/bad.toml").write_text('description = "x"\nrisk = "no"\n')
    (etc / "playbooks/syntax.toml").write_text("a = \n")
    (etc / "policy.d/bad.toml").write_text("[[rule]]\neffect = 7\n")
    (etc / "watch.d/a.toml").write_text('unit = "x.service"\nprofile = "gone"\ntier = 3\n')
    (etc / "watch.d/b.toml").write_text('unit = "x.service"\nprofile = "redis"\ntier = 3\n')
    problems, count = check_all(Paths(), OPTIONS)
    text = "\n".join(map(str, problems))
    for words in (
        "graced.toml:2: exporter.ask_timeout",
        "graced.toml:3: exporter.nonsense",
        "graced.toml:4: [nobody]",
        "playbooks/bad.toml:2: risk",
        "playbooks/syntax.toml:1: ",
        "policy.d/bad.toml:",
        "there is no playbook restart-unit",
        "there is no profile gone",
        "redis is for redis-server.service, not x.service",
        "x.service is also in",
    ):
        assert words in text
    assert count == 7


def test_the_shipped_files_are_well(run, monkeypatch) -> None:
    from graced.base.paths import Paths

    monkeypatch.setenv("GRACED_SHARE", str(Path(__file__).resolve().parents[3] / "graced/share"))
    assert check_all(Paths(), ())[0] == []


def test_the_options_of_every_daemon_are_known() -> None:
    from graced.cli.checks import DAEMON_MODULES, all_options

    options = all_options()
    assert {"exporter", "infrastructure", "healing"} <= {option.section for option in options}
    assert len({(option.section, option.name) for option in options}) == len(options)
    assert len(DAEMON_MODULES) == 10
