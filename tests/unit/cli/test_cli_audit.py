"""gracectl audit verify: what it checks, what it says, its exit code."""

from __future__ import annotations

import pytest

from graced.cli import auditing as audit_module
from graced.store.ledger import LedgerStore
from graced.trust.audit import Problem, Report

GOOD = Report(
    ok=True,
    entries=5,
    checkpoints=2,
    signatures=4,
    uncovered=0,
    anchor="agrees",
    anchors=1,
    size=5,
    root="ab",
    problems=(),
)


@pytest.fixture
def ledger(run, monkeypatch):
    (run / "lib/supervisor").mkdir()
    (run / "lib/supervisor/ledger.db").write_bytes(b"")
    monkeypatch.setattr(audit_module, "journal_anchors", list)
    return run / "lib/supervisor/ledger.db"


def test_a_good_ledger(ctl, ledger, run, monkeypatch) -> None:
    asked = []

    def audited(*arguments, **options):
        asked.append((arguments, options))
        return GOOD

    monkeypatch.setattr(audit_module, "audit_database", audited)
    good = ctl("audit", "verify")
    assert good.exit_code == 0
    assert "5 entries" in good.stdout
    assert ctl("audit", "verify", "--json=short").json["ok"] is True
    assert asked[0] == ((str(ledger), str(run / "lib/roster.json"), []), {"anchor_file": "", "whole": False})


def test_a_bad_ledger(ctl, ledger, monkeypatch) -> None:
    bad = GOOD.replace(
        ok=False, anchor="rolled-back", answer="changed", problems=(Problem(code="entry", seq=3, detail="changed"),)
    )
    monkeypatch.setattr(audit_module, "audit_database", lambda *_arguments, **_options: bad)
    told = ctl("audit", "verify")
    assert told.exit_code == 1
    assert "entry at 3: changed" in told.stdout
    assert "know a LATER state" in told.stdout
    assert "it was CHANGED" in told.stdout
    assert "does NOT hold" in told.stderr


def test_every_answer_is_a_sentence_of_its_own(ctl, ledger, monkeypatch) -> None:
    said = set()
    for answer in ("rolled-back", "truncated", "differs", "changed", "unread"):
        bad = GOOD.replace(ok=False, answer=answer)
        monkeypatch.setattr(audit_module, "audit_database", lambda *_arguments, bad=bad, **_options: bad)
        told = ctl("audit", "verify")
        assert told.exit_code == 1
        said.add(told.stdout.splitlines()[0])
    assert len(said) == 5


def test_an_unusable_roster_and_database_are_not_good(ctl, ledger) -> None:
    told = ctl("audit", "verify", "--json=short")
    assert (told.exit_code, told.json["answer"]) == (1, "unread")
    assert [problem["code"] for problem in told.json["problems"]] == ["store"]
    ledger.unlink()
    LedgerStore.open(str(ledger)).close()
    told = ctl("audit", "verify", "--json=short")
    assert (told.exit_code, told.json["answer"]) == (1, "unread")
    assert [problem["code"] for problem in told.json["problems"]] == ["roster"]


def test_no_ledger_is_an_error(ctl, run) -> None:
    told = ctl("audit", "verify")
    assert (told.exit_code, told.stdout) == (1, "")
    assert "ledger.db" in told.stderr


def test_a_copy_needs_its_own_roster(ctl, run) -> None:
    assert ctl("audit", "verify", "--database", "x").exit_code == 2
