"""The undo journal: written and synced before a fault is made, so that a killed runner can be cleaned up after.

One JSON object a line: ``{"id", "fault", "unit", "undo": {...}}`` before the fault, ``{"id", "done": true}`` when it is
over. What has no second line is undone at the next start. Whoever has the journal open is the only runner of the host:
the kernel's lock on it ends with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaos.shell import ChaosError

if TYPE_CHECKING:
    from typing import Self


class UndoJournal:
    """Faults under way, on disk. Use it as a context manager; ChaosError when another runner has it open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            _sync_directory(self._path.parent)
        except OSError as error:
            raise ChaosError(f"{self._path} cannot be written, so no fault is made: {error}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise ChaosError(f"another graced-chaos is at work on this host: it holds {self._path}") from error
        # The end of a line that a killed runner never finished would spoil the next one.
        data = self._path.read_bytes()
        os.ftruncate(self._fd, data.rfind(b"\n") + 1)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def begin(self, fault: str, unit: str, undo: dict[str, Any]) -> str:
        """Note what will be done and how to undo it; on disk when this returns. The entry's id."""
        entry = uuid.uuid4().hex
        self._append({"id": entry, "fault": fault, "unit": unit, "undo": undo})
        return entry

    def end(self, entry: str) -> None:
        """The fault is over: healed or undone."""
        self._append({"id": entry, "done": True})

    def pending(self) -> list[dict[str, Any]]:
        """Faults that were begun and never ended, newest first."""
        return pending(self._path.read_bytes(), str(self._path))

    def forget(self) -> None:
        """Begin anew, so that the file does not grow for ever. ChaosError while something is pending."""
        if self.pending():
            raise ChaosError(f"{self._path} still has pending faults")
        os.ftruncate(self._fd, 0)

    def _append(self, entry: dict[str, Any]) -> None:
        data = json.dumps(entry).encode() + b"\n"
        try:
            if os.write(self._fd, data) != len(data):
                raise ChaosError(f"{self._path}: the disk is full")
            os.fsync(self._fd)
        except OSError as error:
            raise ChaosError(f"{self._path} cannot be written: {error}") from error


def pending(data: bytes, name: str) -> list[dict[str, Any]]:
    """What `data`, the content of the journal `name`, leaves to undo, newest first. A last line without an end was
    never acted on. ChaosError for a damaged line: guessing what to undo would be worse."""
    begun: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
            if entry.get("done") is True:
                begun.pop(entry["id"], None)
            elif isinstance(entry["fault"], str) and isinstance(entry["unit"], str) and isinstance(entry["undo"], dict):
                begun[entry["id"]] = entry
            else:
                raise TypeError("a field has the wrong type")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ChaosError(f"{name}:{number}: damaged ({error}): see what it says, then remove it") from error
    return list(begun.values())[::-1]


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
