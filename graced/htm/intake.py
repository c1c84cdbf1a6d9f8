"""The way in: one task, a tree, many at once, and an ended one again.

Everything that may refuse is asked before anything changes, so a refusal leaves nothing behind.
"""

from __future__ import annotations

from graced.base.errors import TaskError
from graced.htm import hierarchy, sla
from graced.htm.core import Core
from graced.htm.limits import admit
from graced.htm.mode import DRAINED
from graced.htm.order import rank_us
from graced.htm.retry import MAX_ATTEMPTS
from graced.model.task import (
    DEFAULT_SLA_SECONDS,
    DONE,
    FAIL,
    LOW,
    NORMAL,
    QUEUED,
    SLA_FINE,
    STATES,
    WAITING,
    Task,
    task_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    _Node: TypeAlias = tuple[dict[str, Any], int | None, bool]

DRAINED_RETRY_MS = 60_000
STRAINED_RETRY_MS = 10_000


class Intake(Core):
    """See the module."""

    def submit(
        self,
        handler: str,
        task_type: str,
        *,
        origin: str,
        priority: int = NORMAL,
        sla_seconds: int | None = None,
        context: str = "{}",
        reasoning: str | None = None,
        intent_id: str | None = None,
        parent: int | None = None,
        idempotency_key: str | None = None,
        delay_us: int = 0,
        max_attempts: int = MAX_ATTEMPTS,
        on_child_failure: int = FAIL,
        holding: bool = False,
        admitted: bool = False,
    ) -> tuple[int, bool]:
        """Take a task in: (its number, False), or the number of the live one with this key and True.

        `context` is JSON text. `holding`: it waits for children that are submitted in this turn. `admitted`: whether
        it may enter has been asked. Raises TaskError: busy, no-such-task (the parent), parent-ended.
        """
        if not admitted:
            if idempotency_key is not None:
                known = self.book.live_with_key(idempotency_key)
                if known:
                    self.counts.deduplicated += 1
                    return known, True
            self._admit(handler, priority, origin, parent)
        now_us = self.timeline.stamp_us()
        seconds = DEFAULT_SLA_SECONDS[priority] if sla_seconds is None else sla_seconds
        start_us = now_us + delay_us
        deadline_us = start_us + seconds * 1_000_000
        if parent is not None:
            deadline_us = hierarchy.adopt(self.book, parent, deadline_us)
        rank = rank_us(priority, start_us, deadline_us, self._expected.us(handler, task_type))
        timeline = self.timeline
        wall_us = timeline.clock.wall_us()
        number = self.book.next_number()
        sla_next_us = sla.next_event_us(SLA_FINE, seconds, deadline_us, now_us)
        waits = delay_us or holding
        task = Task(
            (
                number, WAITING if waits else QUEUED, priority, rank, 0, 0, max_attempts, parent, 0, on_child_failure,
                handler, task_type, origin, intent_id, idempotency_key, seconds, now_us, wall_us,
                wall_us + deadline_us - now_us, timeline.boot, deadline_us - timeline.offset_us,
                start_us if delay_us else None, SLA_FINE, sla_next_us, None, None, None, context, reasoning, None, None,
                0, 0, None,
            ),
            deadline_us,
        )  # fmt: skip
        self.book.add(task)
        if self.book.turn.heard:
            self.book.turn.said(number, now_us, "submitted", 0, None)
        self._watch_at(sla_next_us)
        if not waits:
            self.book.enqueue(task)
        elif delay_us:
            self._wake_at(start_us)
        return number, False

    def submit_tree(self, spec: dict[str, Any], origin: str) -> list[tuple[int, bool]]:
        """Take in a task and all below it, or nothing: (number, known) of each, parents before their children.

        `spec` has the arguments of `submit`; "children" is a list of such. A task with children waits until they have
        ended. A known root (the key of a live task) is all there is in the answer. Raises TaskError: as `submit`;
        key-in-use when a key below the root is that of another task.
        """
        return self.submit_batch([spec], origin)[0]

    def submit_batch(self, specs: list[dict[str, Any]], origin: str) -> list[list[tuple[int, bool]]]:
        """Several trees, all or nothing: what `submit_tree` returns for each. Raises TaskError as that does.

        One whose root has the key of an earlier one in the batch is known, too.
        """
        if len(specs) > 1 and not any("children" in spec for spec in specs):
            return self._submit_plain(specs, origin)
        plans = [_flat(spec) for spec in specs]
        known: dict[int, int] = {}
        twins: dict[int, int] = {}
        roots: dict[str, int] = {}
        keys: set[str] = set()
        for place, plan in enumerate(plans):
            key = plan[0][0].get("idempotency_key")
            number = 0 if key is None else self.book.live_with_key(key)
            if number:
                known[place] = number
            elif key is not None and key in roots:
                twins[place] = roots[key]
            else:
                self._claim(plan, keys)
                if key is not None:
                    roots[key] = place
        fresh = [place for place in range(len(plans)) if place not in known and place not in twins]
        self._admit_all([node[0] for place in fresh for node in plans[place]], origin)
        for place in fresh:
            parent = plans[place][0][0].get("parent")
            if parent is not None:
                hierarchy.live_parent(self.book, parent)
        entered = {place: self._enter(plans[place], origin) for place in fresh}
        self.counts.deduplicated += len(known) + len(twins)
        return [
            [(number, False) for number in entered[place]]
            if place in entered
            else [(known[place] if place in known else entered[twins[place]][0], True)]
            for place in range(len(plans))
        ]

    def _submit_plain(self, specs: list[dict[str, Any]], origin: str) -> list[list[tuple[int, bool]]]:
        """As `submit_batch`, for tasks without children: the same rules in one pass each."""
        live_with_key = self.book.live_with_key
        known: dict[str, int] = {}
        fresh = []
        keys: set[str] = set()
        for spec in specs:
            key = spec.get("idempotency_key")
            if key is not None:
                if key in keys or key in known:
                    continue
                number = live_with_key(key)
                if number:
                    known[key] = number
                    continue
                keys.add(key)
            fresh.append(spec)
        self._admit_all(fresh, origin)
        for parent in {spec["parent"] for spec in fresh if spec.get("parent") is not None}:
            hierarchy.live_parent(self.book, parent)
        taken: list[list[tuple[int, bool]]] = []
        for spec in specs:
            key = spec.get("idempotency_key")
            if key is not None and key in known:
                self.counts.deduplicated += 1
                taken.append([(known[key], True)])
                continue
            number = self.submit(**spec, origin=origin, admitted=True)[0]
            if key is not None:
                known[key] = number
            taken.append([(number, False)])
        return taken

    def _claim(self, plan: list[_Node], keys: set[str]) -> None:
        """No key of a new tree may be in use, by a live task or by another one of this call."""
        for spec, _, _ in plan:
            key = spec.get("idempotency_key")
            if key is None:
                continue
            number = self.book.live_with_key(key)
            if number or key in keys:
                whose = task_name(number) if number else "another task of this call"
                raise TaskError(f"the idempotency key {key[:80]!r} is that of {whose}", code="key-in-use")
            keys.add(key)

    def _enter(self, plan: list[_Node], origin: str) -> list[int]:
        numbers: list[int] = []
        for spec, above, holding in plan:
            fields = {name: value for name, value in spec.items() if name != "children"}
            if above is not None:
                fields["parent"] = numbers[above]
            numbers.append(self.submit(**fields, origin=origin, holding=holding, admitted=True)[0])
        return numbers

    # -- admission --------------------------------------------------------------------------------------------------

    def _admit(self, handler: str, priority: int, origin: str, parent: int | None, others: int = 0) -> None:
        """`others` tasks of this origin are about to enter before this one. Raises TaskError: busy."""
        if self.draining:
            raise TaskError("the queue is shutting down", hint="try again later", code="busy", retry_after_ms=1000)
        try:
            # what is there is worked off, and that may need children
            if self._modes and parent is None:
                self._undrained(handler)
            if self.strain and priority == LOW and parent is None:
                raise TaskError(
                    f"the host is under pressure: {self.strain}",
                    hint="tasks of low priority are taken in again when it is over",
                    code="busy",
                    retry_after_ms=STRAINED_RETRY_MS,
                )
            tally = self.book.tally
            live_of_origin = tally.live_of.get(origin, 0) + others
            admit(self.limits, priority, tally.live + others, live_of_origin, origin, self.finished_per_second)
        except TaskError:
            self.counts.refused += 1
            raise

    def _admit_all(self, specs: list[dict[str, Any]], origin: str) -> None:
        """Raises TaskError as `_admit`. One look for many of a kind: room for the last is room for all."""
        last = {
            (spec["handler"], spec.get("priority", NORMAL), spec.get("parent") is None): (others, spec.get("parent"))
            for others, spec in enumerate(specs)
        }
        for (handler, priority, _), (others, parent) in last.items():
            self._admit(handler, priority, origin, parent, others)

    def _undrained(self, handler: str) -> None:
        mode = self._modes.of(handler, DRAINED)
        if mode is not None:
            whose = f"{handler} takes" if mode.handler == handler else "all handlers take"
            raise TaskError(
                f"drained: {mode.reason}",
                hint=f"{whose} nothing new until resumed",
                code="busy",
                retry_after_ms=DRAINED_RETRY_MS,
            )

    # -- again ------------------------------------------------------------------------------------------------------

    def requeue(self, number: int, reason: str) -> Task:
        """Queue a failed, dead or cancelled task again: all its attempts, a new deadline, the same id.

        If children of it are open again, it waits for them. Raises TaskError: no-such-task, not-ended, key-in-use,
        busy.
        """
        task = self.book.get(number)
        if task.live or task.state == DONE:
            raise TaskError(
                f"{task_name(number)} is {STATES[task.state]}",
                hint="only failed, dead and cancelled tasks can be queued again",
                code="not-ended",
            )
        key = task.idempotency_key
        if key is not None and (other := self.book.live_with_key(key)):
            raise TaskError(
                f"{task_name(other)} has the idempotency key of {task_name(number)} by now",
                hint=f"wait until it has ended, or cancel it: gracectl cancel {task_name(other)}",
                code="key-in-use",
            )
        self._admit(task.handler, task.priority, task.origin, None)
        parent = None if task.parent is None else self.book.find(task.parent)
        # a key must be free in the rows before it is taken again
        self.book.write()
        self._restore(task, parent)
        self.book.turn.event(number, self.timeline.stamp_us(), "requeued", task.attempts, reason)
        return task

    def _restore(self, task: Task, parent: Task | None) -> None:
        book, timeline = self.book, self.timeline
        now_us = timeline.stamp_us()
        if task in book.turn.finished:
            book.turn.finished.remove(task)
        deadline_us = now_us + task.sla_seconds * 1_000_000
        if parent is not None:
            hierarchy.count_again(book, parent)
            if parent.live:
                deadline_us = min(deadline_us, parent.deadline_us)
        self._deadline(task, now_us, deadline_us)
        task.rank = rank_us(task.priority, now_us, deadline_us, self._expected.us(task.handler, task.task_type))
        task.failures = task.failed_children = 0
        task.finished_us = task.worker = task.result = task.progress = None
        book.move(task, WAITING if task.open_children else QUEUED)
        if task.idempotency_key is not None:
            book.turn.keys[task.idempotency_key] = task
        if task.state == QUEUED:
            book.enqueue(task)

    def _deadline(self, task: Task, now_us: int, deadline_us: int) -> None:
        timeline = self.timeline
        task.deadline_us = deadline_us
        task.deadline_wall_us = timeline.clock.wall_us() + deadline_us - now_us
        task.deadline_boot = timeline.boot
        task.deadline_boottime_us = deadline_us - timeline.offset_us
        self._rows.set_deadline(task)
        task.sla_state = SLA_FINE
        task.sla_next_us = sla.next_event_us(SLA_FINE, task.sla_seconds, deadline_us, task.created_us)
        self._watch_at(task.sla_next_us)


def _flat(spec: dict[str, Any]) -> list[_Node]:
    """A tree as (spec, its parent's place in this list, has it children), parents before their children.

    Raises TaskError: a child names another parent.
    """
    plan: list[_Node] = []
    stack: list[tuple[dict[str, Any], int | None]] = [(spec, None)]
    while stack:
        one, above = stack.pop()
        if above is not None and one.get("parent") is not None:
            raise TaskError("a task that is submitted below another has no other parent", code="two-parents")
        children = one.get("children") or ()
        stack += [(child, len(plan)) for child in reversed(children)]
        plan.append((one, above, bool(children)))
    return plan
