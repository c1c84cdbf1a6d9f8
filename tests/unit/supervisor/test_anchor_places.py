"""Places for heads that are wrong, cannot be reached, or hang: each is said, and costs nobody but itself."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from graced.base.errors import StoreError
from graced.supervisor import anchors as module
from graced.supervisor.anchors import append
from graced.supervisor.ledger_writer import LedgerWriter
from tests.unit.supervisor.test_anchors import anchors, beyond, check, journal, line, writer

__all__ = ["journal", "writer"]


def test_a_place_that_hangs_is_said_does_not_hold_up_the_end_and_is_well_again(
    writer: LedgerWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    free = threading.Event()
    monkeypatch.setattr(module, "append", lambda _path, _note: free.wait(60))
    monkeypatch.setattr(module, "LATE_SECONDS", 0.01)
    loop, one = anchors(writer, tmp_path, '[supervisor]\nledger_anchor_file = "/mnt/heads"\n')
    one.put(writer.head.note)
    while not one.error:
        loop.run_once(1.0)
    assert "/mnt/heads has not answered" in one.error
    assert one.errors == 1
    free.set()
    while one.error:
        loop.run_once(1.0)
    said = capfd.readouterr().err
    assert "has not answered" in said
    assert "is at /mnt/heads again" in said

    free.clear()
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.01)
    one.put(writer.head.note)
    loop.run_once(0)
    one.close()
    free.set()


def test_a_file_that_cannot_be_read_is_said_and_hides_nothing(
    writer: LedgerWriter, tmp_path: Path, journal: Path
) -> None:
    file = tmp_path / "heads"
    file.mkdir()
    loop, one = anchors(writer, tmp_path, f'[supervisor]\nledger_anchor_file = "{file}"\n')
    assert check(loop, one) == "unread"
    assert f"{file} cannot be read: Is a directory" in one.error
    journal.write_text(line(writer.head.note))
    assert check(loop, one) == "agrees"
    assert f"{file} cannot be read" in one.error
    journal.write_text(line(beyond()))
    assert check(loop, one) == "rolled-back"
    one.close()


def test_nothing_but_a_file_is_written_to(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "elsewhere")
    for place in (pipe, link, tmp_path, tmp_path / "no/such", Path("/dev/null")):
        with pytest.raises(StoreError, match="cannot be written to"):
            append(str(place), beyond())
    # Somebody who reads the pipe does not make it a file.
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(StoreError, match="it is no file"):
        append(str(pipe), beyond())
    os.close(reader)


def test_a_web_address_is_shown_without_its_secrets() -> None:
    secret = "http://me:pass@127.0.0.1:1/token?key=token"
    assert module.host_of(secret) == "http://127.0.0.1:1/"
    with pytest.raises(StoreError) as caught:
        module.send(secret, "x")
    assert "token" not in str(caught.value)
    assert "pass" not in str(caught.value)
