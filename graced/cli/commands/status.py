"""gracectl status: how graced and the adopted units are, as an exit code, a sentence, a table or JSON."""

from __future__ import annotations

import click

from graced.cli.app import EXIT_DEGRADED, EXIT_NOT_RUNNING, json_option
from graced.cli.output import milliseconds, paint, printable, show, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.cli.health import Answers
    from graced.heal.watch import Watch

_COLOURS = {"healthy": "good", "degraded": "warn", "not-running": "bad"}


@click.command(epilog="Exit status: 0 healthy, 3 degraded, 4 not running, 1 when systemd cannot be asked.")
@json_option
@click.pass_context
def status(context: click.Context, form: str) -> None:
    """Show how graced is: its eight daemons, what it watches, what is wrong.

    What cannot be known is never shown as healthy. A pause counts as degraded: nothing is repaired meanwhile.
    """
    from graced.cli import health

    summary = health.summarise(_ask())
    show(summary, form, _human(summary))
    context.exit({health.HEALTHY: 0, health.DEGRADED: EXIT_DEGRADED}.get(summary["overall"], EXIT_NOT_RUNNING))


def _ask() -> Answers:
    from graced.base.errors import ConfigError
    from graced.cli import units
    from graced.cli.app import attempt, paths
    from graced.cli.health import Answers
    from graced.cli.watches import read_watches
    from graced.model.daemons import KERNELS

    silent: list[str] = []
    watches: list[Watch] | None = None
    try:
        watches = read_watches(paths().watch_dir())
    except ConfigError as error:
        silent.append(error.message)
    names = [f"graced-{name}.service" for name in KERNELS]
    states = units.show([*names, *(watch.unit for watch in watches or [])])
    adopted = None if watches is None else [_watch(watch) for watch in watches]
    if not any(states[name].pid for name in names if name in states):
        return Answers(units=states, adopted=adopted, silent=tuple(silent))
    replies: dict[str, JsonDict | None] = {}
    for method in ("Infrastructure.Kernels", "Supervisor.Status", "Governance.State", "HTM.Stats", "Code.Refused"):
        replies[method], reason = attempt(f"io.graced.{method}")
        if reason:
            silent.append(reason)
    incidents, reason = attempt("io.graced.Memory.Incidents", {"open_only": True, "limit": 1000})
    if reason:
        silent.append(reason)
    kernels = replies["Infrastructure.Kernels"]
    return Answers(
        units=states,
        kernels=_rows(kernels, "kernels"),
        supervisor=replies["Supervisor.Status"],
        governance=replies["Governance.State"],
        incidents=_rows(incidents, "incidents"),
        held=_held(replies["HTM.Stats"]),
        adopted=adopted,
        refused=_rows(replies["Code.Refused"], "files"),
        silent=tuple(silent),
    )


def _watch(watch: Watch) -> JsonDict:
    return {"unit": watch.unit, "profile": watch.profile, "tier": watch.tier}


def _rows(reply: JsonDict | None, key: str) -> list[JsonDict] | None:
    if reply is None or not isinstance(reply.get(key), list):
        return None
    return [row for row in reply[key] if isinstance(row, dict)]


def _held(reply: JsonDict | None) -> list[JsonDict] | None:
    stats = (reply or {}).get("stats")
    modes = stats.get("modes") if isinstance(stats, dict) else None
    if not isinstance(modes, dict):
        return None
    return [{"handler": handler, **mode} for handler, mode in sorted(modes.items()) if isinstance(mode, dict)]


def _human(summary: JsonDict) -> str:
    from graced.cli.health import sentence

    lines = [paint(sentence(summary), _COLOURS[summary["overall"]])]
    lines += [f"  - {printable(reason)}" for reason in summary["reasons"]]
    lines += ["", _kernels(summary["kernels"])]
    if summary["adopted"]:
        rows = [(row["unit"], row["state"], row["profile"], _tier(row)) for row in summary["adopted"]]
        lines += ["", table(("unit", "state", "profile", "tier"), rows)]
    return "\n".join(lines)


def _tier(row: JsonDict) -> str:
    """The tier, and what futile repairs have left of it."""
    tier, now = row["tier"], row["tier_now"]
    if now == tier:
        return str(tier)
    return f"{'unknown' if now is None else now} of {tier}"


def _kernels(kernels: list[JsonDict]) -> str:
    rows = [
        (
            row["name"],
            row["state"],
            row["pid"],
            milliseconds(row["ready_ms"]),
            row["restarts"],
            row["watchdog_resets"],
            row["last_error"],
        )
        for row in kernels
    ]
    return table(("kernel", "state", "pid", "ready in", "restarts", "watchdog", "last error"), rows)
