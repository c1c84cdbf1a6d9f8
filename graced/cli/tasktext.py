"""Tasks of the hierarchical task manager as text: rows of a table, a tree, what became of one.

Pure: the time is given (`now_s`: seconds since the epoch), times of tasks are RFC 3339 UTC by the same clock. What a
reply does not say is a dash, never a guess.
"""

from __future__ import annotations

from graced.cli.output import UNKNOWN, brief, cell, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from graced.base.json import JsonDict

STATES = ("queued", "waiting", "leased", "done", "failed", "dead", "cancelled")
ENDED = frozenset({"done", "failed", "dead", "cancelled"})
HEADINGS = ("task", "state", "priority", "handler", "type", "due", "tries", "about")

_LINES = {True: ("├─ ", "└─ ", "│  "), False: ("|- ", "`- ", "|  ")}


def ended(task: JsonDict) -> bool:
    """Whether nothing more happens to it by itself."""
    return str(task.get("state")) in ENDED


def seconds_of(stamp: object) -> float | None:
    """An RFC 3339 time in seconds since the epoch; None for anything else."""
    from datetime import datetime

    if not isinstance(stamp, str):
        return None
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None


def age_s(task: JsonDict, field: str, now_s: float) -> float | None:
    """How long ago the time in `field` was, in seconds; None when it is not known."""
    stamp = seconds_of(task.get(field))
    return None if stamp is None else now_s - stamp


def slack_s(task: JsonDict, now_s: float) -> float | None:
    """Seconds until the deadline, negative after it; None when there is none."""
    stamp = seconds_of(task.get("deadline_at"))
    return None if stamp is None else stamp - now_s


def due(task: JsonDict, now_s: float) -> str:
    """``in 3m``, ``late 12s``; a dash for a task that has ended or has no deadline."""
    slack = slack_s(task, now_s)
    if slack is None or ended(task):
        return UNKNOWN
    return f"in {brief(slack)}" if slack >= 0 else f"late {brief(-slack)}"


def progress_of(task: JsonDict) -> str:
    """``40 % copying``; empty when the worker has not said anything."""
    progress = task.get("progress")
    if not isinstance(progress, dict):
        return ""
    percent, message = progress.get("percent"), progress.get("message")
    words = [f"{percent:g} %"] if isinstance(percent, (int, float)) else []
    return printable(" ".join([*words, str(message)] if message else words))


def about(task: JsonDict) -> str:
    """What one would want to know about it in a few words: its error, its progress, or its unit."""
    context = task.get("context")
    unit = context.get("unit") if isinstance(context, dict) else None
    said = task.get("error") if ended(task) else progress_of(task)
    return ": ".join(printable(str(part)) for part in (unit, said) if part)


def row(task: JsonDict, now_s: float) -> tuple[object, ...]:
    """One line of the table of tasks, for HEADINGS."""
    return (
        task.get("id"),
        task.get("state"),
        task.get("priority"),
        task.get("handler"),
        task.get("task_type"),
        due(task, now_s),
        task.get("attempts"),
        about(task),
    )


def draw(root: JsonDict, now_s: float, *, unicode: bool = True) -> Iterator[tuple[str, str]]:
    """The tree below `root` (children in "children"): (branch and name, what is known of it), parents first."""
    tee, corner, bar = _LINES[unicode]
    # a stack of its own: a chain of tasks may be longer than Python's recursion limit
    stack = [(root, "", "")]
    while stack:
        task, lead, below = stack.pop()
        yield f"{lead}{cell(task.get('id'))}", _node(task, now_s)
        children = [child for child in task.get("children") or [] if isinstance(child, dict)]
        for child in reversed(children):
            last = child is children[-1]
            stack.append((child, below + (corner if last else tee), below + ("   " if last else bar)))


def _node(task: JsonDict, now_s: float) -> str:
    name = f"{cell(task.get('handler'))}/{cell(task.get('task_type'))}"
    return "  ".join(part for part in (name, cell(task.get("state")), *_since(task, now_s), about(task)) if part)


def _since(task: JsonDict, now_s: float) -> Iterator[str]:
    """How long it took, or has been at it, and when it is due."""
    state = task.get("state")
    if ended(task):
        begun_s, ended_s = seconds_of(task.get("started_at")), seconds_of(task.get("finished_at"))
        if begun_s is not None and ended_s is not None and ended_s >= begun_s:
            yield f"in {brief(ended_s - begun_s)}"
        return
    waited = age_s(task, "started_at" if state == "leased" else "created_at", now_s)
    if waited is not None:
        yield f"for {brief(waited)}"
    if state == "leased" and task.get("worker"):
        yield f"by {cell(task['worker'])}"
    open_children = task.get("open_children")
    if state == "waiting" and open_children:
        yield f"{open_children} open below"
    if (when := due(task, now_s)) != UNKNOWN:
        yield f"due {when}" if when.startswith("in") else when
