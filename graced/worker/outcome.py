"""What the end of a function means for its task: a verb of io.graced.HTM and its parameters. Pure."""

from __future__ import annotations

import traceback

from graced.base.errors import FormatError
from graced.base.json import dumps
from graced.base.record import Record
from graced.worker.task import Defer, Fail, Retry, WaitForChildren, checked_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

MAX_RESULT_BYTES = 65_536
MAX_ERROR_CHARS = 4096


class Outcome(Record):
    """One answer to a lease: `parameters` without task_id and attempt."""

    verb: str
    parameters: JsonDict


def done(result: JsonDict) -> Outcome:
    """The task is done."""
    return Outcome("Complete", {"result": result})


def failed(error: str, *, retry: bool) -> Outcome:
    """The attempt failed; `retry` False: so did the task."""
    return Outcome("Fail", {"error": _text(error), "retry": retry})


def handed_back(reason: str, delay_seconds: float = 0.0) -> Outcome:
    """Not done, no attempt used up."""
    return Outcome("Defer", {"delay_seconds": float(delay_seconds), "reason": _text(reason)})


def _text(text: str) -> str:
    # an error may quote bytes that are no text
    return text[-MAX_ERROR_CHARS:].encode(errors="replace").decode()


def of_return(value: object, *, stopped: str = "") -> Outcome:
    """The function returned. `stopped`: why it was told to stop because the worker ends, "" when it was not.

    A stopped function that returns None is taken not to have finished: the task is handed back.
    """
    if stopped and value is None:
        return handed_back(stopped)
    try:
        result = checked_result(value)
        size = len(dumps(result))
    except FormatError as error:
        return failed(error.message, retry=False)
    if size > MAX_RESULT_BYTES:
        return failed(f"the result has {size} bytes, at most {MAX_RESULT_BYTES} are kept", retry=False)
    return done(result)


def of_exception(error: BaseException, *, stopped: str = "") -> Outcome:
    """The function raised. Only Fail speaks against trying again; what a stopped one raised is not held against it."""
    if isinstance(error, WaitForChildren):
        return Outcome("Wait", {})
    if isinstance(error, Defer):
        return handed_back(str(error), error.delay_seconds)
    if isinstance(error, Fail):
        return failed(str(error) or "failed", retry=False)
    if stopped:
        return handed_back(stopped)
    if isinstance(error, Retry):
        return failed(str(error) or "to be tried again", retry=True)
    return failed(last_line(error), retry=True)


def last_line(error: BaseException) -> str:
    """An exception as the end of its traceback, on one line."""
    return " ".join(traceback.format_exception_only(type(error), error)[-1].split())
