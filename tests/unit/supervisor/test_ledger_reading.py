"""Pages of the ledger: none ends silently, and the archive behind the database is part of what is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from graced.base.clock import ManualClock
from graced.base.errors import FormatError, StoreError
from graced.runtime.loop import Loop
from graced.runtime.service import Service
from graced.store.ledger import LedgerStore
from graced.supervisor import ledger_reading, sealing
from graced.supervisor.background import Background
from graced.supervisor.ledger import LedgerInterface
from graced.supervisor.ledger_entry import Entry
from graced.supervisor.ledger_writer import LedgerWriter
from graced.trust.keys import LEDGER, Signer
from graced.trust.roster import Roster, origin_of, roster_key
from graced.varlink.wire import VarlinkError

KEY = Signer(b"1" * 32, LEDGER, "test")
ROSTER = Roster(
    origin=origin_of(KEY.public), machine="m", keys=(roster_key(KEY.public, LEDGER, "2026-01-01T00:00:00.000Z"),)
)
COUNT = 3000


class Asked:
    """A call, and the answer it got later."""

    def __init__(self, **parameters: object) -> None:
        self.parameters = parameters
        self.answer: Any = None

    def reply(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    def error(self, error: VarlinkError) -> None:
        self.answer = error


class Rig:
    """A ledger of small segments: `seal` moves its oldest entries to the archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = Loop()
        self.store = LedgerStore.open(str(path / "ledger.db"))
        self.writer = LedgerWriter(self.store, KEY, ROSTER, ManualClock(), "boot")
        self.writer.open(1)
        service = Service(self.loop, "test", "0", str(path))
        self.ledger = LedgerInterface(self.loop, service, self.store, self.writer)
        self.background = Background(self.loop)

    def fill(self, count: int, size: int = 0) -> None:
        for number in range(count):
            unit = f"u{number % 3}.service"
            data = {"n": number, "x": "y" * size, "task_id": "task_5"}
            self.writer.stage(Entry("task", data, "supervisor", 1, unit, f"task_{number % 1000}", 'intent_"1'))
        self.writer.commit()
        self.writer.checkpoint()

    def seal(self, keep: int) -> None:
        self.ledger.keep_house(self.background, keep)
        assert self.ledger.sealing is not None
        while True:
            self.ledger.sealing.look(self.writer.head.size)
            if not self.ledger.sealing._busy:
                return
            self.loop.run_once(1.0)

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        call: Any = Asked(**parameters)
        answer = getattr(self.ledger, method)(call)
        while answer is None:
            self.loop.run_once(1.0)
            answer = call.answer
        if isinstance(answer, VarlinkError):
            raise answer
        return dict(json.loads(json.dumps(answer)))

    def all_pages(self, **parameters: object) -> list[int]:
        found: list[int] = []
        before: int | None = None
        while True:
            page = self.ask("Find", before=before, **parameters)
            assert page["truncated"] is (page["next"] is not None)
            found = [entry["seq"] for entry in page["entries"]] + found
            if page["next"] is None:
                return found
            assert before is None or page["next"] < before
            before = page["next"]

    def close(self) -> None:
        self.ledger.stop_house()
        self.background.close(self.ledger.close_thread)
        self.store.close()


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sealing, "SEGMENT_ENTRIES", 512)
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def of_unit(number: int) -> list[int]:
    return [1 + at for at in range(COUNT) if at % 3 == number]


def test_everything_is_found_over_pages_and_the_archive(rig: Rig) -> None:
    rig.fill(COUNT)
    assert rig.all_pages(unit="u1.service") == of_unit(1)
    rig.seal(500)
    assert rig.store.sealed_size() == 2048
    first = rig.ask("Find", unit="u1.service")
    assert (first["truncated"], first["next"]) == (True, 2048)
    for limit in (1000, 7):
        assert rig.all_pages(unit="u1.service", limit=limit) == of_unit(1)
    assert rig.all_pages(task_id="task_5") == [6, 1006, 2006]
    assert rig.all_pages(task_id="task_5", unit="u2.service") == [6]
    assert rig.all_pages(intent_id='intent_"1') == list(range(1, COUNT + 1))
    assert rig.all_pages(unit="nobody.service") == []
    for bad in ({}, {"unit": "a", "before": -1}, {"unit": "a", "limit": 0}):
        with pytest.raises(FormatError):
            rig.ask("Find", **bad)


def test_an_answer_looks_through_so_many_segments(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_reading, "MAX_SEGMENTS", 2)
    rig.fill(COUNT)
    rig.seal(500)
    assert rig.ask("Find", unit="nobody.service", before=2048)["next"] == 1024
    assert rig.ask("Find", unit="nobody.service", before=1024)["next"] is None
    assert rig.all_pages(unit="u0.service") == of_unit(0)


def test_an_answer_holds_so_many_bytes_and_says_that_there_are_more(rig: Rig) -> None:
    rig.fill(150, size=60_000)
    newest = rig.ask("Find", intent_id='intent_"1')
    assert newest["truncated"]
    assert newest["entries"][-1]["seq"] == 150
    assert rig.all_pages(intent_id='intent_"1') == list(range(1, 151))
    read = rig.ask("Read", start=0, count=1000)
    assert 60 < len(read["entries"]) < 80
    assert (read["truncated"], read["next"]) == (True, len(read["entries"]))


def test_reading_goes_from_the_archive_into_the_database(rig: Rig) -> None:
    rig.fill(COUNT)
    rig.seal(500)
    found: list[int] = []
    start: int | None = 0
    while start is not None:
        page = rig.ask("Read", start=start, count=700)
        found += [entry["seq"] for entry in page["entries"]]
        start = page["next"]
    # With the first key and an entry for each segment that was sealed.
    assert found == list(range(page["size"])) == list(range(1 + COUNT + 4))
    beyond = rig.ask("Read", start=1 << 53, count=1)
    assert (beyond["entries"], beyond["next"], beyond["truncated"]) == ([], None, False)


def test_a_missing_file_is_an_error_and_not_fewer_entries(rig: Rig) -> None:
    rig.fill(COUNT)
    rig.seal(500)
    next((rig.path / "ledger-archive").iterdir()).unlink()
    with pytest.raises(VarlinkError, match="Unavailable"):
        rig.all_pages(unit="u0.service")
    rig.ledger._background = None
    rig.ledger._forget_archive()
    with pytest.raises(StoreError):
        rig.all_pages(unit="u0.service")


def test_a_gap_is_an_error(rig: Rig) -> None:
    rig.fill(20)
    rig.store.db.execute("DROP TRIGGER ledger_no_delete")
    rig.store.db.execute("DELETE FROM ledger WHERE seq >= 15")
    with pytest.raises(StoreError, match="missing"):
        rig.ask("Read", start=15, count=3)


def test_a_segment_is_forgotten_after_a_while(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_reading, "ARCHIVE_REST_SECONDS", 0.05)
    rig.fill(COUNT)
    rig.seal(500)
    rig.ask("Read", start=0, count=3)
    while rig.ledger._archive is not None:
        rig.loop.run_once(1.0)
