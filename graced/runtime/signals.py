"""Unix signals as loop callbacks: handlers only mark, the loop acts.

The numbers here are plain ones: the module `signal` makes enums of them, which costs 4 ms of each daemon's start.
"""

from __future__ import annotations

import os
from _signal import (  # type: ignore[import-not-found]  # no stubs
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGPIPE,
    SIGTERM,
    set_wakeup_fd,
    signal,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.runtime.loop import Loop

__all__ = ["SIGHUP", "SIGINT", "SIGKILL", "SIGPIPE", "SIGTERM", "Signals"]


class Signals:
    """Calls back in the loop for each signal number it was given."""

    def __init__(self, loop: Loop, callbacks: dict[int, Callable[[], object]]) -> None:
        self._callbacks = callbacks
        self._read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        for number in callbacks:
            signal(number, _mark)
        loop.add_reader(self._read_fd, self._on_readable)

    def _on_readable(self) -> None:
        for number in os.read(self._read_fd, 64):
            callback = self._callbacks.get(number)
            if callback is not None:
                callback()


def _mark(_number: int, _frame: object) -> None:
    return
