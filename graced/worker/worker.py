"""A program's main loop around one function: connect, take leases, show signs of life, stop in good order.

The main thread waits for the Work stream, signals and ends of functions; functions run in threads of their own, a
further thread sends heartbeats. Standard library only, apart from sd_notify.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
import time

from graced.base.errors import GracedError, WireError
from graced.base.log import INFO, WARNING, log
from graced.base.notify import Notifier, watchdog_interval_s
from graced.base.paths import Paths
from graced.varlink.wire import VarlinkError
from graced.worker.link import NAME, Control, WorkStream, jittered
from graced.worker.runs import Runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.worker.runs import Function

HEARTBEAT_SECONDS = 10.0
UNSETTLED_SECONDS = 1.0
MAX_NAME_CHARS = 64
FATAL = frozenset({"PermissionDenied", "InvalidRequest", "InvalidParameter", "MethodNotFound", "ExpectedMore"})
STOPS = "the worker is stopping"
RUNNING, DRAINING, STOPPING, ENDED = range(4)


class Worker:
    """Works on the tasks of `handler`, at most `credits` at once.

    `drain_seconds`: how long SIGTERM lets functions finish; `grace_seconds`: how long they then have to stop before
    their tasks are handed back and the process ends. `socket`: another supervisor's socket (tests).
    """

    def __init__(
        self,
        handler: str,
        credits: int = 1,  # noqa: A002  # the interface's word
        *,
        drain_seconds: float = 20.0,
        grace_seconds: float = 5.0,
        socket: str | None = None,
    ) -> None:
        self.handler = handler
        self.credits = credits
        # one process, one worker: a name that no other has, also across PID namespaces
        suffix = f"-{os.getpid()}-{os.urandom(3).hex()}"
        self.name = handler[: MAX_NAME_CHARS - len(suffix)] + suffix
        self._drain_seconds = drain_seconds
        self._grace_seconds = grace_seconds
        self._socket = socket or Paths().socket(NAME)
        self._function: Function | None = None
        self._control = Control(self._socket)
        self._notifier = Notifier()
        self._stream: WorkStream | None = None
        self._heard = False
        self._failures = 0
        self._next_try_s = 0.0
        self._trouble = ""
        self._ready = False
        self._phase = RUNNING
        self._phase_ends_s = 0.0
        self._stop_requests = 0
        self._beat = threading.Event()

    def handle(self, function: Function) -> Function:
        """Decorator: call `function` with each Task. What it returns (a dict or None) is the task's result."""
        self._function = function
        return function

    def stop(self) -> None:
        """As SIGTERM does: take no more, finish, hand back. The second time: finish only what stops at once."""
        self._stop_requests += 1
        self._wake()

    def run(self) -> None:
        """Work until SIGTERM or SIGINT (when called in the main thread) or `stop`.

        Raises VarlinkError when this account may not work on the handler, or its name is none.
        """
        if self._function is None:
            raise GracedError("the worker has no function", hint="decorate one with @worker.handle")
        self._runs = Runs(self._function, self.credits, self.name, self._control, self._wake)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._take_signals()
        threading.Thread(target=self._beats, name="heartbeat", daemon=True).start()
        try:
            while self._phase != ENDED:
                self._connect()
                self._wait()
                self._advance()
                self._show()
        finally:
            self._phase = ENDED
            self._beat.set()
            self._disconnect()
            self._control.close()
            self._selector.close()
            # the pipe stays: a function that did not stop may still wake this loop

    # -- the loop ---------------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())

    def _wake(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.write(self._wake_write, b"\0")

    def _wait(self) -> None:
        now_s = time.monotonic()
        times = [now_s + (watchdog_interval_s() or 60.0)]
        if self._stop_requests and self._phase == RUNNING:
            return
        if self._phase != RUNNING:
            times.append(self._phase_ends_s)
        elif self._stream is None:
            times.append(self._next_try_s)
        for key, _ in self._selector.select(max(0.0, min(times) - now_s)):
            if key.fd == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            else:
                self._read()

    def _show(self) -> None:
        self._notifier.watchdog()
        if not self._ready and (self._heard or self._trouble):
            self._ready = True
            self._notifier.ready(self.status())
        elif self._ready:
            self._notifier.status(self.status())

    def status(self) -> str:
        """How it is, in one sentence."""
        done = f"{self._runs.running} running, {self._runs.ended} ended since start"
        if self._phase != RUNNING:
            return f"Stopping: {done}"
        if not self._heard:
            return f"Waiting for the task manager: {self._trouble or 'connecting'} ({done})"
        return f"Working on {self.handler}: {done}"

    # -- connection -------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._stream is not None or self._phase != RUNNING or time.monotonic() < self._next_try_s:
            return
        try:
            self._stream = WorkStream(self._socket, self.handler, self.name, self.credits)
        except WireError as error:
            self._later(str(error))
            return
        self._selector.register(self._stream.fileno(), selectors.EVENT_READ)

    def _later(self, trouble: str) -> None:
        self._failures += 1
        if trouble != self._trouble:
            log(WARNING, f"the task manager is not there: {trouble}")
        self._trouble = trouble
        self._next_try_s = time.monotonic() + jittered(self._failures)

    def _disconnect(self) -> None:
        if self._stream is not None:
            self._selector.unregister(self._stream.fileno())
            self._stream.close()
            self._stream = None
        self._heard = False

    def _read(self) -> bool:
        """Take what came; False when nothing did."""
        if self._stream is None:
            return False
        try:
            items, over = self._stream.read()
        except VarlinkError as error:
            if error.name in FATAL:
                raise
            items, over, trouble = [], True, str(error)
        except WireError as error:
            items, over, trouble = [], True, str(error)
        else:
            trouble = "the stream ended"
        for item in items:
            self._take(item)
        if over:
            self._disconnect()
            self._runs.lose()
            self._later(trouble)
        return bool(items)

    def _take(self, item: JsonDict) -> None:
        if not self._heard:
            self._heard = True
            self._failures = 0
            if self._trouble:
                log(INFO, "the task manager is back")
            self._trouble = ""
            self._control.close()
        lease, revoked = item.get("lease"), item.get("revoked")
        if isinstance(lease, dict):
            self._runs.lease(lease)
        if isinstance(revoked, dict):
            self._runs.revoke(revoked)
        self._beat.set()

    # -- signs of life ----------------------------------------------------------------------------------------------

    def _beats(self) -> None:
        last_s = time.monotonic()
        while self._phase != ENDED:
            self._beat.wait(UNSETTLED_SECONDS if self._runs.unsettled else HEARTBEAT_SECONDS)
            self._beat.clear()
            if not self._heard:
                continue
            if self._runs.leased and time.monotonic() - last_s >= HEARTBEAT_SECONDS / 2:
                self._heartbeat()
                last_s = time.monotonic()
            self._runs.settle_all()

    def _heartbeat(self, **more: object) -> None:
        try:
            self._control.call("Heartbeat", {"worker": self.name, **more})
        except GracedError as error:
            # the stream shows whether the leases are gone
            if self._phase == RUNNING:
                log(WARNING, f"heartbeat failed: {error}")

    # -- the end ----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        if self._phase == RUNNING and self._stop_requests:
            self._phase = DRAINING
            self._phase_ends_s = time.monotonic() + self._drain_seconds
            if self._heard:
                # before anything is given back, or it would come here again
                self._heartbeat(credits=0)
            self._runs.refuse(STOPS)
            while self._read():
                pass
            self._notifier.stopping(self.status())
        due = time.monotonic() >= self._phase_ends_s
        if self._phase == DRAINING and (due or self._stop_requests > 1):
            self._phase = STOPPING
            self._phase_ends_s = time.monotonic() + self._grace_seconds
            self._runs.stop(STOPS)
        elif self._phase == STOPPING and due:
            for name in self._runs.abandon(STOPS):
                log(WARNING, f"{name} did not stop: handed back while its function was running")
            self._phase = ENDED
        if self._phase in {DRAINING, STOPPING} and not self._runs.busy:
            self._runs.settle_all()
            self._phase = ENDED
