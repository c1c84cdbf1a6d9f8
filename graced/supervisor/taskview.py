"""Tasks as they cross the wire: what a person or a worker gets to see.

Only shapes; the rules are in graced.htm, what a caller may send is in graced.supervisor.taskparse.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.base.json import dumps_text, loads
from graced.htm.lease import LEASE_US
from graced.model.task import ON_CHILD_FAILURE, PRIORITIES, STATES, task_name

_LEASE_SECONDS = LEASE_US // 1_000_000

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.htm.lease import Lease
    from graced.htm.timeline import Timeline
    from graced.model.task import Task

_SLA_WORDS = ("fine", "slack", "breached")


def lease_reply(lease: Lease, timeline: Timeline) -> str:
    """What a worker gets on its stream, as JSON text; ``children`` counts those of a task that has had any.

    The context goes out as it came in. Names need no escapes (graced.supervisor.taskparse.name_of).
    """
    task = lease.task
    children = ""
    if task.open_children or task.done_children or task.failed_children:
        children = (
            f',"children":{{"done":{task.done_children},"failed":{task.failed_children},"open":{task.open_children}}}'
        )
    return (
        f'{{"lease":{{"task_id":"task_{task.id}","attempt":{lease.attempt},"task_type":"{task.task_type}",'
        f'"handler":"{task.handler}","priority":"{PRIORITIES[task.priority]}","context":{task.context},'
        f'"intent_id":{_text_or_null(task.intent_id)},"reasoning":{_text_or_null(task.reasoning)},'
        f'"sla_boottime_us":{task.deadline_us - timeline.offset_us},"lease_seconds":{_LEASE_SECONDS}{children}}}}}'
    )


def _text_or_null(text: str | None) -> str:
    return "null" if text is None else dumps_text(text)


def revoked_json(lease: Lease, reason: str) -> JsonDict:
    """What a worker hears of a lease that is over."""
    return {"task_id": task_name(lease.task.id), "attempt": lease.attempt, "reason": reason}


def task_json(task: Task, timeline: Timeline) -> JsonDict:
    """Every field for people; times are UTC by the wall clock as it is now."""

    def at(queue_us: int | None) -> str | None:
        return None if queue_us is None else iso(timeline.wall_us(queue_us))

    return {
        "id": task_name(task.id),
        "state": STATES[task.state],
        "priority": PRIORITIES[task.priority],
        "handler": task.handler,
        "task_type": task.task_type,
        "origin": task.origin,
        "intent_id": task.intent_id,
        "parent": None if task.parent is None else task_name(task.parent),
        "open_children": task.open_children,
        "failed_children": task.failed_children,
        "on_child_failure": ON_CHILD_FAILURE[task.on_child_failure],
        "idempotency_key": task.idempotency_key,
        "sla_seconds": task.sla_seconds,
        "sla": _SLA_WORDS[task.sla_state],
        "created_at": iso(task.created_wall_us),
        "deadline_at": at(task.deadline_us),
        "not_before_at": at(task.not_before_us),
        "started_at": at(task.started_us),
        "finished_at": at(task.finished_us),
        "sla_boottime_us": timeline.boottime_us(task.deadline_us),
        "attempts": task.attempts,
        "failures": task.failures,
        "max_attempts": task.max_attempts,
        "worker": task.worker,
        "progress": progress_json(task, timeline),
        "context": loads(task.context),
        "reasoning": task.reasoning,
        "error": task.error,
        "result": None if task.result is None else loads(task.result),
    }


def progress_json(task: Task, timeline: Timeline) -> JsonDict | None:
    """How far it said it was."""
    if task.progress is None:
        return None
    said: JsonDict = loads(task.progress)
    return {"percent": said["percent"], "message": said["message"], "at": iso(timeline.wall_us(said["at_us"]))}


def event_json(event: tuple[int, str, int, str | None], timeline: Timeline) -> JsonDict:
    """One line of a task's history."""
    at_us, kind, attempt, detail = event
    return {"at": iso(timeline.wall_us(at_us)), "kind": kind, "attempt": attempt, "detail": detail}
