"""A terminal taken over for a live view, and given back as it was, whatever ends the view.

Plain ANSI: the alternate screen, the cursor hidden, no wrapping; keys arrive one by one, unseen. A frame is one write
of the lines that changed. Signals only set a flag, so that the way out is always the same.
"""

from __future__ import annotations

import os
import select
import signal
import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import FrameType, TracebackType
    from typing import Any, Self

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
FALLBACK_SIZE = (80, 24)
QUIT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_WATCHED = (*QUIT, signal.SIGWINCH, signal.SIGTSTP)


class Screen:
    """The terminal on `out_fd`, keys from `in_fd` (None: there are none). Use it as a context manager."""

    def __init__(self, out_fd: int, in_fd: int | None, paint: Callable[[str, str], str]) -> None:
        self._out, self._in, self._paint = out_fd, in_fd, paint
        self._raised: list[int] = []
        self._before: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._shown: list[str] = []
        self._size = FALLBACK_SIZE
        self._wake_read, self._wake_write = -1, -1
        self._old_wake = -1
        self._on = False

    def __enter__(self) -> Self:
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wake = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in _WATCHED:
            self._handlers[number] = signal.signal(number, self._flag)
        try:
            self._take()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _release(self) -> None:
        try:
            self._give_back()
        finally:
            signal.set_wakeup_fd(self._old_wake)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _flag(self, number: int, _frame: FrameType | None) -> None:
        self._raised.append(number)

    def _take(self) -> None:
        if self._in is not None:
            self._before = termios.tcgetattr(self._in)
            mine = termios.tcgetattr(self._in)
            mine[3] &= ~(termios.ICANON | termios.ECHO)
            mine[6][termios.VMIN], mine[6][termios.VTIME] = 1, 0
            self._on = True
            termios.tcsetattr(self._in, termios.TCSANOW, mine)
        self._on = True
        self._shown = []
        self._write(ENTER)

    def _give_back(self) -> None:
        if not self._on:
            return
        self._on = False
        try:
            if self._in is not None and self._before is not None:
                termios.tcsetattr(self._in, termios.TCSANOW, self._before)
            self._write(LEAVE)
        except (OSError, termios.error):
            # a terminal that is gone needs nothing back
            return

    def _write(self, text: str) -> None:
        data = text.encode(errors="replace")
        while data:
            data = data[os.write(self._out, data) :]

    @property
    def size(self) -> tuple[int, int]:
        """(columns, rows) as of now."""
        try:
            columns, rows = os.get_terminal_size(self._out)
        except OSError:
            return FALLBACK_SIZE
        return (columns, rows) if columns > 0 and rows > 0 else FALLBACK_SIZE

    def draw(self, frame: Sequence[tuple[str, str]]) -> None:
        """Show the lines of a frame, each with a kind of paint ("": none), with one write. Raises OSError."""
        size = self.size
        out = []
        if size != self._size:
            self._size, self._shown = size, []
            out.append("\x1b[2J")
        columns, rows = size
        lines = [self._line(text, kind, columns) for text, kind in frame[:rows]]
        for row in range(max(len(lines), len(self._shown))):
            new = lines[row] if row < len(lines) else "\x1b[K"
            if row >= len(self._shown) or self._shown[row] != new:
                out.append(f"\x1b[{row + 1};1H{new}")
        self._shown = lines
        if out:
            self._write("".join(out))

    def _line(self, text: str, kind: str, columns: int) -> str:
        shown = text[:columns]
        painted = self._paint(shown, kind) if kind else shown
        # erasing from the last column on would take its character away
        return painted if len(shown) == columns else f"{painted}\x1b[K"

    def wait(self, others: Iterable[Any], limit_s: float) -> tuple[set[str], list[Any]]:
        """Sleep until something happens, at most `limit_s` seconds: (keys and "quit", which of `others` are readable).

        A changed size ends the sleep too. Ctrl-Z gives the terminal back until the process is continued.
        """
        mine = [self._wake_read] if self._in is None else [self._wake_read, self._in]
        ready = select.select([*mine, *others], [], [], max(0.0, limit_s))[0]
        keys: set[str] = set()
        if self._wake_read in ready:
            self._drain()
        self._raised = [number for number in self._raised if number != signal.SIGWINCH]
        if self._in is not None and self._in in ready:
            typed = os.read(self._in, 64)
            # nothing at all: the terminal has hung up
            keys |= set(typed.decode(errors="replace")) if typed else {"quit"}
        if any(number in QUIT for number in self._raised):
            keys.add("quit")
        if signal.SIGTSTP in self._raised:
            self._stop()
        return keys, [one for one in ready if one not in mine]

    def killed_by(self) -> int | None:
        """The signal that is to end the process, other than Ctrl-C; None when there was none."""
        return next((number for number in self._raised if number in QUIT and number != signal.SIGINT), None)

    def _drain(self) -> None:
        while True:
            try:
                if not os.read(self._wake_read, 512):
                    return
            except BlockingIOError:
                return

    def _stop(self) -> None:
        self._raised = [number for number in self._raised if number != signal.SIGTSTP]
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._flag)
        self._take()
