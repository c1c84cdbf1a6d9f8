"""Why a task is where it is, in sentences for the person who asks: what it waits for, since when, what to do.

Pure: made from the facts of io.graced.HTM.Why and the task's last event.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

_SHOWN_CHILDREN = 5


def sentences(name: str, facts: JsonDict, last: JsonDict | None, store_error: str) -> list[str]:
    """What to say about task `name`, most important first.

    `last` is its newest event; `store_error` is why the store refuses to commit, "" while it does not.
    """
    state = facts["state"]
    text = []
    if store_error and state in {"queued", "waiting", "leased"}:
        text.append(f"The queue cannot be written ({store_error}): nothing is given out until it can.")
    text += _STATES[state](name, facts, last or {})
    if state in {"queued", "waiting", "leased"}:
        text += _history(facts) + _deadline(facts)
    return text


def _queued(_name: str, facts: JsonDict, _last: JsonDict) -> list[str]:
    handler, mode, workers, free = facts["handler"], facts["mode"], facts["workers"], facts["free_credits"]
    text = []
    if mode is not None and mode["mode"] == "paused":
        everything = mode["handler"] == "*"
        what = "All handlers are" if everything else f"The handler {handler} is"
        held = "'*'" if everything else handler
        text.append(
            f"{what} paused by {mode['by']} since {mode['since']}{_because(mode['reason'])}."
            f" gracectl resume --handler {held} ends that."
        )
    if workers == 0:
        text.append(f"No worker is connected for {handler}: nobody could run it. Start one.")
    elif free == 0:
        busy = "its only worker is" if workers == 1 else f"all {workers} workers are"
        text.append(f"It waits for a free worker of {handler}: {busy} busy.")
    text.append(_place(facts))
    return text


def _place(facts: JsonDict) -> str:
    ahead = facts["ahead"]
    if not ahead:
        return f"It is the next one that {facts['handler']} gets."
    if facts["ahead_truncated"]:
        return f"At least {ahead} tasks are before it."
    return "1 task is before it." if ahead == 1 else f"{ahead} tasks are before it."


def _waiting(name: str, facts: JsonDict, last: JsonDict) -> list[str]:
    text = []
    children = facts["open_children"]
    if children:
        shown = ", ".join(children[:_SHOWN_CHILDREN])
        more = facts["open_children_count"] - len(children[:_SHOWN_CHILDREN])
        rest = f" and {more} more" if more > 0 else ""
        text.append(f"It waits for tasks below it to end: {shown}{rest}. See gracectl tree {name}.")
    at = facts["not_before_at"]
    if at is not None:
        when = f"{_in(facts['not_before_seconds'])} ({at})"
        if last.get("kind") == "retry":
            text.append(f"Attempt {last['attempt']} failed{_because(last['detail'])}; it is tried again {when}.")
        elif last.get("kind") == "deferred":
            text.append(f"Its worker handed it back{_because(last['detail'])}; it is queued again {when}.")
        else:
            text.append(f"It was submitted with a delay and is queued {when}.")
    return text or ["It waits, and nothing is known of what for: please report this."]


def _leased(_name: str, facts: JsonDict, _last: JsonDict) -> list[str]:
    text = [f"Worker {facts['worker']} works on it (attempt {facts['attempt']})."]
    seconds = facts["last_sign_of_life_seconds"]
    if seconds is not None:
        text.append(f"The last sign of life came {_span(seconds)} ago.")
    progress = facts.get("progress")
    if progress:
        percent = "" if progress["percent"] is None else f" {progress['percent']:g} %"
        text.append(f"Progress:{percent}{_because(progress['message'])} (at {progress['at']}).")
    return text


def _done(name: str, _facts: JsonDict, _last: JsonDict) -> list[str]:
    return [f"It is done: gracectl task {name} shows its result."]


def _failed(name: str, facts: JsonDict, _last: JsonDict) -> list[str]:
    return [f"It has failed{_because(facts['error'])}.", _requeue(name)]


def _dead(name: str, facts: JsonDict, _last: JsonDict) -> list[str]:
    times = "its only attempt" if facts["max_attempts"] == 1 else f"all {facts['max_attempts']} attempts"
    return [f"It has used up {times}; the last error{_because(facts['error'])}.", _requeue(name)]


def _cancelled(name: str, _facts: JsonDict, last: JsonDict) -> list[str]:
    reason = last["detail"] if last.get("kind") == "cancelled" else None
    return [f"It was cancelled{_because(reason)}.", _requeue(name)]


def _requeue(name: str) -> str:
    return f"Once the cause is gone: gracectl requeue {name}."


def _history(facts: JsonDict) -> list[str]:
    failures = facts["failures"]
    if not failures:
        return []
    return [f"It has failed {failures} of {facts['max_attempts']} times{_because(facts['error'])}."]


def _deadline(facts: JsonDict) -> list[str]:
    slack_seconds = facts["slack_seconds"]
    if slack_seconds < 0:
        return [f"Its deadline passed {_span(-slack_seconds)} ago ({facts['deadline_at']})."]
    return [f"Its deadline is {_in(slack_seconds)} ({facts['deadline_at']})."]


def _because(reason: str | None) -> str:
    return f": {reason.rstrip('.')}" if reason else ""


def _in(seconds: float) -> str:
    return "now" if seconds <= 0 else f"in {_span(seconds)}"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


_STATES = {
    "queued": _queued,
    "waiting": _waiting,
    "leased": _leased,
    "done": _done,
    "failed": _failed,
    "dead": _dead,
    "cancelled": _cancelled,
}
