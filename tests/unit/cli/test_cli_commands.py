"""All other verbs: what they ask, what they print, how they fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.cli import output
from graced.cli.commands import log as log_command
from graced.cli.commands.pause import MAX_PAUSE_SECONDS, parse_duration
from graced.cli.completion import bash, commands, options_of, zsh
from graced.cli.main import COMMANDS, gracectl
from graced.varlink.wire import VarlinkError

ROOT = Path(__file__).resolve().parents[3]
EVERY = [name for name, _ in commands(gracectl, click.Context(gracectl))]

INCIDENT = {
    "id": "incident_7",
    "intent_id": "intent_7",
    "task_id": "task_9",
    "unit": "nginx.service",
    "finding": "config.damaged",
    "severity": "high",
    "opened_at": "2026-11-22T15:04:05.123Z",
    "closed_at": "2026-11-22T15:04:05.463Z",
    "playbook": "restore-config",
    "outcome": "healed",
    "detect_ms": 4.0,
    "heal_ms": 340.0,
    "verified_by": "verification",
    "reason": "",
    "evidence": {},
}
TASK = {
    "id": "task_9",
    "state": "done",
    "priority": "high",
    "handler": "heal",
    "task_type": "remediate",
    "origin": "supervisor",
    "intent_id": "intent_7",
    "deadline_at": "2026-11-22T15:09:05.123Z",
    "attempts": 1,
    "error": None,
    "context": {
        "unit": "nginx.service",
        "incident_id": "incident_7",
        "playbooks": ["restore-config"],
        "why": {"reasoning": "nginx lost its config", "lessons": ["restore-config helped 2 of 2 times"]},
    },
}
EVENTS = [{"at": "2026-11-22T15:04:05.130Z", "kind": "submitted", "attempt": 0, "detail": None}]


def entry(seq: int, kind: str, **data: object) -> dict:
    stamp = f"2026-11-22T15:04:05.{seq:03d}Z"
    return {"seq": seq, "time": stamp, "kind": kind, "actor": "governance", "data": data, "signature": "x"}


ENTRIES = [
    entry(1, "finding", unit="nginx.service", finding="config.damaged"),
    entry(2, "decision", effect="allow", rule="tier3", reason="within tier", plan={"playbook": "restore-config"}),
    entry(3, "warrant", playbook="restore-config", steps=[0, 1], tier=3),
    entry(4, "step", act={"steps": [{"verb": "restart", "ok": True, "duration_ms": 53.0}], "rejected": ["/r/x"]}),
    entry(5, "verdict", healthy=True, better=True, reasons=["it answers again"]),
]


@pytest.fixture
def story(graced):
    graced.answers |= {
        "Memory.Incident": {"incident": INCIDENT},
        "Memory.Incidents": {"incidents": [INCIDENT]},
        "HTM.Get": {"task": TASK, "events": EVENTS},
        "HTM.List": {"tasks": [TASK]},
        "Ledger.Find": {"entries": ENTRIES},
    }
    return graced


def test_incidents(ctl, story) -> None:
    [row] = ctl("incidents", "--json=short", "nginx", "--open").json
    needed = [
        "id",
        "unit",
        "finding",
        "opened_at",
        "closed_at",
        "playbook",
        "outcome",
        "detect_ms",
        "heal_ms",
        "verified_by",
    ]
    assert {name: row[name] for name in needed} == {name: INCIDENT[name] for name in needed}
    assert story.calls == [("io.graced.Memory.Incidents", {"unit": "nginx.service", "open_only": True, "limit": 50})]
    assert "340 ms" in ctl("incidents").stdout


def test_no_incidents_is_an_empty_list(ctl, graced) -> None:
    assert ctl("incidents", "--json=short").json == []
    human = ctl("incidents")
    assert (human.stdout, human.stderr) == ("", "No incidents.\n")


def test_tasks_and_task(ctl, story) -> None:
    assert ctl("tasks", "--state", "done", "--json=short").json == [TASK]
    assert story.calls[-1] == ("io.graced.HTM.List", {"state": "done", "limit": 50})
    assert "nginx.service" in ctl("tasks").stdout
    assert ctl("task", "task_9", "--json=short").json == {"task": TASK, "events": EVENTS}
    assert "submitted" in ctl("task", "task_9").stdout


@pytest.mark.parametrize("ident", ["task_9", "incident_7"])
def test_explain_tells_the_story(ctl, story, ident: str) -> None:
    told = ctl("explain", ident)
    assert told.exit_code == 0
    for words in (
        "healed with restore-config 340 ms after the fault, verified by verification",
        "Why: nginx lost its config",
        "restore-config helped 2 of 2 times",
        "allowed by rule tier3: within tier",
        "restart done in 53 ms",
        "/r/x",
        "Verified: healthy, better than before: it answers again",
    ):
        assert words in told.stdout
    assert [one["seq"] for one in ctl("explain", ident, "--json=short").json["entries"]] == [1, 2, 3, 4, 5]


def test_explain_follows_a_story_into_the_archive_and_no_further(ctl, story) -> None:
    """Older pages are asked for until the finding that began it; without one, until there are no more."""

    def find(asked):
        before = asked.get("before") or 9
        found = [one for one in ENTRIES if before - 2 <= one["seq"] < before]
        return {"entries": found, "truncated": before > 1, "next": before - 2 if before > 1 else None}

    story.answers["Ledger.Find"] = find
    told = ctl("explain", "incident_7", "--json=short").json
    assert [one["seq"] for one in told["entries"]] == [1, 2, 3, 4, 5]
    asked = [parameters for method, parameters in story.calls if method == "io.graced.Ledger.Find"]
    assert [one.get("before") for one in asked if "intent_id" in one] == [None, 7, 5, 3]
    assert [one.get("before") for one in asked if "task_id" in one] == [None, 7, 5, 3]


def test_explain_says_what_is_missing(ctl, story) -> None:
    story.answers["Ledger.Find"] = VarlinkError("io.graced.Ledger.Unavailable", {"reason": "the disk is full"})
    told = ctl("explain", "incident_7")
    assert "The ledger has no entry about this." in told.stdout
    assert "the disk is full" in told.stdout


@pytest.mark.parametrize("outcome", ["failed", "refused"])
def test_explain_of_what_was_not_healed_says_where_to_read_on(ctl, story, outcome: str) -> None:
    story.answers["Memory.Incident"]["incident"] = {**INCIDENT, "unit": r"a\x2db.service", "outcome": outcome}
    told = ctl("explain", "incident_7").stdout
    assert r"journalctl --since '2026-11-22 15:03:55 UTC' -u 'a\x2db.service'" in told
    story.answers["Memory.Incident"]["incident"] = {**INCIDENT, "outcome": outcome, "opened_at": "soon"}
    assert "journalctl" not in ctl("explain", "incident_7").stdout


def test_explain_of_something_else_is_a_usage_error(ctl, graced) -> None:
    assert ctl("explain", "nginx").exit_code == 2


def test_submit(ctl, graced, tmp_path) -> None:
    graced.answers["HTM.Submit"] = {"task_id": "task_1", "deduplicated": False}
    file = tmp_path / "context.json"
    file.write_text('{"a": 1}')
    done = ctl("submit", "mail", "send", "--context", f"@{file}", "--sla", "5m", "--delay", "10s", "--key", "k")
    assert done.stdout == "task_1\n"
    wanted = {"handler": "mail", "task_type": "send", "context": {"a": 1}, "sla_seconds": 300, "delay_seconds": 10}
    assert graced.calls == [("io.graced.HTM.Submit", {**wanted, "idempotency_key": "k"})]


@pytest.mark.parametrize("context", ["[1]", "nonsense", "@/nowhere"])
def test_submit_refuses_a_bad_context(ctl, graced, context: str) -> None:
    refused = ctl("submit", "mail", "send", "--context", context)
    assert (refused.exit_code, refused.stdout, graced.calls) == (1, "", [])


def test_pause_and_resume(ctl, graced) -> None:
    graced.answers |= {"Governance.Pause": {"until_boottime_us": 7}, "Governance.Resume": {}}
    assert "for 1 h 30 min" in ctl("pause", "1h30m", "--reason", "upgrade").stderr
    assert ctl("resume").exit_code == 0
    assert graced.calls == [
        ("io.graced.Governance.Pause", {"duration_seconds": 5400, "reason": "upgrade"}),
        ("io.graced.Governance.Resume", {}),
    ]


def test_reset(ctl, graced) -> None:
    graced.answers["Governance.Reset"] = {"tier": 3, "failures": 4}
    done = ctl("reset", "nginx", "--reason", "certificate")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "4 futile repairs of nginx.service forgotten; its tier is 3" in done.stderr
    assert graced.calls == [("io.graced.Governance.Reset", {"unit": "nginx.service", "reason": "certificate"})]
    assert "only services" in ctl("reset", "nginx.socket").stderr


def test_a_pause_without_the_end_that_was_asked_for_is_a_failure(ctl, graced) -> None:
    graced.answers["Governance.Pause"] = {"until_boottime_us": None}
    assert ctl("pause", "1h").exit_code == 1
    assert ctl("pause").exit_code == 0


@pytest.mark.parametrize("text", ["", "1w", "h", "-1h", "0s", "1.5h", "1h 3m", "999999999d", "1h3"])
def test_bad_durations(ctl, run, text: str) -> None:
    refused = ctl("pause", "--", text)
    assert refused.exit_code == 2
    assert "90s, 15m, 2h or 1d" in refused.stderr or "between" in refused.stderr


@given(st.text(max_size=12) | st.from_regex(r"[0-9]{1,12}[smhd]{0,3}"))
def test_a_duration_is_bounded_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 1 <= seconds <= MAX_PAUSE_SECONDS


def test_search_and_plan(ctl, graced) -> None:
    graced.answers["Memory.Search"] = {"hits": [{"title": "nginx(8)", "snippet": "the master process"}]}
    graced.answers["Healing.Plan"] = {"candidates": [{"playbook": "restart", "fits": True, "reason": "worked before"}]}
    assert "the master process" in ctl("search", "master", "process").stdout
    assert graced.calls[-1][1] == {"query": "master process", "limit": 10}
    assert "worked before" in ctl("plan", "nginx", "unit.failed").stdout


def test_version_tells_when_another_one_runs(ctl, graced) -> None:
    graced.answers["Supervisor.Status"] = {"version": "9.9"}
    assert "9.9" in ctl("version").stdout
    assert ctl("version", "--json=short").json["running"] == "9.9"


def test_log_trusts_only_the_actuator_about_other_units() -> None:
    assert log_command.journal_argv("nginx.service", ["--follow"]) == [
        "journalctl",
        "--follow",
        "_UID=0",
        "_SYSTEMD_UNIT=graced-actuator.service",
        "OBJECT_SYSTEMD_UNIT=nginx.service",
    ]
    assert "--unit=graced-healing.service" in log_command.journal_argv(None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (VarlinkError("io.graced.HTM.NoSuchTask", {"task_id": "task_5"}), "there is no task task_5"),
        (VarlinkError("io.graced.HTM.PermissionDenied", {"method": "Get", "needed": ["read"]}), "_graced-read"),
        (VarlinkError("io.graced.HTM.Busy", {"reason": "full", "retry_after_ms": 5}), "5 ms"),
        (VarlinkError("io.graced.HTM.InvalidRequest", {"reason": "\x1b[31mred"}), "red"),
    ],
)
def test_remote_errors_are_sentences(ctl, graced, error: VarlinkError, words: str) -> None:
    graced.answers["HTM.Get"] = error
    failed = ctl("task", "task_5")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert words in failed.stderr
    assert "because" not in failed.stderr
    assert "because" in ctl("task", "task_5", "--verbose").stderr
    assert "because" in ctl("--verbose", "task", "task_5").stderr


@pytest.mark.parametrize(
    "verb",
    [
        *["incidents", "tasks", "tasks --follow", "pause", "resume", "task x", "task x --follow", "tree x", "why x"],
        *[
            "pause --handler x",
            "resume --handler x",
            "drain --handler x",
            "cancel x",
            "requeue x",
            "requeue --all-dead",
        ],
        *["submit x y", "submit x y --wait", "top", "search x", "plan x unit.failed"],
    ],
)
def test_a_daemon_that_is_not_there(ctl, run, verb: str) -> None:
    failed = ctl(*verb.split())
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert str(run) in failed.stderr
    assert "next: " in failed.stderr


def test_wrong_usage_is_2(ctl) -> None:
    for arguments in (["nonsense"], ["status", "--json=x"], ["task"], ["tasks", "--state", "x"], ["audit", "x"]):
        assert ctl(*arguments).exit_code == 2


@pytest.mark.parametrize("name", EVERY)
def test_every_command_has_help(ctl, name: str) -> None:
    told = ctl(*name.split(), "--help")
    assert told.exit_code == 0
    assert len(told.stdout) > 100


def test_reading_verbs_take_json() -> None:
    context = click.Context(gracectl)
    reading = "status incidents tasks task tree why top explain plan search version|config check|audit verify".replace(
        " ", "|"
    )
    reading = reading.replace("config|check", "config check").replace("audit|verify", "audit verify")
    by_name = dict(commands(gracectl, context))
    for name in reading.split("|"):
        assert any("--json" in option.opts for option in options_of(by_name[name])), name


def test_no_color_and_dumb_terminals_are_respected(monkeypatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for name in ("NO_COLOR", "SYSTEMD_COLORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.paint("x", "bad") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.paint("x", "bad") == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert output.paint("x", "bad") == "x"


@given(st.lists(st.tuples(st.text(max_size=9), st.none() | st.floats() | st.booleans() | st.integers()), max_size=5))
def test_a_table_has_a_line_per_row_and_no_control_characters(rows) -> None:
    text = output.table(("a", "b"), rows)
    lines = text.split("\n") if text else []
    assert len(lines) == (len(rows) + 1 if rows else 0)
    assert all(line.isprintable() for line in lines)


def test_help_imports_nothing_but_click() -> None:
    code = """if True:
        import sys
        sys.argv = ["gracectl", "--help"]
        from graced.cli.main import main
        try:
            main()
        except SystemExit:
            print(sorted(name for name in sys.modules if name.startswith("graced.")), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    loaded = set(re.findall(r"'(graced\.[a-z_.]+)'", done.stderr))
    foreign = {name for name in loaded if not name.startswith("graced.cli")} - {"graced.base", "graced.base.errors"}
    assert not foreign


def test_completion_is_in_sync_and_is_bash() -> None:
    shipped = ROOT / "packaging/completions/gracectl"
    assert shipped.read_text() == bash(gracectl), (
        "run: python3 -m graced.cli.completion > packaging/completions/gracectl"
    )
    subprocess.run(["bash", "-n", str(shipped)], check=True)


def test_completion_of_zsh_is_in_sync_and_names_everything() -> None:
    shipped = ROOT / "packaging/zsh/_gracectl"
    assert shipped.read_text() == zsh(gracectl), "run: python3 -m graced.cli.completion zsh > packaging/zsh/_gracectl"
    context = click.Context(gracectl)
    for name, command in commands(gracectl, context):
        _, _, body = zsh(gracectl).partition(f"\n_gracectl_verb_{name.replace(' ', '_verb_')}() {{\n")
        body = body.partition("\n}\n")[0]
        for option in options_of(command):
            assert all(re.search(rf"'\*?{re.escape(flag)}[=\[]", body) for flag in option.opts), f"{name} {option.opts}"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sta"], {"status"}),
        (["config", ""], {"check", "--help"}),
        (["tasks", "--state", "de"], {"dead"}),
        (["incidents", "--op"], {"--open"}),
        (["submit", "--priority", "h"], {"high"}),
        (["requeue", "--all"], {"--all-dead"}),
        (["to"], {"top"}),
    ],
)
def test_completion_offers(words: list[str], offered: set[str]) -> None:
    script = f"source {ROOT}/packaging/completions/gracectl\nCOMP_WORDS=(gracectl {' '.join(map(repr, words))})\n"
    script += f"COMP_CWORD={len(words)}\n_gracectl\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered


def test_the_man_page_names_every_command_and_option() -> None:
    source = str(ROOT / "docs/man/gracectl.1")
    done = subprocess.run(["mandoc", "-Tascii", "-Owidth=500", source], capture_output=True, text=True, check=True)
    page = re.sub(".\b", "", done.stdout)
    context = click.Context(gracectl)
    for name, command in commands(gracectl, context):
        assert name in page, name
        for option in options_of(command):
            for flag in option.opts:
                assert flag in page, f"{name} {flag}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs/man").glob("*.[1-8]")), ids=lambda page: page.name)
def test_man_pages_are_clean(page: Path) -> None:
    for command in (["mandoc", "-Tlint", "-Wwarning", str(page)], ["man", "--warnings", "-l", str(page)]):
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "MANPAGER": "cat"}
        )
        assert done.stderr == ""
        if command[0] == "mandoc":
            assert done.stdout == ""


def test_every_command_is_in_the_table() -> None:
    assert set(COMMANDS) == {name for name in EVERY if " " not in name}
    assert json.dumps(sorted(COMMANDS))
