"""One thread beside the loop, for work that waits for the disk inside C code. Started at the first job.

Jobs run one after the other; each one's outcome comes back as a call on the loop. A job must not touch anything the
loop uses, and hold the interpreter only for moments: while it does, the loop stands still.
"""

from __future__ import annotations

import os
from collections import deque

from graced.base.errors import StoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from queue import SimpleQueue
    from typing import Any, TypeAlias

    from graced.runtime.loop import Loop

    Job: TypeAlias = Callable[[], Any]
    Then: TypeAlias = Callable[[Any, StoreError | None], object]


class Background:
    """See the module. Used on the loop only."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._thread: threading.Thread | None = None
        self._jobs: SimpleQueue[tuple[Job, Then] | None]
        self._done: deque[tuple[Then, Any, BaseException | None]] = deque()
        self._fd = -1
        self._closed = False

    def run(self, job: Job, then: Then) -> None:
        """Run `job()` on the thread, then ``then(result, None)`` or ``then(None, error)`` on the loop.

        Other errors than StoreError are raised on the loop, and `then` is not called.
        """
        if self._closed:
            return
        if self._thread is None:
            self._start()
        self._jobs.put((job, then))

    def _start(self) -> None:
        import threading
        from queue import SimpleQueue

        self._jobs = SimpleQueue()
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._loop.add_reader(self._fd, self._deliver)
        self._thread = threading.Thread(target=self._work, name="housekeeping", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, then = item
            result: Any = None
            failure: BaseException | None = None
            try:
                result = job()
            except Exception as error:  # noqa: BLE001  # handed to the loop
                failure = error
            self._done.append((then, result, failure))
            os.eventfd_write(self._fd, 1)

    def _deliver(self) -> None:
        os.eventfd_read(self._fd)
        while self._done:
            then, result, failure = self._done.popleft()
            if failure is not None and not isinstance(failure, StoreError):
                os.eventfd_write(self._fd, 1)  # the others are delivered in the next turn
                raise failure
            then(result, failure)

    def close(self, last: Callable[[], object], timeout_s: float | None = None) -> None:
        """Wait for the job under way, run `last` on the thread (not when there never was one), and end it.

        No `then` is called any more. What takes longer than `timeout_s` is left behind: it ends with the process.
        """
        self._closed = True
        if self._thread is None:
            return
        self._jobs.put((last, _nothing))
        self._jobs.put(None)
        self._thread.join(timeout_s)
        self._loop.remove_reader(self._fd)
        if not self._thread.is_alive():
            # Whoever is left behind still writes to it.
            os.close(self._fd)
        self._thread = None
        self._done.clear()


def _nothing(*_args: object) -> None:
    """Nobody waits for it."""
