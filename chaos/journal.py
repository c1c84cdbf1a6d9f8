"""Evidence from journald: records after a moment, by their monotonic stamp, waited for and never slept for."""

from __future__ import annotations

import json
import selectors
import subprocess
import time
from typing import TYPE_CHECKING, Any

from chaos.shell import ENVIRONMENT, ChaosError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

Record = dict[str, Any]
# systemd's own, from systemd-messages(7): a unit is being started, was started, its process ended.
STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"
STARTED = "39f53479d3a045ac8e11786248231fbf"
EXITED = "98e322203f7a4ed290d09fe03c09fe15"
# graced's own, from its journal catalog: they are as stable as a MESSAGE_ID has to be.
ANOMALY = "6a7f0c0a3d6e4c1f9b2d5e8f10a4b704"
INCIDENT_OPENED = "6a7f0c0a3d6e4c1f9b2d5e8f10a4b705"
INCIDENT_CLOSED = "6a7f0c0a3d6e4c1f9b2d5e8f10a4b706"
CONFIG_REFUSED = "6a7f0c0a3d6e4c1f9b2d5e8f10a4b70c"
SUPERVISOR = "graced-supervisor.service"
OPEN_TIMEOUT_S = 10.0
KEEP_RECORDS = 20_000


def now_us() -> int:
    """CLOCK_MONOTONIC in µs, the clock of the journal's stamps."""
    return time.monotonic_ns() // 1000


def stamp_us(record: Record) -> int:
    """When journald received a record, CLOCK_MONOTONIC in µs."""
    return int(record["__MONOTONIC_TIMESTAMP"])


def by_pid1(record: Record, unit: str, message_id: str) -> bool:
    """Whether systemd itself wrote this about `unit` (fields without _ can be forged by any user)."""
    return record.get("_PID") == "1" and record.get("UNIT") == unit and record.get("MESSAGE_ID") == message_id


def by_service(record: Record, service: str, message_id: str) -> bool:
    """Whether a process of `service` wrote this."""
    return record.get("_SYSTEMD_UNIT") == service and record.get("MESSAGE_ID") == message_id


def message(record: Record) -> str:
    """The text in one line; journalctl gives bytes that are no text as numbers, and null for what is too long."""
    text = record.get("MESSAGE")
    if isinstance(text, list):
        text = bytes(text).decode(errors="replace") if all(isinstance(one, int) for one in text) else text[0]
    return " ".join(str(text or "").split())


class Follower:
    """Follows the whole journal; every record from its opening on is seen. Use it as a context manager.

    `listener` is called with each record as it comes.
    """

    def __init__(self, listener: Callable[[Record], None] | None = None) -> None:
        self.listener = listener
        self._records: list[Record] = []
        self._process = subprocess.Popen(
            ["journalctl", "--follow", "--boot", "--lines=50", "--output=json", "--quiet", "--no-pager"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        assert self._process.stdout is not None
        self._stream = self._process.stdout
        self._buffer = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stream, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        # What it prints first is old; from then on it follows, and nothing new is missed.
        if not self._selector.select(OPEN_TIMEOUT_S):
            self.__exit__(None, None, None)
            raise ChaosError("the journal is empty or cannot be read: without it there is no evidence")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._selector.close()
        self._stream.close()

    def wait(self, wanted: Callable[[Record], bool], since_us: int, timeout_s: float, what: str) -> Record:
        """The first record at or after `since_us` that is `wanted`. ChaosError when it does not come in time."""
        limit = time.monotonic() + timeout_s
        found = self.find(wanted, since_us)
        while found is None:
            left = limit - time.monotonic()
            if left <= 0:
                raise ChaosError(f"no evidence: {what} did not appear in the journal within {timeout_s:g} s")
            self.read(left)
            found = self.find(wanted, since_us)
        return found

    def find(self, wanted: Callable[[Record], bool], since_us: int) -> Record | None:
        """As `wait`, among what was read already."""
        return next((one for one in self._records if stamp_us(one) >= since_us and wanted(one)), None)

    def read(self, timeout_s: float) -> None:
        """Take in what is there, or what comes next within `timeout_s` seconds."""
        if not self._selector.select(timeout_s):
            return
        data = self._stream.read1(1 << 20)  # type: ignore[attr-defined]  # a BufferedReader
        if not data:
            raise ChaosError("journalctl --follow ended: is journald running?")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            record = json.loads(line)
            self._records.append(record)
            if self.listener is not None:
                self.listener(record)
        del self._records[:-KEEP_RECORDS]
