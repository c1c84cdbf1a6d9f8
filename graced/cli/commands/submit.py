"""gracectl submit: hand tasks to the task manager, and with --wait stay until they have ended."""

from __future__ import annotations

import click

from graced.cli.app import Failure, json_option
from graced.cli.commands.pause import Duration
from graced.cli.output import say, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from graced.base.json import JsonDict
    from graced.cli.taskfile import Batch

EPILOG = """\b
Examples:
  gracectl submit backup nightly --sla 2h --context target=/srv --wait
  gracectl submit mail send --key order-17 --context '{"to": "ops"}'
  gracectl submit --file tasks.jsonl
\b
Exit status: 0 it is on disk (with --wait: done); 1 refused; 2 wrong usage.
With --wait: 5 failed or dead, 6 cancelled, 7 still live after --timeout.
See gracectl(1)."""


@click.command(epilog=EPILOG)
@click.argument("handler", required=False)
@click.argument("task_type", metavar="[TYPE]", required=False)
@click.option("--priority", type=click.Choice(["critical", "high", "normal", "low"]), help="Default: normal.")
@click.option("--sla", "sla_seconds", type=Duration(), help="Deadline from now, such as 5m.")
@click.option(
    "--context",
    "contexts",
    metavar="JSON|@FILE|KEY=TEXT",
    multiple=True,
    help="What the handler gets: a JSON object, @FILE that holds one, key=text or key:=JSON. May be repeated.",
)
@click.option("--reasoning", help="Why, for the record.")
@click.option("--parent", metavar="ID", help="Make it a child of this task; its deadline is at most the parent's.")
@click.option("--key", "idempotency_key", help="The same key again gives the same task.")
@click.option("--delay", "delay_seconds", type=Duration(), help="Not before this time from now.")
@click.option("--attempts", "max_attempts", type=click.IntRange(1), help="Give up after so many failed attempts.")
@click.option(
    "--on-child-failure",
    type=click.Choice(["fail", "continue", "ignore"]),
    help="What a failed child means for this task: it fails too (default), it is woken at once, or nothing.",
)
@click.option(
    "--file",
    "file",
    type=click.File("rb"),
    metavar="FILE",
    help="A task per line, as JSON with the parameters of io.graced.HTM.Submit (- is stdin). What a line does not "
    "say is taken from the command line. What fits into one call (1000 tasks) is accepted whole or not at all.",
)
@click.option("--wait", is_flag=True, help="Stay until it has ended; the exit status says how.")
@click.option("--timeout", "timeout_seconds", type=Duration(), help="With --wait: leave after this time.")
@json_option
@click.pass_context
def submit(
    context: click.Context,
    contexts: tuple[str, ...],
    file: BinaryIO | None,
    wait: bool,
    timeout_seconds: int | None,
    form: str,
    **given: object,
) -> None:
    """Submit a task of TYPE for HANDLER; prints its id once it is on disk."""
    from graced.cli.taskfile import context_of

    if timeout_seconds is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    if file is None and (given["handler"] is None or given["task_type"] is None):
        raise click.UsageError("HANDLER and TYPE are needed, or --file")
    if file is not None and given["idempotency_key"] is not None:
        raise click.UsageError('--key would make all lines one task: write "idempotency_key" into each line')
    parameters = {**given, "context": context_of(contexts)}
    parameters = {key: value for key, value in parameters.items() if value is not None}
    reply = _one(parameters) if file is None else _many(file, parameters, form)
    ids = reply["task_ids"] if file is not None else [reply["task_id"]]
    if not wait:
        show(reply, form, _id_line(reply) if file is None else "")
        return
    if file is None and form == "off":
        click.echo(_id_line(reply))
    states = _wait(ids, timeout_seconds, form)
    if form != "off":
        show({**reply, "states": states}, form, "")
    from graced.cli.follow import exit_code

    context.exit(exit_code(states.values()))


def _one(parameters: JsonDict) -> JsonDict:
    from graced.cli.app import call

    reply = call("io.graced.HTM.Submit", parameters)
    if not isinstance(reply.get("task_id"), str):
        raise Failure("the supervisor accepted the task without an id", "journalctl -u graced-supervisor")
    return reply


def _id_line(reply: JsonDict) -> str:
    return f"{reply['task_id']} (already there: same key)" if reply.get("deduplicated") else str(reply["task_id"])


def _many(file: BinaryIO, defaults: JsonDict, form: str) -> JsonDict:
    """Submit the lines of a file; the ids are printed as they are accepted. {"task_ids", "deduplicated"}."""
    from graced.base.words import counted
    from graced.cli.taskfile import batches, read_tasks

    name = getattr(file, "name", "-")
    ids: list[str] = []
    known: list[bool] = []
    for batch in batches(read_tasks(file, str(name), defaults)):
        reply = _batch(batch, str(name), len(ids))
        ids += reply["task_ids"]
        known += reply.get("deduplicated") or []
        if form == "off":
            click.echo("\n".join(reply["task_ids"]))
    if form == "off":
        again = f", {sum(known)} of them there already (same key)" if any(known) else ""
        say(f"{counted(len(ids), 'task')}{again}.")
    return {"task_ids": ids, "deduplicated": known}


def _batch(batch: Batch, name: str, before: int) -> JsonDict:
    from graced.base.errors import GracedError
    from graced.cli.app import call, failure_of

    try:
        reply = call("io.graced.HTM.SubmitBatch", {"tasks": batch.tasks}, timeout_s=30.0)
    except GracedError as error:
        failure = failure_of(error)
        where = f"{name}:{_line(failure.message, batch)}"
        accepted = f"the {before} tasks above it were accepted" if before else "nothing was submitted"
        raise Failure(f"{where}: {failure.message}; {accepted}", failure.hint) from error
    if not isinstance(reply.get("task_ids"), list) or len(reply["task_ids"]) != len(batch.tasks):
        raise Failure("the supervisor accepted tasks without their ids", "journalctl -u graced-supervisor")
    return reply


def _line(message: str, batch: Batch) -> int:
    """The line that an error is about: it says ``$.tasks[3]``; else the first of the batch."""
    import re

    found = re.search(r"\$\.tasks\[(\d+)\]", message)
    index = int(found[1]) if found else 0
    return batch.lines[index] if index < len(batch.lines) else batch.lines[0]


def _wait(ids: list[str], timeout_seconds: int | None, form: str) -> dict[str, str]:
    from time import monotonic

    from graced.base.errors import GracedError
    from graced.cli.app import failure_of
    from graced.cli.follow import Patience, settle

    def ended(task_id: str, state: str) -> None:
        if form == "off":
            click.echo(f"{task_id} {state}")

    until_s = None if timeout_seconds is None else monotonic() + timeout_seconds
    try:
        states = settle(ids, Patience(until_s=until_s, tell=say), ended)
    except GracedError as error:
        failure = failure_of(error)
        raise Failure(
            f"submitted, but how it ends is not known: {failure.message}", f"gracectl task {ids[0]} --follow"
        ) from error
    except KeyboardInterrupt as error:
        raise Failure(
            f"no longer waited for: {ids[0]} {'goes' if len(ids) == 1 else 'and the others go'} on",
            f"gracectl task {ids[0]} --follow; gracectl cancel ends it",
        ) from error
    if form == "off":
        for task_id, state in states.items():
            if state not in {"done", "cancelled"} and len(ids) == 1:
                say(f"next: gracectl {'task' if state in {'failed', 'dead'} else 'why'} {task_id}")
    return states
