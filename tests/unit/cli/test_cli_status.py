"""gracectl status: unknown is never healthy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import HostError
from graced.cli import units
from graced.cli.health import Answers, summarise
from graced.cli.units import UnitState, escape, parse_show, service_name, unit_state
from graced.model.daemons import KERNELS
from graced.varlink.wire import VarlinkError

FIELDS = {"name", "state", "pid", "ready_ms", "restarts", "watchdog_resets", "last_error"}


def test_healthy(ctl, graced, systemd) -> None:
    result = ctl("status", "--json=short")
    status = result.json
    assert result.exit_code == 0
    assert status["overall"] == "healthy"
    assert [row["name"] for row in status["kernels"]] == list(KERNELS)
    assert all(set(row) == FIELDS for row in status["kernels"])
    assert status["kernels"][0]["ready_ms"] == pytest.approx(123.4)
    assert status["kernels"][0]["pid"] == 100
    assert (status["paused"], status["open_incidents"], status["adopted"]) == (False, 0, [])


def test_keys_in_the_open_are_said(ctl, graced, systemd) -> None:
    graced.answers["Supervisor.Status"] = {"state": "running", "reasons": [], "keys": "development-file"}
    status = ctl("status", "--json=short").json
    assert status["overall"] == "degraded"
    assert any("plain 0600 files" in reason for reason in status["reasons"])


def test_human_output_begins_with_the_sentence(ctl, graced, systemd) -> None:
    result = ctl("status")
    assert result.stdout.splitlines()[0] == "graced is healthy: all 8 daemons run, no adopted units, no open incidents."
    assert "supervisor" in result.stdout


def test_a_failed_kernel_is_degraded(ctl, graced, systemd) -> None:
    systemd["graced-memory.service"] |= {"ActiveState": "failed", "Result": "signal", "MainPID": "0"}
    result = ctl("status", "--json=short")
    status = result.json
    assert (result.exit_code, status["overall"]) == (3, "degraded")
    assert "graced-memory is failed" in status["reasons"]
    memory = status["kernels"][KERNELS.index("memory")]
    assert (memory["pid"], memory["ready_ms"]) == (None, None)


def test_trouble_on_an_adopted_unit_is_not_healthy() -> None:
    """A failed unit or an open incident degrades the whole; an observation alone does not."""
    rows = [{"name": name, "watchdog_resets": 0} for name in KERNELS]
    running = UnitState("", "loaded", "active", "running", "success", 1, 0, 1.0)
    states = {f"graced-{name}.service": running for name in KERNELS}
    base = Answers(
        units=states, kernels=rows, supervisor={"state": "running"}, governance={"paused": False}, adopted=[]
    )
    incident = {"id": "incident_7", "unit": "nginx.service", "finding": "start.slow", "outcome": "observed"}
    assert summarise(base)["overall"] == "healthy"
    assert summarise(base.replace(incidents=[incident]))["overall"] == "healthy"
    broken = summarise(base.replace(incidents=[{**incident, "finding": "unit.hung", "outcome": "failed"}]))
    assert broken["reasons"] == ["incident_7 is open (failed): unit.hung on nginx.service"]
    adopted = [{"unit": "nginx.service", "profile": "nginx", "tier": 3}]
    failed = {**states, "nginx.service": states["graced-code.service"].replace(state="failed")}
    assert summarise(base.replace(units=failed, adopted=adopted))["reasons"] == ["nginx.service is failed"]
    assert summarise(base.replace(adopted=adopted))["reasons"] == ["nginx.service is unknown"]


def test_nothing_runs(ctl, run, systemd) -> None:
    systemd.clear()
    result = ctl("status", "--json=short")
    assert (result.exit_code, result.json["overall"]) == (4, "not-running")


def test_active_but_silent_daemons_are_not_healthy(ctl, run, systemd) -> None:
    result = ctl("status", "--json=short")
    status = result.json
    assert (result.exit_code, status["overall"]) == (3, "degraded")
    assert {row["watchdog_resets"] for row in status["kernels"]} == {None}
    assert (status["paused"], status["open_incidents"]) == (None, None)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("Infrastructure.Kernels", VarlinkError("io.graced.Infrastructure.PermissionDenied", {"needed": ["read"]})),
        ("Infrastructure.Kernels", {"kernels": []}),
        ("Infrastructure.Kernels", {"kernels": [{"name": "memory", "watchdog_resets": None}]}),
        ("Supervisor.Status", {"state": "degraded", "reasons": ["the ledger is full"]}),
        ("Supervisor.Status", {"state": "paused", "reasons": []}),
        ("Governance.State", {"paused": True}),
        ("Governance.State", {"paused": False, "unusable": "/etc/graced/policy.d/a.toml:1: no"}),
        ("Code.Refused", VarlinkError("io.graced.Code.Unavailable", {"reason": "no"})),
        ("Governance.State", VarlinkError("io.graced.Governance.Unavailable", {"reason": "no"})),
        ("Memory.Incidents", VarlinkError("io.graced.Memory.Unavailable", {"reason": "disk"})),
        ("HTM.Stats", VarlinkError("io.graced.HTM.Unavailable", {"reason": "disk"})),
        ("HTM.Stats", {"stats": {"modes": {"heal": {"mode": "paused", "reason": "later"}}}}),
        ("HTM.Stats", {"stats": {"modes": {"*": {"mode": "drained", "reason": "later"}}}}),
    ],
)
def test_anything_unknown_or_wrong_is_degraded(ctl, graced, systemd, method: str, answer) -> None:
    graced.answers[method] = answer
    result = ctl("status", "--json=short")
    status = result.json
    assert (result.exit_code, status["overall"]) == (3, "degraded")
    assert status["reasons"]


def test_a_held_handler_of_the_admins_own_is_shown_and_no_trouble(ctl, graced, systemd) -> None:
    graced.answers["HTM.Stats"] = {"stats": {"modes": {"backup": {"mode": "paused", "reason": "later"}}}}
    result = ctl("status", "--json=short")
    assert (result.exit_code, result.json["held"]) == (0, [{"handler": "backup", "mode": "paused", "reason": "later"}])


def test_refused_files_are_named_with_line_and_what_counts_instead(ctl, graced, systemd) -> None:
    one = {"path": "/etc/graced/playbooks/a.toml", "errors": [{"line": 3, "message": "no"}], "running_digest": "x"}
    files = [one, {**one, "path": "/etc/graced/profiles/b.toml", "running_digest": None}]
    graced.answers["Code.Refused"] = {"files": files}
    result = ctl("status", "--json=short")
    assert (result.exit_code, result.json["refused_files"]) == (3, [file["path"] for file in files])
    assert result.json["reasons"] == [
        "/etc/graced/playbooks/a.toml:3: no; the version that passed counts",
        "/etc/graced/profiles/b.toml:3: no; nothing counts in its place",
    ]
    graced.answers["Code.Refused"] = {"files": files * 3}
    assert ctl("status", "--json=short").json["reasons"][-1] == "6 files are refused: gracectl config check"


def test_what_waits_for_a_person_is_shown_and_no_trouble(ctl, graced, systemd) -> None:
    graced.answers["Governance.State"] = {"paused": False, "approvals_open": 2}
    result = ctl("status")
    assert (result.exit_code, "2 repairs wait for a person: gracectl approvals" in result.stdout) == (0, True)
    assert ctl("status", "--json=short").json["approvals_open"] == 2


def test_adopted_units_are_shown_with_their_state(ctl, graced, systemd, run) -> None:
    (run / "etc/watch.d").mkdir()
    (run / "etc/watch.d/nginx.toml").write_text('unit = "nginx.service"\nprofile = "nginx"\ntier = 3\n')
    systemd["nginx.service"] = {"LoadState": "loaded", "ActiveState": "active"}
    assert ctl("status", "--json=short").json["adopted"] == [
        {
            "unit": "nginx.service",
            "profile": "nginx",
            "tier": 3,
            "state": "active",
            "tier_now": None,
            "failures": None,
        }
    ]
    assert "nginx    unknown of 3" in ctl("status").stdout
    for now, shown in ((2, "nginx    2 of 3"), (3, "nginx    3")):
        units = [{"unit": "nginx.service", "tier": now, "failures": 3 * (now < 3)}]
        graced.answers["Governance.State"] = {"paused": False, "units": units}
        assert ctl("status").stdout.splitlines()[-1].endswith(shown)
    assert ctl("status", "--json=short").json["adopted"][0]["failures"] == 0


def test_a_broken_watch_file_is_degraded(ctl, graced, systemd, run) -> None:
    (run / "etc/watch.d").mkdir()
    (run / "etc/watch.d/nginx.toml").write_text("unit = 7\n")
    result = ctl("status", "--json=short")
    assert result.exit_code == 3
    assert result.json["adopted"] is None


def test_without_systemd_it_says_so(ctl, run, monkeypatch) -> None:
    def refuse(_arguments):
        raise HostError("systemctl show failed: no bus", hint="boot it")

    monkeypatch.setattr(units, "systemctl", refuse)
    result = ctl("status")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no bus" in result.stderr


@given(st.lists(st.sampled_from(["active", "failed", "inactive", "activating", "unknown"]), min_size=8, max_size=8))
def test_healthy_needs_every_kernel(states: list[str]) -> None:
    known = {
        f"graced-{name}.service": unit_state({"Id": f"graced-{name}.service", "ActiveState": state, "MainPID": "1"})
        for name, state in zip(KERNELS, states, strict=True)
    }
    rows = [{"name": name, "watchdog_resets": 0} for name in KERNELS]
    answers = Answers(units=known, kernels=rows, supervisor={"state": "running"}, governance={"paused": False})
    healthy = summarise(answers)["overall"] == "healthy"
    assert healthy == (set(states) == {"active"})


@given(st.text(max_size=400))
def test_any_text_of_systemctl_is_survived(text: str) -> None:
    for block in parse_show(text):
        unit_state(block)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("nginx.service", "nginx.service"),
        ("redis-server.service", r"redis\x2dserver.service"),
        (".x", r"\x2ex"),
        ("a@b/c:_d", r"a\x40b-c:_d"),
        ("é", r"\xc3\xa9"),
    ],
)
def test_escape_is_systemd_escape(name: str, escaped: str) -> None:
    assert escape(name) == escaped


@pytest.mark.parametrize(("name", "full"), [("nginx", "nginx.service"), ("a.b", "a.b.service"), ("x.service",) * 2])
def test_service_name(name: str, full: str) -> None:
    assert service_name(name) == full


@pytest.mark.parametrize("name", ["", "x.socket", "a/b", "-x", "x y", "../x", "x\n", "a" * 300])
def test_what_is_no_service_name(name: str) -> None:
    with pytest.raises(HostError):
        service_name(name)
