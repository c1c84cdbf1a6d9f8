"""Starvation is bounded: with one server, a task starts before any work that came after its age bound.

The engine on its real store, one worker with one credit, every task taking the same time, and arrivals of every
priority and SLA. What may be done before a task that is not critical: what was there or came until its submission plus
AGE[priority], and critical tasks, whose lane is strict. So it starts no later than that work takes.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from graced.htm.order import AGE_US
from graced.model.task import CRITICAL

SERVICE_US = 20_000_000
arrivals = st.lists(
    st.tuples(st.integers(0, 60_000_000), st.integers(0, 3), st.sampled_from((1, 30, 400, 5000, 90_000))),
    min_size=1,
    max_size=40,
)


def served(queue, plan):
    """Submit as planned, work one task at a time: ({number: (submitted, priority)}, [(number, started, critical)])."""
    submitted, started = {}, []
    queue.worker()
    at_us, free_us = queue.clock.boottime_us(), queue.clock.boottime_us()
    events = []
    for gap_us, priority, sla_seconds in plan:
        at_us += gap_us
        events.append((at_us, priority, sla_seconds))
    while events or queue.engine.book.tally.live:
        now_us = queue.clock.boottime_us()
        while events and events[0][0] <= now_us:
            arrived_us, priority, sla_seconds = events.pop(0)
            submitted[queue.submit(priority=priority, sla_seconds=sla_seconds)] = (now_us, priority)
            assert arrived_us <= now_us
        for lease in queue.engine.leases.all():
            if free_us <= now_us:
                queue.engine.complete(lease, "{}")
        queue.tick()
        queue.engine.dispatch()
        for lease in queue.commit().granted:
            started.append((lease.task.id, now_us, lease.task.priority == CRITICAL))
            free_us = now_us + SERVICE_US
        busy = [free_us] if len(queue.engine.leases) else []
        queue.engine.leases.heartbeat("w", 7, queue.engine.timeline.now_us())
        next_us = min([*busy, *(event[0] for event in events[:1])], default=now_us)
        queue.clock.advance_us(max(0, next_us - now_us))
    return submitted, started


@settings(max_examples=150)
@given(plan=arrivals)
def test_every_task_starts_within_its_bound(tmp_path_factory, make_queue, plan):
    queue = make_queue(tmp_path_factory.mktemp("starvation") / "q.db")
    submitted, started = served(queue, plan)
    queue.store.close()
    assert sorted(number for number, _, _ in started) == sorted(submitted), "every one of them, once"
    for place, (number, at_us, _) in enumerate(started):
        came_us, priority = submitted[number]
        bound_us = came_us + AGE_US[priority]
        if priority != CRITICAL:
            # one that came late may have been escalated into the critical lane by its slack event
            late = [one for one, _, critical in started[:place] if submitted[one][0] > bound_us and not critical]
            assert late == []
            assert at_us <= bound_us + place * SERVICE_US
