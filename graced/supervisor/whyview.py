"""io.graced.HTM.Why: what the engine knows about a task as facts for machines and as sentences for people."""

from __future__ import annotations

from graced.base.clock import iso
from graced.model.task import task_name
from graced.supervisor.taskstats import mode_json
from graced.supervisor.taskview import event_json, progress_json
from graced.supervisor.whytext import sentences

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.htm.why import Why
    from graced.supervisor.queue import Queue


def why_json(queue: Queue, number: int) -> tuple[list[str], JsonDict]:
    """(sentences, facts). Raises TaskError: no-such-task, StoreError."""
    why = queue.engine.why(number)
    events = queue.store.events(number)
    facts = _facts(queue, why)
    last = event_json(events[-1], queue.timeline) if events else None
    return sentences(task_name(number), facts, last, queue.error), facts


def _facts(queue: Queue, why: Why) -> JsonDict:
    task = queue.engine.book.get(why.number)
    timeline = queue.timeline
    modes = {mode.handler: mode for mode in queue.engine.modes()}
    held = [modes[name] for name in (why.handler, "*") if name in modes and modes[name].word == why.mode]
    return {
        "state": why.state,
        "handler": why.handler,
        "mode": {"handler": held[0].handler, **mode_json(held[0], timeline)} if held else None,
        "workers": why.workers,
        "free_credits": why.free_credits,
        "ahead": why.ahead,
        "ahead_truncated": why.ahead_truncated,
        "not_before_at": None if why.not_before_us is None else iso(timeline.wall_us(why.not_before_us)),
        "not_before_seconds": None if why.not_before_us is None else (why.not_before_us - why.now_us) / 1e6,
        "open_children": [task_name(child) for child in why.open_children],
        "open_children_count": why.open_count,
        "worker": why.worker,
        "attempt": task.attempts,
        "progress": progress_json(task, timeline),
        "last_sign_of_life_seconds": None if why.silent_us is None else why.silent_us / 1e6,
        "deadline_at": iso(timeline.wall_us(why.deadline_us)),
        "slack_seconds": None if why.slack_us is None else why.slack_us / 1e6,
        "failures": why.failures,
        "max_attempts": why.max_attempts,
        "error": why.error,
    }
