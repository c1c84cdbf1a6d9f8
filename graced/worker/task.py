"""A task as the function that works on it sees it, and what that function may raise.

A Task is bound to one lease: `attempt` is its number. Every method may be called from any thread.
"""

from __future__ import annotations

import threading

from graced.base.clock import SystemClock, iso
from graced.base.errors import FormatError
from graced.base.json import get_dict, get_int, get_str, opt_dict, opt_str

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.json import JsonDict

    Say = Callable[[str, JsonDict], JsonDict]

_CLOCK = SystemClock()


class Retry(Exception):
    """Raise it: the attempt failed, try again after the queue's own pause. Any other exception does the same."""


class Fail(Exception):
    """Raise it: the task failed and trying again would not help."""


class Defer(Exception):
    """Raise it: not now. The task comes again after `delay_seconds`; no attempt is used up."""

    def __init__(self, delay_seconds: float, reason: str = "") -> None:
        super().__init__(reason or f"not before {delay_seconds:g} s from now")
        self.delay_seconds = delay_seconds


class WaitForChildren(BaseException):  # past `except Exception` in a function
    """Raised by `Task.wait_for_children`; not to be caught."""


class Task:
    """One lease of a task.

    `id` ("task_7"), `attempt` (from 1; also counts hand-backs), `handler`, `task_type`, `priority`, `context` (the
    object it was submitted with), `reasoning` and `intent_id` (or None), `children`: None when it has none, else how
    many of them are {"done", "failed", "open"}. `deadline` is UTC as ISO 8601 text, for people; `seconds_left()` does
    not step with the wall clock.
    """

    def __init__(self, lease: JsonDict, say: Say) -> None:
        """`say(verb, parameters)` calls the task manager. Raises FormatError when it is not a lease."""
        self.id = get_str(lease, "task_id", "lease")
        self.attempt = get_int(lease, "attempt", "lease")
        self.handler = get_str(lease, "handler", "lease")
        self.task_type = get_str(lease, "task_type", "lease")
        self.priority = get_str(lease, "priority", "lease")
        self.context = get_dict(lease, "context", "lease")
        self.reasoning = opt_str(lease, "reasoning", "lease")
        self.intent_id = opt_str(lease, "intent_id", "lease")
        self.children = opt_dict(lease, "children", "lease")
        self._deadline_us = get_int(lease, "sla_boottime_us", "lease")
        self.deadline = iso(_CLOCK.wall_us() + self._deadline_us - _CLOCK.boottime_us())
        self.cancel_reason = ""
        self._say = say
        self._lock = threading.RLock()
        self._cancelled = threading.Event()
        self._on_cancel: list[Callable[[], object]] = []

    def seconds_left(self) -> float:
        """Seconds to the deadline, negative after it."""
        return (self._deadline_us - _CLOCK.boottime_us()) / 1e6

    # -- stopping ---------------------------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        """Whether to stop: the task was cancelled, somebody else has it, or the worker ends. `cancel_reason` says."""
        return self._cancelled.is_set()

    def wait_cancelled(self, timeout_seconds: float | None = None) -> bool:
        """Sleep until it is cancelled, at most so long; returns `cancelled`."""
        return self._cancelled.wait(timeout_seconds)

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Call back once it is cancelled, in the worker's own thread: be short. At once when it is already."""
        with self._lock:
            self._on_cancel.append(callback)
            if self.cancelled:
                callback()

    def off_cancel(self, callback: Callable[[], object]) -> None:
        """Take `callback` back; it does not run any more when this returns."""
        with self._lock:
            self._on_cancel.remove(callback)

    def cancel(self, reason: str) -> None:
        """The worker's business: tell the function to stop."""
        with self._lock:
            if self.cancelled:
                return
            self.cancel_reason = reason
            self._cancelled.set()
            for callback in self._on_cancel:
                callback()

    # -- telling ----------------------------------------------------------------------------------------------------

    def progress(self, percent: float | None = None, message: str | None = None) -> None:
        """Say how far it is: percent 0 to 100. Raises GracedError as all of these do: FormatError, VarlinkError,
        WireError."""
        self._lease_say("Progress", {"percent": None if percent is None else float(percent), "message": message})

    def extend(self, seconds: float) -> None:
        """No heartbeat will come for up to `seconds` (3600 at most), as when the whole process is to be stopped."""
        self._lease_say("Extend", {"seconds": float(seconds)})

    def submit_child(
        self, task_type: str, context: JsonDict | None = None, *, handler: str | None = None, **more: object
    ) -> str:
        """Submit a task below this one, for this task's handler unless another is named; returns its id.

        `more` are further parameters of io.graced.HTM.Submit (priority, sla_seconds, idempotency_key, ...). An
        idempotency_key such as f"{task.id}/part-1" keeps a second attempt from submitting a live child again.
        """
        parameters = {"handler": handler or self.handler, "task_type": task_type, "context": context or {}}
        reply = self._say("Submit", {"priority": self.priority, **more, **parameters, "parent": self.id})
        return get_str(reply, "task_id", "reply")

    def wait_for_children(self) -> None:
        """Does not return: the task is handed back, and the function called again once its children have ended.

        It then finds `children` set: ``if task.children is None: ...submit them...; task.wait_for_children()``.
        """
        raise WaitForChildren(self.id)

    def _lease_say(self, verb: str, parameters: JsonDict) -> None:
        self._say(verb, {"task_id": self.id, "attempt": self.attempt, **parameters})


def checked_result(value: object) -> JsonDict:
    """What a function returned as a result: an object, or None for an empty one. Raises FormatError."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise FormatError(f"the function returned a {type(value).__name__}; a dict or None is needed")
