"""Heads outside the database: what they say about it after a start, and how they get there without the loop waiting."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from graced.base.clock import ManualClock
from graced.base.config import load
from graced.base.errors import StoreError
from graced.runtime.loop import Loop
from graced.store.ledger import LedgerStore
from graced.supervisor import anchors as module
from graced.supervisor.anchors import Anchors, append, compare
from graced.supervisor.keep import OPTIONS
from graced.supervisor.ledger_entry import Entry
from graced.supervisor.ledger_writer import UNIT, LedgerWriter
from graced.trust.anchors import file_anchors
from graced.trust.audit import Anchor
from graced.trust.keys import LEDGER, Signer
from graced.trust.note import Checkpoint, sign_checkpoint
from graced.trust.roster import Roster, origin_of, roster_key

KEY = Signer(b"1" * 32, LEDGER, "test")
STRANGER = Signer(b"2" * 32, LEDGER, "test")
ROSTER = Roster(
    origin=origin_of(KEY.public), machine="m", keys=(roster_key(KEY.public, LEDGER, "2026-01-01T00:00:00.000Z"),)
)


@pytest.fixture
def writer(tmp_path: Path) -> LedgerWriter:
    writer = LedgerWriter(LedgerStore.open(str(tmp_path / "ledger.db")), KEY, ROSTER, ManualClock(), "boot")
    writer.open(1)
    for number in range(700):
        writer.stage(Entry(kind="task", data={"n": number}, actor="supervisor", uid=1))
    writer.commit()
    writer.checkpoint()
    return writer


def head(size: int, root: bytes, origin: str = ROSTER.origin) -> Anchor:
    return Anchor(origin=origin, size=size, root=root, source="journal")


def test_answers(writer: LedgerWriter) -> None:
    good = [head(size, writer.root_at(size)) for size in (1, 255, 256, 257, 512, writer.size)]
    assert compare(writer, good).answer == "agrees"
    assert compare(writer, []).answer == "none"
    assert compare(writer, [head(9999, bytes(32), "another")]).answer == "none"
    assert compare(writer, [*good, head(writer.size + 1, bytes(32))]).answer == "rolled-back"
    writer.found_size = writer.size
    for size in (1, 256, 700, writer.size):
        assert compare(writer, [*good, head(size, bytes(32))]).answer == "differs"
        both = [head(size, bytes(32)), head(writer.size + 1, bytes(32))]
        assert compare(writer, both).answer == "differs"


def test_put_back_and_gone_on(writer: LedgerWriter) -> None:
    """Rolled back to 300 entries, and longer again than the head that is gone: told from a forged history."""
    gone = [head(size, bytes(32)) for size in (400, 500)]
    writer.found_size = 300
    found = compare(writer, [head(300, writer.root_at(300)), *gone])
    assert (found.answer, found.size, found.lost) == ("rolled-back", 300, 500)
    # The next start finds 701 entries: what was written down then is what tells.
    writer.found_size = writer.size
    assert compare(writer, gone).answer == "differs"
    back = {"rolled_back": {"size": found.size, "lost": found.lost}}
    writer.stage(Entry(kind="checkpoint", data=back, actor="supervisor", uid=1, unit=UNIT))
    writer.commit()
    found = compare(writer, gone)
    assert (found.answer, found.lost) == ("rolled-back", 0)
    assert compare(writer, [*gone, head(299, bytes(32))]).answer == "differs"
    assert compare(writer, [*gone, head(501, bytes(32))]).answer == "differs"


def anchors(writer: LedgerWriter, tmp_path: Path, text: str = "") -> tuple[Loop, Anchors]:
    config = tmp_path / "graced.toml"
    config.write_text(text)
    loop = Loop()
    return loop, Anchors(loop, writer, load(str(config), OPTIONS, "supervisor"))


def check(loop: Loop, one: Anchors) -> str:
    answers = []
    one.on_answer = lambda found: answers.append(found.answer)
    loop.spawn(one.check())
    while not answers:
        loop.run_once(1.0)
    return str(answers[0])


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for the journal: its lines are what journalctl prints."""
    path = tmp_path / "journal"
    path.write_text("")
    monkeypatch.setattr(module, "journal_argv", lambda _lines: ["cat", str(path)])
    monkeypatch.setattr(module, "supervisor_uids", lambda: frozenset({"990"}))
    return path


def line(note: str, uid: str = "990", unit: str = "graced-supervisor.service") -> str:
    return json.dumps({"_UID": uid, "_SYSTEMD_UNIT": unit, "GRACED_CHECKPOINT": note}) + "\n"


def beyond(key: Signer = KEY) -> str:
    return sign_checkpoint(Checkpoint(origin=ROSTER.origin, size=5000, root=bytes(32)), key)


def test_journal(writer: LedgerWriter, tmp_path: Path, journal: Path) -> None:
    loop, one = anchors(writer, tmp_path)
    assert check(loop, one) == "none"
    journal.write_text(line(writer.head.note) + line(beyond(), uid="1000") + line(beyond(), unit="evil.service"))
    assert check(loop, one) == "agrees"
    assert one.error == ""
    journal.write_text(line(writer.head.note) + line(beyond()))
    assert check(loop, one) == "rolled-back"
    assert "5000" in one.error
    journal.unlink()
    assert check(loop, one) == "unread"


def test_file(writer: LedgerWriter, tmp_path: Path, journal: Path) -> None:
    file = tmp_path / "heads"
    loop, one = anchors(writer, tmp_path, f'[supervisor]\nledger_anchor_file = "{file}"\n')
    one.put(writer.head.note)
    while not file.exists() or not file_anchors(str(file), ROSTER):
        loop.run_once(1.0)
    assert journal.read_text() == ""
    assert check(loop, one) == "agrees"
    append(str(file), beyond(STRANGER))
    with file.open("a") as half:
        half.write('{"checkpoint":"gr')
    assert check(loop, one) == "agrees"
    append(str(file), beyond())
    assert check(loop, one) == "rolled-back"
    one.close()


def test_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 2000)
    for size in range(1, 30):
        append(str(tmp_path / "f"), sign_checkpoint(Checkpoint(ROSTER.origin, size, bytes(32)), KEY))
    found = file_anchors(str(tmp_path / "f"), ROSTER)
    assert found[-1].size == 29
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5000


def test_web_address(writer: LedgerWriter, tmp_path: Path) -> None:
    got: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["checkpoint"])
            self.send_response(204 if len(got) > 1 else 503)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/heads"
        loop, one = anchors(writer, tmp_path, f'[supervisor]\nledger_anchor_url = "{url}"\n')
        one.put(writer.head.note)
        while not one.error:
            loop.run_once(1.0)
        assert "503" in one.error
        assert one.errors == 1
        module.send(url, writer.head.note)
        assert got == [writer.head.note] * 2
        one.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(StoreError):
        module.send("file:///etc/passwd", "x")


def test_a_place_that_hangs_costs_the_loop_nothing_and_gets_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, free, got = Loop(), threading.Event(), []

    def deliver(note: str) -> None:
        free.wait(30)
        got.append(note)

    one = module.Delivery(loop, deliver, 0.0)
    for note in ("a", "b", "c"):
        one.put(note)
        loop.run_once(0)
    assert got == []
    free.set()
    while got != ["a", "c"]:
        loop.run_once(1.0)
    one.close()
