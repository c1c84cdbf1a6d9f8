"""The undo journal: what is pending after any death of the runner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.shell import ChaosError
from chaos.undo import UndoJournal, pending

if TYPE_CHECKING:
    from pathlib import Path

ENTRY = {"fault": "kill", "unit": "x.service", "undo": {"pid": 1}}


def lines(steps: list[tuple[str, int]]) -> bytes:
    """A journal of begins and ends by number."""
    made = [{"id": str(n), **ENTRY} if what == "begin" else {"id": str(n), "done": True} for what, n in steps]
    return b"".join(json.dumps(one).encode() + b"\n" for one in made)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int]]:
    """Begins and ends in an order that a runner can produce."""
    steps: list[tuple[str, int]] = []
    begun: list[int] = []
    for number in range(draw(st.integers(0, 8))):
        steps.append(("begin", number))
        begun.append(number)
        while begun and draw(st.booleans()):
            steps.append(("end", begun.pop(draw(st.integers(0, len(begun) - 1)))))
    return steps


@given(histories(), st.data())
def test_whatever_byte_it_died_at_what_was_begun_and_not_ended_is_pending(
    history: list[tuple[str, int]], data: st.DataObject
) -> None:
    content = lines(history)
    cut = content[: data.draw(st.integers(0, len(content)))]
    expected: list[str] = []
    for what, number in history[: cut.count(b"\n")]:
        if what == "begin":
            expected.insert(0, str(number))
        else:
            expected.remove(str(number))
    assert [entry["id"] for entry in pending(cut, "journal")] == expected


@given(st.binary(max_size=200))
def test_damage_is_named_with_its_line_and_never_guessed_about(content: bytes) -> None:
    try:
        entries = pending(content, "journal")
    except ChaosError as error:
        assert str(error).startswith("journal:")
    else:
        assert all({"id", "fault", "unit", "undo"} <= entry.keys() for entry in entries)


def test_begin_is_on_disk_and_end_takes_it_away(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "undo.jsonl"
    with UndoJournal(path) as journal:
        entry = journal.begin("stop", "nginx.service", {"processes": [[7, "42"]]})
        on_disk = pending(path.read_bytes(), str(path))
        assert [(one["id"], one["undo"]) for one in on_disk] == [(entry, {"processes": [[7, "42"]]})]
        with pytest.raises(ChaosError, match="pending"):
            journal.forget()
        journal.end(entry)
        assert journal.pending() == []
        journal.forget()
    assert path.read_bytes() == b""
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_half_written_line_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "undo.jsonl"
    path.write_bytes(lines([("begin", 1)]) + b'{"id": "2", "fau')
    with UndoJournal(path) as journal:
        third = journal.begin("kill", "x.service", {})
        assert [one["id"] for one in journal.pending()] == [third, "1"]


def test_only_one_runner_at_a_time_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "undo.jsonl"
    hold = (
        "import sys; from pathlib import Path; from chaos.undo import UndoJournal\n"
        "with UndoJournal(Path(sys.argv[1])) as journal:\n"
        "    journal.begin('kill', 'x.service', {}); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ChaosError, match="another graced-chaos"), UndoJournal(path):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with UndoJournal(path) as journal:
        assert [one["fault"] for one in journal.pending()] == ["kill"]


def test_without_a_journal_there_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ChaosError, match="no fault is made"), UndoJournal(tmp_path / "file" / "undo.jsonl"):
        pass
