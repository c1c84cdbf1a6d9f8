"""Where `gracectl top` has its samples from: one connection, asked again and again, opened anew when it is lost.

Nothing here waits for long: the view must stay alive when the supervisor is not.
"""

from __future__ import annotations

import time

from graced.base.errors import GracedError, WireError
from graced.cli.app import failure_of, paths
from graced.cli.board import Sample
from graced.cli.line import Line
from graced.cli.output import brief
from graced.varlink.wire import reply_or_raise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from graced.base.json import JsonDict

FIRST_LIMIT_SECONDS = 5.0
SEND_LIMIT_SECONDS = 0.5
LATE_SECONDS = 3.0
MAX_RUNNING = 200


class Feed:
    """`ask`, then `take` when one of `waits_for` is readable; `trouble` says why nothing came. A context manager."""

    def __init__(self) -> None:
        self._path = paths().socket("io.graced.HTM")
        self._line: Line | None = None
        self._replies: list[JsonDict] = []
        self._asked_s: float | None = None
        self._lost = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()
        self._line = None

    def first(self) -> Sample:
        """The first sample. Raises WireError, VarlinkError."""
        self._open()
        assert self._line is not None
        while len(self._replies) < 2:
            message = self._line.wait(FIRST_LIMIT_SECONDS)
            if message is None:
                raise WireError(
                    f"{self._path}: no reply in {FIRST_LIMIT_SECONDS:g} s",
                    hint="the supervisor is busy or hung: systemctl status graced-supervisor",
                )
            self._replies.append(reply_or_raise(message))
        return self._sample()

    def _open(self) -> None:
        self._line = self._line or Line(self._path, SEND_LIMIT_SECONDS)
        self._replies = []
        self._line.send("io.graced.HTM.Stats", {})
        self._line.send("io.graced.HTM.List", {"state": "leased", "limit": MAX_RUNNING})
        self._asked_s = time.monotonic()

    def waits_for(self) -> list[Line]:
        """For select."""
        return [] if self._line is None else [self._line]

    def ask(self) -> None:
        """Ask for a sample, on a new connection if need be; nothing while an answer is awaited."""
        if self._asked_s is not None and self._line is not None:
            return
        try:
            self._open()
        except WireError as error:
            self._lose(error)

    def take(self) -> Sample | None:
        """What has arrived, once it is whole."""
        if self._line is None:
            return None
        try:
            self._replies += [reply_or_raise(message) for message in self._line.read()]
        except GracedError as error:
            self._lose(error)
            return None
        return self._sample() if len(self._replies) >= 2 else None

    def _sample(self) -> Sample:
        stats, running = self._replies[0].get("stats"), self._replies[1].get("tasks")
        self._asked_s, self._lost = None, ""
        return Sample(
            stats=stats if isinstance(stats, dict) else {},
            running=[task for task in running if isinstance(task, dict)] if isinstance(running, list) else [],
            wall_s=time.time(),
            at_s=time.monotonic(),
        )

    def _lose(self, error: GracedError) -> None:
        self._close()
        self._asked_s = None
        self._lost = failure_of(error).message

    def trouble(self, last: Sample) -> tuple[str, ...]:
        """Why the view is as old as it is, in lines; none when it is fresh."""
        old = f"this is {brief(time.monotonic() - last.at_s)} old"
        if self._lost:
            return f"NO CONNECTION, {old}; trying again. The last error:", f"  {self._lost}"
        if self._asked_s is not None and time.monotonic() - self._asked_s > LATE_SECONDS:
            return (f"NO ANSWER, {old}: the supervisor is busy or hung",)
        return ()
