"""gracectl explain and plan: why something was done, and what would be done."""

from __future__ import annotations

import click

from graced.cli.app import Failure, json_option
from graced.cli.output import printable, say, show, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict


@click.command()
@click.argument("ident", metavar="ID")
@json_option
def explain(ident: str, form: str) -> None:
    """Tell the story of a task or an incident: what was found, decided, done and verified, and why."""
    from graced.cli.story import tell

    evidence = _gather(ident)
    show(evidence, form, "\n".join(printable(line) for line in tell(evidence)))


def _gather(ident: str) -> JsonDict:
    """Everything known about `ident`: {"incident", "task", "events", "entries", "missing"}."""
    from graced.cli.app import attempt, call

    missing: list[str] = []
    incident: JsonDict | None = None
    if ident.startswith("incident_"):
        incident = call("io.graced.Memory.Incident", {"id": ident}).get("incident")
        task_id = (incident or {}).get("task_id")
    elif ident.startswith("task_"):
        task_id = ident
    else:
        raise click.UsageError(f"{ident!r} is neither a task (task_7) nor an incident (incident_7)")
    got: JsonDict = {}
    if task_id and incident is None:
        got = call("io.graced.HTM.Get", {"task_id": task_id})
    elif task_id:
        reply, reason = attempt("io.graced.HTM.Get", {"task_id": task_id})
        got = reply or {}
        missing += [reason] if reason else []
    task = got.get("task") or {}
    if incident is None and (task.get("context") or {}).get("incident_id"):
        reply, reason = attempt("io.graced.Memory.Incident", {"id": task["context"]["incident_id"]})
        incident = (reply or {}).get("incident")
        missing += [reason] if reason else []
    entries, unread = _entries(task_id, task.get("intent_id") or (incident or {}).get("intent_id"))
    return {
        "incident": incident,
        "task": task or None,
        "events": got.get("events") or [],
        "entries": entries,
        "missing": missing + unread,
    }


def _entries(task_id: str | None, intent_id: str | None) -> tuple[list[JsonDict], list[str]]:
    from graced.cli.app import attempt

    by_seq: dict[int, JsonDict] = {}
    missing = []
    begun = 0
    for name, value in (("intent_id", intent_id), ("task_id", task_id)):
        before: int | None = None
        # The finding is a story's beginning: what is older, and all of the archive, need not be looked through then.
        while value is not None and (before is None or before > begun):
            reply, reason = attempt("io.graced.Ledger.Find", {name: value, "before": before})
            missing += [reason] if reason else []
            for entry in (reply or {}).get("entries") or []:
                by_seq[int(entry["seq"])] = entry
                if entry.get("kind") == "finding":
                    begun = int(entry["seq"])
            before = (reply or {}).get("next") or 0
    return [by_seq[seq] for seq in sorted(by_seq)], list(dict.fromkeys(missing))


@click.command()
@click.argument("unit")
@click.argument("finding")
@json_option
def plan(unit: str, finding: str, form: str) -> None:
    """Show which playbooks would be tried for FINDING (such as unit.failed) on UNIT, in order; nothing is done."""
    from graced.cli.app import call
    from graced.cli.units import service_name

    name = service_name(unit)
    candidates = call("io.graced.Healing.Plan", {"unit": name, "finding": finding}).get("candidates")
    if not isinstance(candidates, list):
        raise Failure("Self-Healing answered without candidates", "journalctl -u graced-healing")
    rows = [
        (number if row.get("fits") else None, row.get("playbook"), row.get("fits"), row.get("reason"))
        for number, row in enumerate(candidates, 1)
    ]
    show(candidates, form, table(("order", "playbook", "fits", "why"), rows))
    if not candidates and form == "off":
        say(f"No playbook fits {finding} on {name}.")
