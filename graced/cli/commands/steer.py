"""gracectl cancel and requeue: end tasks, and give ended ones another chance."""

from __future__ import annotations

import click

from graced.cli.app import EXIT_FAILED, Failure, verbose_option
from graced.cli.output import printable, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = 10_000
_REASON = "asked for with gracectl"


@click.command(
    epilog="Example: gracectl cancel task_7 --reason 'the volume is gone'. "
    "Exit status: 0 all were cancelled, 1 when any was not."
)
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", default=_REASON, help="Why, for the record and for whoever looks next.")
@verbose_option
@click.pass_context
def cancel(context: click.Context, task_ids: tuple[str, ...], reason: str) -> None:
    """Cancel tasks and all that is below them, running ones too: their workers are told to stop."""
    done = _each("Cancel", task_ids, reason)
    if done < len(task_ids):
        context.exit(EXIT_FAILED)


@click.command(
    epilog="Example: gracectl requeue --all-dead --handler backup. "
    "Exit status: 0 all were queued again, 1 when any was not."
)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@click.option("--all-dead", is_flag=True, help="All dead tasks (those out of attempts) instead of IDs.")
@click.option("--handler", help="With --all-dead: only those for this handler.")
@click.option("--reason", default=_REASON, help="Why, for the record and for whoever looks next.")
@verbose_option
@click.pass_context
def requeue(
    context: click.Context, task_ids: tuple[str, ...], all_dead: bool, handler: str | None, reason: str
) -> None:
    """Queue failed, dead or cancelled tasks again, with all their attempts and a new deadline."""
    if all_dead == bool(task_ids):
        raise click.UsageError("either IDs or --all-dead")
    if handler is not None and not all_dead:
        raise click.UsageError("--handler goes with --all-dead")
    wanted, more = _dead(handler) if all_dead else (list(task_ids), False)
    done = _each("Requeue", wanted, reason)
    if all_dead:
        whose = f" for {handler}" if handler else ""
        say(f"{done} of {len(wanted)} dead tasks{whose} queued again." if wanted else f"No dead tasks{whose}.")
        if more:
            say("There may be more: run it again.")
    if done < len(wanted):
        context.exit(EXIT_FAILED)


def _dead(handler: str | None) -> tuple[list[str], bool]:
    """Dead tasks, and whether there may be more."""
    from graced.cli.app import call

    found = call("io.graced.HTM.List", {"state": "dead", "handler": handler, "limit": PAGE}, timeout_s=30.0)
    if not isinstance(found.get("tasks"), list):
        raise Failure("the supervisor answered without a list of tasks", "journalctl -u graced-supervisor")
    dead = [str(task.get("id")) for task in found["tasks"]]
    return dead, found.get("truncated") is True or len(dead) == PAGE


def _each(verb: str, task_ids: Sequence[str], reason: str) -> int:
    """One call for each; how many went well. The rest is told on stderr and does not stop the others."""
    from graced.cli.app import connect, failure_of
    from graced.varlink.wire import VarlinkError

    done = 0
    with connect("io.graced.HTM") as client:
        for task_id in task_ids:
            try:
                reply = client.call(f"io.graced.HTM.{verb}", {"task_id": task_id, "reason": reason})
            except VarlinkError as error:
                if error.name not in {"NoSuchTask", "InvalidRequest"}:
                    raise
                wrong = failure_of(error)
                if error.name == "InvalidRequest":
                    reason = str(error.parameters.get("reason"))
                    told = reason if task_id in reason else f"{task_id}: {reason}"
                    wrong = Failure(told, f"gracectl task {task_id}")
                wrong.show()
                continue
            done += 1
            click.echo(f"{task_id} is {printable(str(reply.get('state')))}")
    return done
