"""What the ports of this room need of an event loop: names for types only (graced.runtime's Loop fits)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Timer(Protocol):
        """A pending call."""

        def cancel(self) -> None:
            """Forget the call; harmless when it already happened."""

    class Reactor(Protocol):
        """Calls back when descriptors are ready or time has passed; all on one thread."""

        def call_later(self, delay_s: float, callback: Callable[[], None], /) -> Timer:
            """Call once after delay_s seconds."""

        def add_reader(self, fd: int, callback: Callable[[], None], /) -> None:
            """Call while fd is readable."""

        def remove_reader(self, fd: int, /) -> None:
            """Stop that."""

        def add_writer(self, fd: int, callback: Callable[[], None], /) -> None:
            """Call while fd is writable."""

        def remove_writer(self, fd: int, /) -> None:
            """Stop that."""
