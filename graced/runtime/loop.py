"""The event loop of every daemon: epoll, timers and plain coroutines, without the import cost of asyncio or selectors.

One thread. Callbacks and coroutines run to their next await; what takes longer than the watchdog allows starves
it, on purpose. An exception in a callback goes to `on_error` (the kernel decides how much of that is too much).
"""

from __future__ import annotations

import time
from _heapq import heappop, heappush
from select import EPOLLIN, EPOLLOUT, epoll

from graced.base.errors import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from typing import Any
else:
    # Its compiled half: the module around it costs 2 ms of each daemon's start.
    from _collections import deque


class Expired(WireError):
    """Something did not happen within its time."""

    code = "timeout"


class Cancelled(BaseException):
    """Thrown into a coroutine that is no longer wanted."""


class Future:
    """A result that comes later; await it in a coroutine."""

    __slots__ = ("_callbacks", "_done", "_error", "_value")

    def __init__(self) -> None:
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Future], None]] = []

    def done(self) -> bool:
        """Whether it has a result or an error."""
        return self._done

    def set_result(self, value: Any = None) -> None:
        """Settle it; a second settling is ignored (the first one won)."""
        self._settle(value, None)

    def set_exception(self, error: BaseException) -> None:
        """Settle it with an error."""
        self._settle(None, error)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        if self._done:
            return
        self._done, self._value, self._error = True, value, error
        for callback in self._callbacks:
            callback(self)
        self._callbacks.clear()

    def result(self) -> Any:
        """The value, or raises the error. Only when done."""
        if self._error is not None:
            raise self._error
        return self._value

    def when_done(self, callback: Callable[[Future], None]) -> None:
        """Call back with this future, at once when it is already settled."""
        if self._done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def __await__(self) -> Generator[Future, None, Any]:
        if not self._done:
            yield self
        return self.result()


class Timer:
    """A callback at a time; `cancel` makes it not happen."""

    __slots__ = ("callback", "when_s")

    def __init__(self, when_s: float, callback: Callable[[], object] | None) -> None:
        self.when_s = when_s
        self.callback = callback

    def cancel(self) -> None:
        """Never call back."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return self.when_s < other.when_s


class Task(Future):
    """A running coroutine; awaiting it gives its return value."""

    __slots__ = ("_coroutine", "_loop", "_waits_for", "_watched")

    def __init__(self, loop: Loop, coroutine: Coroutine[Future, None, Any]) -> None:
        super().__init__()
        self._loop = loop
        self._coroutine = coroutine
        self._waits_for: Future | None = None
        self._watched = False

    def when_done(self, callback: Callable[[Future], None]) -> None:
        """As for a Future; whoever registers also takes the error."""
        self._watched = True
        super().when_done(callback)

    def start(self) -> None:
        """Run to the first await, unless it was cancelled before."""
        if not self.done():
            self.step()

    def step(self, error: BaseException | None = None) -> None:
        """Run to the next await."""
        self._waits_for = None
        try:
            waits_for = self._coroutine.throw(error) if error else self._coroutine.send(None)
        except StopIteration as stop:
            self.set_result(stop.value)
        except Cancelled as cancelled:
            self.set_exception(cancelled)
        except Exception as failure:  # noqa: BLE001  # not swallowed: it becomes this task's error
            self.set_exception(failure)
            if not self._watched:
                self._loop.on_error(failure)
        else:
            self._waits_for = waits_for
            waits_for.when_done(self._wake)

    def _wake(self, future: Future) -> None:
        if self._waits_for is future:
            self._loop.call_soon(self.step)

    def cancel(self) -> None:
        """Throw Cancelled into the coroutine at its await."""
        if not self.done():
            self._waits_for = None
            self.step(Cancelled("no longer wanted"))


class Loop:
    """Readers, writers, timers, coroutines. Times are seconds of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._epoll = epoll()
        self._watched: dict[int, dict[int, Callable[[], object]]] = {}
        self._timers: list[Timer] = []
        self._ready: deque[Callable[[], object]] = deque()
        self._running = False
        self.after_turn: list[Callable[[], object]] = []
        self.on_error: Callable[[BaseException], None] = _raise

    @staticmethod
    def now_s() -> float:
        """CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run it in the next turn."""
        self._ready.append(callback)

    @property
    def idle(self) -> bool:
        """Is nothing else due in this turn? For callbacks of `call_soon`, which come before what was waited for."""
        return not self._ready

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Run it after `delay_s` seconds."""
        timer = Timer(time.monotonic() + delay_s, callback)
        heappush(self._timers, timer)
        return timer

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        """Call back whenever `fd` is readable."""
        self._set(fd, EPOLLIN, callback)

    def remove_reader(self, fd: int) -> None:
        """No longer; unknown fds are fine."""
        self._set(fd, EPOLLIN, None)

    def add_writer(self, fd: int, callback: Callable[[], object]) -> None:
        """Call back whenever `fd` is writable."""
        self._set(fd, EPOLLOUT, callback)

    def remove_writer(self, fd: int) -> None:
        """No longer; unknown fds are fine."""
        self._set(fd, EPOLLOUT, None)

    def _set(self, fd: int, event: int, callback: Callable[[], object] | None) -> None:
        callbacks = self._watched.get(fd)
        if callbacks is None:
            if callback is not None:
                self._epoll.register(fd, event)
                self._watched[fd] = {event: callback}
            return
        before = sum(callbacks)
        if callback is None:
            callbacks.pop(event, None)
        else:
            callbacks[event] = callback
        events = sum(callbacks)
        if not events:
            del self._watched[fd]
            try:
                self._epoll.unregister(fd)
            except OSError:
                # It was closed: the kernel has forgotten it by itself.
                return
        elif events != before:
            self._epoll.modify(fd, events)

    def spawn(self, coroutine: Coroutine[Future, None, Any]) -> Task:
        """Run a coroutine; an error goes to whoever waits for the task when it fails, else to `on_error`."""
        task = Task(self, coroutine)
        self.call_soon(task.start)
        return task

    def run_once(self, timeout_s: float | None = None) -> None:
        """One turn: wait for the first event or timer, run what is due, then `after_turn`."""
        self._select(self._wait_s(timeout_s))
        now = time.monotonic()
        while self._timers and self._timers[0].when_s <= now:
            timer = heappop(self._timers)
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                self._ready.append(callback)
        for _ in range(len(self._ready)):
            self._call(self._ready.popleft())
        for hook in self.after_turn:
            self._call(hook)

    def _wait_s(self, timeout_s: float | None) -> float | None:
        while self._timers and self._timers[0].callback is None:
            heappop(self._timers)
        if self._ready:
            return 0.0
        if self._timers:
            due_s = max(0.0, self._timers[0].when_s - time.monotonic())
            return due_s if timeout_s is None else min(due_s, timeout_s)
        return timeout_s

    def _select(self, wait_s: float | None) -> None:
        for fd, events in self._epoll.poll(wait_s, max(1, len(self._watched))):
            callbacks = self._watched.get(fd)
            if callbacks is None:
                continue
            # An error or a hang-up is for whoever watches, reader or writer: the next read or write says which.
            if events & ~EPOLLOUT and EPOLLIN in callbacks:
                self._ready.append(callbacks[EPOLLIN])
            if events & ~EPOLLIN and EPOLLOUT in callbacks:
                self._ready.append(callbacks[EPOLLOUT])

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception as error:  # noqa: BLE001  # handed to the kernel, which counts and gives up
            self.on_error(error)

    def run(self) -> None:
        """Turn until `stop`."""
        self._running = True
        while self._running:
            self.run_once()

    def stop(self) -> None:
        """End `run` after this turn."""
        self._running = False

    def run_until(self, future: Future, timeout_s: float = 30.0) -> Any:
        """Turn until `future` is settled (start-up, tests); Expired after `timeout_s`."""
        limit = time.monotonic() + timeout_s
        future.when_done(lambda _future: None)
        while not future.done():
            left = limit - time.monotonic()
            if left <= 0:
                raise Expired(f"not done after {timeout_s:g} s")
            self.run_once(left)
        return future.result()

    async def sleep(self, delay_s: float) -> None:
        """Wait without blocking the loop."""
        future = Future()
        self.call_later(delay_s, future.set_result)
        await future

    async def within(self, awaitable: Awaitable[Any], limit_s: float, what: str = "it") -> Any:
        """The result of `awaitable`; Expired (and the coroutine cancelled) when it takes longer than `limit_s`."""
        inner: Future = awaitable if isinstance(awaitable, Future) else self.spawn(awaitable)  # type: ignore[arg-type]
        outer = Future()
        inner.when_done(lambda _inner: outer.set_result())
        timer = self.call_later(limit_s, lambda: outer.set_exception(Expired(f"{what} took longer than {limit_s:g} s")))
        try:
            await outer
        except (Expired, Cancelled):
            if isinstance(inner, Task):
                inner.cancel()
            raise
        finally:
            timer.cancel()
        return inner.result()

    async def gather(self, *coroutines: Coroutine[Future, None, Any]) -> list[Any]:
        """Run them together; all results in order, or the first error after all have ended."""
        tasks = [self.spawn(coroutine) for coroutine in coroutines]
        ends = [Future() for _ in tasks]
        for task, ended in zip(tasks, ends, strict=True):
            task.when_done(ended.set_result)
        for ended in ends:
            await ended
        return [task.result() for task in tasks]


def _raise(error: BaseException) -> None:
    raise error
