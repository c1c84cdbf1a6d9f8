"""gracectl incidents: what was found on this host and what became of it."""

from __future__ import annotations

import click

from graced.cli.app import Failure, json_option
from graced.cli.output import milliseconds, say, short_time, show, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

FIELDS = (
    "id",
    "unit",
    "finding",
    "severity",
    "opened_at",
    "closed_at",
    "playbook",
    "outcome",
    "detect_ms",
    "heal_ms",
    "verified_by",
    "reason",
    "task_id",
    "intent_id",
)


@click.command()
@click.argument("unit", required=False)
@click.option("--open", "open_only", is_flag=True, help="Only those that are not closed.")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@json_option
def incidents(unit: str | None, open_only: bool, limit: int, form: str) -> None:
    """List incidents, newest first, of all units or of UNIT.

    Times are UTC; detect and heal count from the fault's own time stamp and are a dash when that is not known.
    """
    from graced.cli.app import call
    from graced.cli.units import service_name

    wanted = {"unit": service_name(unit) if unit else None, "open_only": open_only, "limit": limit}
    reply = call("io.graced.Memory.Incidents", wanted)
    found = reply.get("incidents")
    if not isinstance(found, list):
        raise Failure("Memory answered without a list of incidents", "journalctl -u graced-memory")
    rows = [{field: incident.get(field) for field in FIELDS} for incident in found]
    show(rows, form, _human(rows))
    if not rows and form == "off":
        say("No incidents.")


def _human(rows: list[JsonDict]) -> str:
    return table(
        ("id", "opened", "unit", "finding", "outcome", "playbook", "detected in", "healed in", "verified by"),
        [
            (
                row["id"],
                short_time(row["opened_at"]),
                row["unit"],
                row["finding"],
                row["outcome"],
                row["playbook"],
                milliseconds(row["detect_ms"]),
                milliseconds(row["heal_ms"]),
                row["verified_by"],
            )
            for row in rows
        ],
    )
