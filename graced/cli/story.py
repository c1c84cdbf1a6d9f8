"""The story of one task or incident in sentences, from the records that graced left: what, when, who, why.

Pure. It tells only what a record says; what is missing is said to be missing.
"""

from __future__ import annotations

from graced.cli.output import cell, milliseconds, short_time, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.json import JsonDict

_NO_RECORD = (("finding", "finding"), ("decision", "decision"), ("step", "act"), ("verdict", "verdict"))


def tell(evidence: JsonDict) -> list[str]:
    """All lines. `evidence` is {"incident", "task", "events", "entries", "missing"} as `explain --json` prints it."""
    incident, task, entries = evidence["incident"], evidence["task"], evidence["entries"]
    lines = []
    if incident is not None:
        lines += _incident(incident)
    if task is not None:
        lines += ["", *_task(task)] if lines else _task(task)
    lines += ["", "What happened (UTC, from the signed ledger):"]
    lines += _timeline(entries) or ["  The ledger has no entry about this."]
    if evidence["events"]:
        lines += ["", "The task's way through the queue:"]
        lines += [f"  {line}" for line in _events(evidence["events"])]
    if incident is not None and entries:
        there = {entry.get("kind") for entry in entries}
        lines += [
            f"  No {word} is recorded." for kind, word in _NO_RECORD if kind not in there and _expected(kind, incident)
        ]
    lines += [f"Could not be asked: {reason}" for reason in evidence["missing"]]
    return lines


def _expected(kind: str, incident: JsonDict) -> bool:
    return kind in {"finding", "decision"} or incident.get("outcome") == "healed"


def _incident(incident: JsonDict) -> list[str]:
    unit, finding = cell(incident.get("unit")), cell(incident.get("finding"))
    severity = incident.get("severity")
    opened = f"{cell(incident.get('id'))}: {finding} on {unit}, opened {short_time(incident.get('opened_at'))}"
    lines = [opened + (f", severity {severity}." if severity else ".")]
    detect = incident.get("detect_ms")
    if detect is not None:
        lines.append(f"It was noticed {milliseconds(detect)} after the fault.")
    outcome, playbook = incident.get("outcome"), incident.get("playbook")
    reason = f": {incident['reason']}" if incident.get("reason") else "."
    match outcome:
        case "healed":
            by = f" with {playbook}" if playbook else ""
            took = f" {milliseconds(incident.get('heal_ms'))} after the fault" if incident.get("heal_ms") else ""
            witness = f", verified by {incident['verified_by']}" if incident.get("verified_by") else ""
            lines.append(f"It was healed{by}{took}{witness}.")
        case "open" | None:
            lines.append("It is open: nothing has been decided for good yet.")
        case "held":
            lines.append(f"The repair is held{reason}")
        case "refused":
            lines.append(f"The repair was refused{reason}")
        case "failed":
            lines.append(f"It could not be healed{reason}")
        case _:
            lines.append(f"Outcome: {cell(outcome)}{reason}")
    if outcome in {"failed", "refused"}:
        lines += _read_on(incident)
    return lines


def _read_on(incident: JsonDict) -> list[str]:
    """What a person does next: read what the unit itself said since shortly before, mend it, and say so."""
    from datetime import datetime, timedelta
    from shlex import quote

    unit = quote(cell(incident.get("unit")))
    open_still = [] if incident.get("closed_at") else [f"Once you have mended the cause: gracectl reset {unit}"]
    try:
        opened = datetime.fromisoformat(str(incident.get("opened_at")))
    except ValueError:
        return open_still
    since = (opened - timedelta(seconds=10)).strftime("%Y-%m-%d %H:%M:%S UTC")
    return [f"What the unit said itself: journalctl --since '{since}' -u {unit}", *open_still]


def _task(task: JsonDict) -> list[str]:
    name, what, handler = cell(task.get("id")), cell(task.get("task_type")), cell(task.get("handler"))
    rank, state, attempts = cell(task.get("priority")), cell(task.get("state")), cell(task.get("attempts"))
    lines = [f"{name}: {what} by {handler}, priority {rank}, {state}, attempts: {attempts}."]
    if task.get("origin"):
        lines.append(f"It was asked for by {task['origin']}, to be done by {short_time(task.get('deadline_at'))}.")
    context = task.get("context") or {}
    why = context.get("why")
    reasons = _why(why) if isinstance(why, dict) else []
    if not reasons and task.get("reasoning"):
        reasons = [str(task["reasoning"])]
    lines += [f"Why: {reasons[0]}", *(f"  - {reason}" for reason in reasons[1:])] if reasons else []
    if context.get("playbooks"):
        lines.append(f"Tried first, because they worked before: {', '.join(map(str, context['playbooks']))}.")
    if task.get("error"):
        lines.append(f"Its last error: {cell(task['error'])}")
    return lines


def _why(why: JsonDict) -> list[str]:
    out = []
    for key, value in why.items():
        if isinstance(value, list):
            out += [str(item) for item in value]
        elif value not in (None, ""):
            out.append(str(value) if key == "reasoning" else f"{key}: {value}")
    return out


def _events(events: list[JsonDict]) -> list[str]:
    rows = [
        (_clock(event.get("at")), event.get("kind"), event.get("attempt"), event.get("detail") or "")
        for event in events
    ]
    return [
        line.removesuffix(" -").rstrip() for line in table(("time", "event", "attempt", "detail"), rows).splitlines()
    ]


def _clock(stamp: object) -> str:
    text = str(stamp or "")
    return text[11:23] if len(text) >= 23 else cell(stamp)


def _object(value: object) -> JsonDict:
    return value if isinstance(value, dict) else {}


def _timeline(entries: list[JsonDict]) -> list[str]:
    lines = []
    for entry in entries:
        data = {"unit": entry.get("unit"), **_object(entry.get("data"))}
        kind = str(entry.get("kind"))
        tell_one = _KINDS.get(kind, _other)
        actor = cell(entry.get("actor"))
        signed = ", signed" if entry.get("signature") else ""
        lines.append(f"  {_clock(entry.get('time'))}  {tell_one(data)}  [{actor}, entry {entry.get('seq')}{signed}]")
    return lines


def _finding(data: JsonDict) -> str:
    anomalies = data.get("anomalies") or (data.get("anomaly") or {}).get("anomalies") or []
    detail = ", ".join(
        f"{cell(one.get('type'))} {cell(one.get('value'))} (expected {cell(one.get('threshold'))})"
        for one in anomalies
        if isinstance(one, dict)
    )
    return f"Found {cell(data.get('finding'))} on {cell(data.get('unit'))}{f': {detail}' if detail else '.'}"


def _decision(data: JsonDict) -> str:
    words = {"allow": "allowed", "hold": "held", "deny": "denied"}
    effect = words.get(str(data.get("effect")), cell(data.get("effect")))
    plan = _object(data.get("plan")) or data
    return f"{cell(plan.get('playbook'))} was {effect} by rule {cell(data.get('rule'))}: {cell(data.get('reason'))}"


def _approval(data: JsonDict) -> str:
    what = f"{cell(data.get('word'))} {cell(_object(data.get('plan')).get('playbook'))} ({cell(data.get('id'))})"
    return f"uid {cell(data.get('by_uid'))} {what}" + (f": {data['reason']}" if data.get("reason") else ".")


def _warrant(data: JsonDict) -> str:
    inner = _object(data.get("warrant")) or data
    begin, end = inner.get("not_before_boottime_us"), inner.get("not_after_boottime_us")
    lasts = f", valid {(end - begin) / 1e6:g} s" if isinstance(begin, int) and isinstance(end, int) else ""
    steps = ", ".join(str(step) for step in inner.get("steps") or [])
    return (
        f"A warrant was signed for {cell(inner.get('playbook'))}, steps {steps}, tier {cell(inner.get('tier'))}{lasts}."
    )


def _step(data: JsonDict) -> str:
    data = _object(data.get("act")) or data
    if data.get("verb") == "refuse":
        return f"A warrant was refused to uid {cell(data.get('uid'))}: {cell(data.get('detail'))}"
    steps = data["steps"] if isinstance(data.get("steps"), list) else [{"ok": True, **data}]
    told = []
    for step in steps:
        if isinstance(step, dict) and step.get("verb"):
            took = f" in {milliseconds(step['duration_ms'])}" if step.get("duration_ms") is not None else ""
            detail = f" ({step['detail']})" if step.get("detail") else ""
            told.append(f"{step['verb']} {'done' if step.get('ok') else 'failed'}{took}{detail}")
    rejected = data.get("rejected") or []
    kept = f" The rejected file is kept: {', '.join(map(str, rejected))}." if rejected else ""
    return ("Acted: " + "; ".join(told) + "." if told else _other(data)) + kept


def _verdict(data: JsonDict) -> str:
    inner = _object(data.get("verdict")) or data
    judged = "healthy" if inner.get("healthy") else "not healthy"
    better = (
        "" if inner.get("better") is None else ", better than before" if inner["better"] else ", no better than before"
    )
    reasons = "; ".join(str(reason) for reason in inner.get("reasons") or [])
    return f"Verified: {judged}{better}{f': {reasons}' if reasons else ''}."


def _end(data: JsonDict) -> str:
    inner = _object(data.get("result")) or data
    return f"The task ended: {cell(inner.get('status') or inner.get('state') or inner.get('outcome'))}."


def _other(data: JsonDict) -> str:
    return (
        ", ".join(f"{key}={cell(value)}" for key, value in data.items() if not isinstance(value, (dict, list))) or "-"
    )


_KINDS: dict[str, Callable[[JsonDict], str]] = {
    "finding": _finding,
    "decision": _decision,
    "approval": _approval,
    "warrant": _warrant,
    "step": _step,
    "verdict": _verdict,
    "task": _end,
}
