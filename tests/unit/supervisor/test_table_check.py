"""After the start the derived tables are compared with the entries, also while the ledger goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from graced.supervisor import sealing, table_check
from graced.supervisor.table_check import TableCheck
from tests.unit.supervisor.test_ledger_reading import Rig

EDITS = {
    "UPDATE ledger_subjects SET unit = 'other.service' WHERE seq = 77": "entry 77",
    "DELETE FROM ledger_subjects WHERE seq = 700": "entry 700",
    "INSERT INTO signatures VALUES (x'00', 'k', x'00', 800)": "entry 800",
    "UPDATE crypto_keys SET not_after = '2030-01-01T00:00:00.000Z'": "not_after of the key",
    "UPDATE crypto_audit SET actor = 'somebody'": "operation 1 in crypto_audit",
    "DELETE FROM crypto_audit": "operation 1 in crypto_audit",
}


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(table_check, "REST_SECONDS", 0.0)
    monkeypatch.setattr(sealing, "SEGMENT_ENTRIES", 512)
    return Rig(tmp_path)


def edit(rig: Rig, sql: str) -> None:
    for (name,) in rig.store.db.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
        rig.store.db.execute(f"DROP TRIGGER {name}")
    rig.store.db.execute(sql)


def check(rig: Rig) -> list[str]:
    answers: list[list[str]] = []
    one = TableCheck(rig.loop, rig.store, rig.writer, answers.append)
    one.start()
    while not answers:
        rig.loop.run_once(1.0)
    assert bool(one.error) is bool(answers[0])
    return answers[0]


def test_a_good_ledger_and_one_that_goes_on_and_is_sealed_meanwhile(rig: Rig) -> None:
    rig.fill(1000)
    assert check(rig) == []
    answers: list[list[str]] = []
    TableCheck(rig.loop, rig.store, rig.writer, answers.append).start()
    rig.loop.run_once(0)
    rig.fill(900)
    rig.loop.run_once(0)
    rig.seal(500)
    assert rig.store.sealed_size() == 1024
    while not answers:
        rig.loop.run_once(1.0)
    assert answers == [[]]
    assert check(rig) == []
    rig.close()


@pytest.mark.parametrize("sql", EDITS)
def test_an_edit_is_named(rig: Rig, sql: str) -> None:
    rig.fill(1000)
    edit(rig, sql)
    (found,) = check(rig)
    assert EDITS[sql] in found
    rig.close()


def test_what_the_start_makes_right_is_said_all_the_same(rig: Rig) -> None:
    rig.fill(10)
    edit(rig, "DELETE FROM crypto_keys")
    rig.writer.open(1)
    assert len(rig.store.key_rows()) == 1
    assert check(rig) == [f"crypto_keys and crypto_audit contradict each other about the key {rig.writer._signer.kid}"]
    rig.close()


def test_missing_entries_and_an_unreadable_summary(rig: Rig) -> None:
    rig.fill(1000)
    rig.seal(100)
    edit(rig, "DELETE FROM ledger WHERE seq = 900")
    assert "missing" in check(rig)[0]
    edit(rig, "UPDATE sealed SET keys = '{}'")
    assert len(check(rig)) == 1
    rig.close()
