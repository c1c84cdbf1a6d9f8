"""The queue in numbers: io.graced.HTM.Stats, and the metric families of graced.metrics.families.QUEUE.

Counters are since the start of the process. What is not known is null in Stats and left out of the metrics.
"""

from __future__ import annotations

import os

from graced.base.clock import iso
from graced.base.errors import StoreError
from graced.htm.mode import DRAINED, PAUSED
from graced.metrics.families import QUEUE
from graced.model.task import PRIORITIES, QUEUED, STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.htm.measure import Histogram
    from graced.htm.mode import Mode
    from graced.htm.timeline import Timeline
    from graced.supervisor.queue import Queue

HEAD_ROWS = 5000
"""Tasks next in line, of each handler, among which the oldest of a priority is looked for."""
KEEP_US = 5_000_000
"""So long an answer about the oldest is kept, so that many readers cost as much as one."""
_WORDS = list(enumerate(PRIORITIES))


class Oldest:
    """How long the oldest queued task of each priority has waited; looked up, not kept by addition."""

    __slots__ = ("_at_us", "_created_us")

    def __init__(self) -> None:
        self._at_us = -KEEP_US
        self._created_us: list[int | None] = [None] * len(PRIORITIES)

    def seconds(self, queue: Queue) -> list[float | None]:
        """By priority; None when none is queued, none of this priority is among HEAD_ROWS of its handlers, or the
        store cannot be read.
        """
        now_us = queue.timeline.now_us()
        if now_us - self._at_us >= KEEP_US:
            self._at_us = now_us
            try:
                self._created_us = _oldest(queue)
            except StoreError:
                # the queue's own error says so; the numbers that need no store are still true
                self._created_us = [None] * len(PRIORITIES)
        return [None if at_us is None else max(0, now_us - at_us) / 1e6 for at_us in self._created_us]


def _oldest(queue: Queue) -> list[int | None]:
    found: list[int | None] = [None] * len(PRIORITIES)
    tally = queue.engine.book.tally.total
    for handler in {handler for (handler, _, _, state), count in tally.items() if state == QUEUED and count}:
        for priority, created_us in queue.store.oldest_queued(handler, HEAD_ROWS):
            known_us = found[priority]
            found[priority] = created_us if known_us is None else min(known_us, created_us)
    return found


def mode_json(mode: Mode, timeline: Timeline) -> JsonDict:
    """How a handler is held, by whom and since when."""
    return {
        "mode": mode.word,
        "reason": mode.reason,
        "by": mode.by,
        "since": iso(timeline.wall_us(mode.since_us)),
    }


def stats_json(queue: Queue, oldest: list[float | None]) -> JsonDict:
    """The queue in numbers; `error` is why the store refuses, or ""."""
    engine = queue.engine
    counts = engine.counts
    handlers: dict[str, dict[str, int]] = {}
    for (handler, _, _, state), count in engine.book.tally.total.items():
        if count:
            states = handlers.setdefault(handler, {})
            states[STATES[state]] = states.get(STATES[state], 0) + count
    by = engine.book.tally.by()
    return {
        "tasks": {
            word: {name: by.get((priority, state), 0) for state, name in enumerate(STATES)} for priority, word in _WORDS
        },
        "handlers": handlers,
        "live": engine.book.tally.live,
        "modes": {mode.handler: mode_json(mode, engine.timeline) for mode in engine.modes()},
        "oldest_queued_seconds": dict(zip(PRIORITIES, oldest, strict=True)),
        "finished_per_second": engine.finished_per_second(),
        "workers": [
            {"worker": one.name, "handler": one.handler, "credits": one.credits, "leased": len(one.leases)}
            for one in engine.leases.workers()
        ],
        "watchers": len(queue.watchers),
        "sla_slack": sum(counts.slack),
        "sla_breached": sum(counts.breaches),
        "lost": counts.lost,
        "retries": counts.retries,
        "dead": counts.dead,
        "refused": counts.refused,
        "deduplicated": counts.deduplicated,
        "archive": None if queue.house is None else queue.house.facts(),
        "draining": engine.draining,
        "strain": engine.strain,
        "error": queue.error,
    }


def metrics_json(queue: Queue, oldest: list[float | None]) -> list[JsonDict]:
    """The families of QUEUE; every label value that can be known is there from the start."""
    engine = queue.engine
    counts = engine.counts
    by = engine.book.tally.by()
    modes = [mode.word for mode in engine.modes()]
    queued = [by.get((priority, QUEUED), 0) for priority, _ in _WORDS]
    samples: dict[str, list[JsonDict]] = {
        "graced_tasks": [
            {"labels": {"priority": word, "state": state}, "value": by.get((priority, number), 0)}
            for priority, word in _WORDS
            for number, state in enumerate(STATES)
        ],
        "graced_sla_breaches_total": _each("priority", counts.breaches),
        "graced_task_wait_seconds": _histograms(counts.wait),
        "graced_task_run_seconds": [counts.run.sample({})],
        "graced_task_oldest_queued_seconds": [
            {"labels": {"priority": word}, "value": 0.0 if queued[priority] == 0 else oldest[priority]}
            for priority, word in _WORDS
            if queued[priority] == 0 or oldest[priority] is not None
        ],
        "graced_task_retries_total": _one(counts.retries),
        "graced_task_dead_letters_total": _one(counts.dead),
        "graced_task_leases_lost_total": _one(counts.lost),
        "graced_task_refused_total": _one(counts.refused),
        "graced_task_changes_dropped_total": _one(queue.watchers.dropped),
        "graced_task_handlers_held": [
            {"labels": {"mode": word}, "value": modes.count(word)} for word in (PAUSED, DRAINED)
        ],
    }
    samples.update(_disk(queue))
    return [
        {"name": family.name, "kind": family.kind, "help": family.help, "samples": samples[family.name]}
        for family in QUEUE
    ]


def _disk(queue: Queue) -> dict[str, list[JsonDict]]:
    house, path = queue.house, queue.store.db.path
    return {
        "graced_tasks_archived_total": _one(0 if house is None else house.archived),
        "graced_queue_housekeeping_errors_total": _one(0 if house is None else house.errors + house.log.errors),
        "graced_queue_db_bytes": _size(path),
        "graced_queue_wal_bytes": _size(f"{path}-wal"),
    }


def _size(path: str) -> list[JsonDict]:
    try:
        return _one(os.stat(path).st_size)
    except OSError:
        return []


def _each(label: str, values: list[int]) -> list[JsonDict]:
    return [{"labels": {label: word}, "value": values[number]} for number, word in _WORDS]


def _one(value: int) -> list[JsonDict]:
    return [{"labels": {}, "value": value}]


def _histograms(histograms: list[Histogram]) -> list[JsonDict]:
    return [histograms[number].sample({"priority": word}) for number, word in _WORDS]
