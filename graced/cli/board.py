"""What `gracectl top` shows: the queue in one frame of lines. Pure: samples in, (text, kind of paint) out.

A frame fits the columns and rows it is given; what is left out for lack of room is counted.
"""

from __future__ import annotations

from graced.base.record import Record
from graced.cli.output import UNKNOWN, brief, cell, cut, printable, table_lines
from graced.cli.tasktext import ENDED, STATES, about, age_s, seconds_of, slack_s

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

PRIORITIES = ("critical", "high", "normal", "low")
ALL = "*"


class Sample(Record):
    """What io.graced.HTM said at one moment: Stats, the leased tasks, the time (since the epoch) and when by the
    monotonic clock, both in seconds."""

    stats: JsonDict
    running: list[JsonDict]
    wall_s: float
    at_s: float


class Room(Record):
    """The size of the frame; `rows` is None when there is no end."""

    columns: int
    rows: int | None = None


def count(value: object) -> str:
    """A number in at most 7 characters; a dash when it is not known."""
    if isinstance(value, bool) or not isinstance(value, int):
        return UNKNOWN
    if value < 1_000_000:
        return str(value)
    return f"{value / 1e6:.2f}M" if value < 1_000_000_000 else f"{value / 1e9:.2f}G"


def _object(value: object) -> JsonDict:
    return value if isinstance(value, dict) else {}


def totals(stats: JsonDict) -> dict[str, int]:
    """Tasks by state over all priorities."""
    by = [_object(one) for one in _object(stats.get("tasks")).values()]
    return {state: sum(int(one.get(state) or 0) for one in by) for state in STATES}


def rates(before: Sample | None, now: Sample) -> tuple[float | None, float | None]:
    """(submitted, finished) per second between two samples; None where it cannot be told.

    Tasks that went to the archive in between are counted; when old archives or a restart make the sums go back,
    nothing is claimed.
    """
    if before is None or now.at_s <= before.at_s:
        finished = now.stats.get("finished_per_second")
        return None, float(finished) if isinstance(finished, (int, float)) else None
    first, last = totals(before.stats), totals(now.stats)
    archived = _archived(now) - _archived(before)
    taken_in = sum(last.values()) - sum(first.values()) + archived
    ended = sum(last[state] - first[state] for state in ENDED) + archived
    seconds = now.at_s - before.at_s
    return None if taken_in < 0 else taken_in / seconds, None if ended < 0 else ended / seconds


def _archived(sample: Sample) -> int:
    return int(_object(sample.stats.get("archive")).get("tasks") or 0)


def frame(before: Sample | None, now: Sample, room: Room, *, trouble: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """The whole view. `trouble` says why `now` is not fresh."""
    lines = _head(before, now, trouble)
    lines += [("", ""), *_priorities(now)]
    handlers, running = _handlers(now, room), _running(now, room)
    if room.rows is not None:
        # what is left below the two headings and their empty lines; the handlers get half of it, or what they need
        left = max(2, room.rows - len(lines) - 4)
        most = max(left // 2, left - max(1, len(running) - 1))
        handlers = _limit(handlers, most, 0)
        running = _limit(running, left - (len(handlers) - 1), totals(now.stats)["leased"])
    lines += [("", ""), *handlers, ("", ""), *running]
    fitting = [(cut(text, room.columns), kind) for text, kind in lines]
    return fitting if room.rows is None else fitting[: room.rows]


def _limit(rows: list[tuple[str, str]], most: int, there: int) -> list[tuple[str, str]]:
    """The heading and at most `most` lines; the last says how many are missing of those `there` or given."""
    total = max(there, len(rows) - 1)
    most = max(1, most)
    if total <= most:
        return rows
    return [*rows[:most], (f"and {total - most + 1} more", "faint")]


def _head(before: Sample | None, now: Sample, trouble: tuple[str, ...]) -> list[tuple[str, str]]:
    from time import gmtime, strftime

    stats = now.stats
    sums = totals(stats)
    stamp = strftime("%H:%M:%SZ", gmtime(now.wall_s))
    live = count(sum(value for state, value in sums.items() if state not in ENDED))
    parts = ", ".join(f"{count(sums[state])} {state}" for state in STATES if state not in ENDED)
    ends = ", ".join(f"{count(sums[state])} {state}" for state in ("dead", "failed", "done", "cancelled"))
    submitted, finished = (UNKNOWN if rate is None else f"{cell(rate)}/s" for rate in rates(before, now))
    oldest = [age for age in _object(stats.get("oldest_queued_seconds")).values() if isinstance(age, (int, float))]
    waited = brief(max(oldest)) if oldest else UNKNOWN
    lines = [
        (f"graced tasks  {stamp}  {live} live: {parts}", "strong"),
        (f"ended: {ends}", "warn" if sums["dead"] else ""),
        (f"submitted {submitted}  finished {finished}  oldest {waited}  {_counters(stats)}", ""),
    ]
    lines += [(printable(line), "bad") for line in trouble]
    lines += [(f"the store refuses: {printable(str(stats['error']))}", "bad")] if stats.get("error") else []
    lines += [("the supervisor is shutting down: nothing is given out", "warn")] if stats.get("draining") else []
    if mode := _object(_object(stats.get("modes")).get(ALL)):
        lines.append((f"all handlers: {cell(mode.get('mode'))} {_mode_note(mode, now)}".rstrip(), "warn"))
    return lines


def _counters(stats: JsonDict) -> str:
    counters = (("late", "sla_breached"), ("retries", "retries"), ("lost", "lost"), ("refused", "refused"))
    return "  ".join(f"{word} {count(stats.get(key))}" for word, key in counters)


def _mode_note(mode: JsonDict, now: Sample) -> str:
    since = seconds_of(mode.get("since"))
    words = [brief(now.wall_s - since)] if since is not None else []
    words += [f"by {cell(mode['by'])}"] if mode.get("by") else []
    reason = f": {printable(str(mode['reason']))}" if mode.get("reason") else ""
    return " ".join(words) + reason


def _priorities(now: Sample) -> list[tuple[str, str]]:
    tasks, oldest = _object(now.stats.get("tasks")), _object(now.stats.get("oldest_queued_seconds"))
    rows = []
    for word in PRIORITIES:
        by, age = _object(tasks.get(word)), oldest.get(word)
        waited = brief(age) if isinstance(age, (int, float)) else UNKNOWN
        rows.append((word, *(count(by.get(state)) for state in STATES), waited))
    headings = ("priority", *STATES, "oldest")
    lines = table_lines(headings, rows, right=headings[1:])
    return [(line, "" if number else "strong") for number, line in enumerate(lines)]


def _handlers(now: Sample, room: Room) -> list[tuple[str, str]]:
    states = _object(now.stats.get("handlers"))
    modes = {name: _object(mode) for name, mode in _object(now.stats.get("modes")).items() if name != ALL}
    workers: dict[str, list[JsonDict]] = {}
    for worker in now.stats.get("workers") or []:
        workers.setdefault(str(worker.get("handler")), []).append(worker)

    def live(name: str) -> int:
        by = _object(states.get(name))
        return sum(int(by.get(state) or 0) for state in STATES if state not in ENDED)

    # those with something to tell first: they stay when there is no room for all
    names = sorted({*states, *modes, *workers}, key=lambda name: (name not in modes, -live(name), name))
    rows, kinds = [], ["strong"]
    for name in names:
        by, mode, there = _object(states.get(name)), modes.get(name), workers.get(name) or []
        free = sum(int(one.get("credits") or 0) - int(one.get("leased") or 0) for one in there)
        numbers = (count(int(by.get(state) or 0)) for state in ("queued", "waiting", "leased", "dead"))
        note = f"{cell(mode.get('mode'))} {_mode_note(mode, now)}".rstrip() if mode else ""
        rows.append((name, *numbers, len(there), max(0, free), note or None))
        stuck = by.get("queued") and not there
        kinds.append("warn" if mode or stuck or by.get("dead") else "")
    headings = ("handler", "queued", "waiting", "leased", "dead", "workers", "free", "mode")
    lines = table_lines(headings, rows, right=headings[1:-1], columns=room.columns)
    return list(zip(lines, kinds, strict=True))


def _running(now: Sample, room: Room) -> list[tuple[str, str]]:
    rows, kinds = [], ["strong"]
    by_slack = [(slack_s(task, now.wall_s), task) for task in now.running]
    for slack, task in sorted(by_slack, key=lambda pair: (pair[0] is None, pair[0] or 0.0)):
        age = age_s(task, "started_at", now.wall_s)
        when = UNKNOWN if slack is None else brief(slack) if slack >= 0 else f"-{brief(-slack)}"
        rows.append(
            (
                task.get("id"),
                task.get("priority"),
                task.get("handler"),
                task.get("task_type"),
                None if age is None else brief(age),
                when,
                task.get("attempts"),
                task.get("worker"),
                about(task),
            )
        )
        kinds.append("bad" if slack is not None and slack < 0 else "")
    headings = ("running", "priority", "handler", "type", "age", "slack", "try", "worker", "about")
    lines = table_lines(headings, rows, right=("age", "slack", "try"), columns=room.columns)
    return list(zip(lines, kinds, strict=True))
