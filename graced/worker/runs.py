"""What a worker works on: one thread per task, bounded; what is said about each, and what a lost connection means.

A lease ends with the connection it came on. The function goes on meanwhile: when the task comes back to this worker as
the very next attempt, nobody else had it, and the run that is there (or its result) is used for it. Once somebody else
has had the task, or it has ended, the run is told to stop and what it returns is dropped.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque

from graced.base.errors import GracedError, WireError
from graced.base.json import get_dict, get_int, get_str, opt_str
from graced.base.log import WARNING, log
from graced.varlink.wire import VarlinkError
from graced.worker.outcome import Outcome, failed, handed_back, of_exception, of_return
from graced.worker.task import Defer, Fail, Retry, Task, WaitForChildren

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.json import JsonDict
    from graced.worker.link import Control

    Function = Callable[[Task], JsonDict | None]

LATER = frozenset({"Busy", "Unavailable"})
"""Errors that say nothing about the lease: the same is said again later."""
STILL_BUSY = "its worker is still busy with a task from before the connection ended"
PASS_ON_SECONDS = 1.0
GONE = frozenset({"NotLeased", "NoSuchTask"})
_EXPECTED = (Retry, Fail, Defer, WaitForChildren)


class Run:
    """One call of the function. `lost`: the lease ended with its connection; `outcome`: how it ended, not yet said;
    `stopped`: why the worker told it to stop, "" when it did not."""

    __slots__ = ("lost", "outcome", "saying", "stopped", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.lost = False
        self.outcome: Outcome | None = None
        self.saying = False
        self.stopped = ""


def adopts(run: Run, attempt: int) -> bool:
    """Does a new lease of the same task belong to this run? Then nobody had the task in between."""
    return run.lost and not run.task.cancelled and attempt == run.task.attempt + 1


def verdict(run: Run, task: JsonDict, worker: str) -> str:
    """Why a run whose lease was lost is over, from the task as the queue shows it now; "" while it may come back.

    Raises FormatError.
    """
    state, attempts = get_str(task, "state", "task"), get_int(task, "attempts", "task")
    if state in {"done", "failed", "dead", "cancelled"}:
        return f"{run.task.id} is {state}"
    next_is_mine = state == "leased" and attempts == run.task.attempt + 1 and opt_str(task, "worker") == worker
    if attempts > run.task.attempt and not next_is_mine:
        return f"{run.task.id} was given to another worker"
    return ""


class Runs:
    """The tasks of one worker. Thread safe."""

    def __init__(self, function: Function, limit: int, worker: str, control: Control, changed: Callable[[], None]):
        """At most `limit` functions run at once; `changed()` is called from any thread when one ended."""
        self._function = function
        self._limit = limit
        self._worker = worker
        self._control = control
        self._changed = changed
        self._lock = threading.RLock()
        self._runs: dict[str, Run] = {}
        self._held: deque[Task] = deque()
        self._refusal = ""
        self.ended = 0

    @property
    def running(self) -> int:
        """Functions that have not returned."""
        with self._lock:
            return sum(1 for run in self._runs.values() if run.outcome is None)

    @property
    def busy(self) -> bool:
        """Does a function run, or is being said how one ended?"""
        with self._lock:
            return any(run.outcome is None or run.saying for run in self._runs.values())

    @property
    def leased(self) -> int:
        """Leases that need a sign of life."""
        with self._lock:
            return len(self._held) + sum(1 for run in self._runs.values() if not run.lost)

    @property
    def unsettled(self) -> bool:
        """Is there a lost lease, or a result that was not taken yet?"""
        with self._lock:
            return any(run.lost or run.outcome is not None for run in self._runs.values())

    # -- leases -----------------------------------------------------------------------------------------------------

    def lease(self, lease: JsonDict) -> None:
        """A lease came. Raises FormatError when it is none."""
        task = Task(lease, self._say_for)
        with self._lock:
            run = self._runs.get(task.id)
            if run is not None and adopts(run, task.attempt):
                run.task.attempt = task.attempt
                run.task.children = task.children
                run.lost = False
                return
            self._held.append(task)
        if self._refusal:
            self.refuse(self._refusal)
        else:
            self.start()

    def start(self) -> None:
        """Start what waits for its turn."""
        with self._lock:
            for task in list(self._held):
                if self.running >= self._limit:
                    return
                before = self._runs.get(task.id)
                # two runs of one task would be in each other's way: the first, told to stop, ends before
                if before is None or before.outcome is not None:
                    self._held.remove(task)
                    run = self._runs[task.id] = Run(task)
                    threading.Thread(target=self._run, args=(run,), name=task.id, daemon=True).start()

    def refuse(self, reason: str) -> None:
        """Begin no more: give back the leases that were not begun, and those that still come."""
        with self._lock:
            self._refusal = reason
            held = list(self._held)
            self._held.clear()
        for task in held:
            self._tell(task, handed_back(reason))

    def revoke(self, revoked: JsonDict) -> None:
        """The queue took a lease away. Raises FormatError."""
        name, attempt = get_str(revoked, "task_id", "revoked"), get_int(revoked, "attempt", "revoked")
        reason = opt_str(revoked, "reason") or "revoked"
        with self._lock:
            held = [task for task in self._held if (task.id, task.attempt) == (name, attempt)]
            for task in held:
                self._held.remove(task)
            run = self._runs.get(name)
        for task in held:
            # nothing begun; the answer gives the credit back
            self._tell(task, handed_back(reason))
        if run is not None and run.task.attempt == attempt:
            run.task.cancel(reason)

    def lose(self) -> None:
        """The connection ended and with it every lease."""
        with self._lock:
            self._held.clear()
            for run in self._runs.values():
                run.lost = True

    def stop(self, reason: str) -> None:
        """The worker ends: tell every function to stop."""
        with self._lock:
            runs = list(self._runs.values())
            for run in runs:
                run.stopped = run.stopped or reason
        for run in runs:
            run.task.cancel(reason)

    def abandon(self, reason: str) -> list[str]:
        """Hand back what is still running; its ids."""
        with self._lock:
            left = [run for run in self._runs.values() if run.outcome is None]
        for run in left:
            if not run.lost:
                self._tell(run.task, handed_back(reason))
        return [run.task.id for run in left]

    # -- a run ------------------------------------------------------------------------------------------------------

    def _run(self, run: Run) -> None:
        try:
            value = self._function(run.task)
            outcome = of_return(value, stopped=run.stopped)
        except BaseException as error:  # noqa: BLE001  # whatever an admin's function raises is an answer
            outcome = of_exception(error, stopped=run.stopped)
            if not isinstance(error, _EXPECTED) and not run.task.cancelled:
                traceback.print_exception(error, file=sys.stderr)
        if outcome.verb == "Fail" and not run.task.cancelled:
            log(WARNING, f"{run.task.id} {run.task.task_type} failed: {outcome.parameters['error']}")
        with self._lock:
            run.outcome = outcome
            self.ended += 1
        self.settle(run)
        self.start()
        self._changed()

    def settle_all(self) -> None:
        """Say what was not taken yet, see what became of lost leases, and let others have what would wait for those."""
        with self._lock:
            runs = [run for run in self._runs.values() if run.lost or run.outcome is not None]
        for run in runs:
            self.settle(run)
        with self._lock:
            passed: list[Task] = []
            if any(run.lost and run.outcome is None for run in self._runs.values()):
                passed += self._held
                self._held.clear()
        for task in passed:
            self._tell(task, handed_back(STILL_BUSY, PASS_ON_SECONDS))

    def settle(self, run: Run) -> None:
        """Say how a run ended, or find out what became of its lease."""
        with self._lock:
            if run.saying:
                return
            run.saying = True
        try:
            over = self._look(run) if run.lost else self._say(run)
        finally:
            run.saying = False
        with self._lock:
            if over and run.outcome is not None and self._runs.get(run.task.id) is run:
                del self._runs[run.task.id]
        if over:
            self.start()
            self._changed()

    def _say(self, run: Run) -> bool:
        """Whether the outcome was heard, or nobody wants it."""
        outcome = run.outcome
        return outcome is not None and self._tell(run.task, outcome)

    def _tell(self, task: Task, outcome: Outcome) -> bool:
        try:
            self._control.call(outcome.verb, {"task_id": task.id, "attempt": task.attempt, **outcome.parameters})
        except VarlinkError as error:
            if error.name in GONE:
                return True
            if error.name in LATER:
                return False
            log(WARNING, f"{outcome.verb} of {task.id} was refused: {error}")
            return outcome.verb == "Fail" or self._tell(task, failed(f"{outcome.verb}: {error}", retry=False))
        except WireError:
            # heard or not: the next time shows, or the task comes again
            return False
        return True

    def _look(self, run: Run) -> bool:
        if run.task.cancelled:
            return True
        try:
            task = get_dict(self._control.call("Get", {"task_id": run.task.id}), "task", "reply")
            reason = verdict(run, task, self._worker)
        except VarlinkError as error:
            reason = str(error) if error.name in GONE else ""
        except GracedError:
            reason = ""
        if not run.lost:
            # it came back meanwhile
            return False
        if reason:
            run.task.cancel(reason)
        return bool(reason)

    def _say_for(self, verb: str, parameters: JsonDict) -> JsonDict:
        """What a function says through its Task. A report that cannot be made is no reason to stop working."""
        if verb == "Submit":
            return self._control.call(verb, parameters)
        with self._lock:
            run = self._runs.get(parameters["task_id"])
        if run is None or run.lost:
            return {}
        try:
            return self._control.call(verb, parameters)
        except WireError:
            return {}
        except VarlinkError as error:
            if error.name in LATER:
                return {}
            if error.name not in GONE:
                raise
            run.task.cancel(str(error))
            return {}
