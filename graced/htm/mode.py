"""Handlers that an admin holds: paused (nothing is given out) or drained (nothing is taken in).

``*`` stands for all handlers and is held and freed by itself: a handler that was paused by name stays paused when all
are resumed.
"""

from __future__ import annotations

from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.htm.turn import ModeRow

PAUSED, DRAINED = "paused", "drained"
ALL = "*"


class Mode(Record):
    """`word` is PAUSED or DRAINED, `by` who wanted it, `since_us` queue time."""

    handler: str
    word: str
    reason: str
    by: str
    since_us: int


class Modes:
    """What is held now. False while nothing is."""

    __slots__ = ("_modes",)

    def __init__(self) -> None:
        self._modes: dict[str, Mode] = {}

    def __bool__(self) -> bool:
        return bool(self._modes)

    def load(self, rows: list[ModeRow]) -> None:
        """Be what the rows say."""
        self._modes = {row[0]: Mode(*row) for row in rows}

    def all(self) -> list[Mode]:
        """Every held handler, by name."""
        return [self._modes[handler] for handler in sorted(self._modes)]

    def put(self, mode: Mode) -> None:
        """Hold a handler."""
        self._modes[mode.handler] = mode

    def drop(self, handler: str) -> Mode | None:
        """Free a handler; how it was held."""
        return self._modes.pop(handler, None)

    def of(self, handler: str, word: str) -> Mode | None:
        """What holds this handler in this way: its own mode or that of all."""
        for name in (handler, ALL):
            mode = self._modes.get(name)
            if mode is not None and mode.word == word:
                return mode
        return None
