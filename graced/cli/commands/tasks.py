"""gracectl tasks, task, tree and why: look at the queue of the hierarchical task manager."""

from __future__ import annotations

import click

from graced.cli.app import Failure, json_option
from graced.cli.output import cell, paint, printable, say, short_time, show, table
from graced.cli.tasktext import STATES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

_OUTCOMES = """\b
With --follow the exit status says how it ended: 0 done, 5 failed or dead,
6 cancelled."""


@click.command(epilog="Example: gracectl tasks --state dead --handler backup")
@click.option("--state", type=click.Choice(STATES), help="Only tasks in this state.")
@click.option("--handler", help="Only tasks for this handler, such as heal.")
@click.option("-n", "--limit", type=click.IntRange(1, 10000), default=50, show_default=True, help="At most so many.")
@click.option("-f", "--follow", is_flag=True, help="Stay, and print each change once it is on disk.")
@json_option
def tasks(state: str | None, handler: str | None, limit: int, follow: bool, form: str) -> None:
    """List tasks, newest first; with --state queued those to be done next first."""
    from graced.cli.app import call

    if follow:
        _follow_all(state, handler, form)
        return
    reply = call("io.graced.HTM.List", {"state": state, "handler": handler, "limit": limit})
    found = reply.get("tasks")
    if not isinstance(found, list):
        raise Failure("the supervisor answered without a list of tasks", "journalctl -u graced-supervisor")
    show(found, form, _human(found))
    if form == "off":
        _add(found, limit, cut=reply.get("truncated") is True)


def _human(found: list[JsonDict]) -> str:
    from time import time

    from graced.cli import tasktext
    from graced.cli.output import terminal_columns

    now_s = time()
    rows = [tasktext.row(task, now_s) for task in found]
    return table(tasktext.HEADINGS, rows, right=("tries",), columns=terminal_columns())


def _add(found: list[JsonDict], limit: int, *, cut: bool) -> None:
    if not found:
        say("No tasks.")
    elif cut:
        say(f"The first {len(found)}: their contexts are too large for more. --state and --handler show others.")
    elif len(found) == limit:
        say(f"The first {limit}; --limit shows more.")


def _follow_all(state: str | None, handler: str | None, form: str) -> None:
    from graced.cli.follow import Patience, changes

    for change in changes({"handler": handler} if handler else {}, Patience(tell=say, met=False)):
        if change is None:
            continue
        if state is None or change.get("state") == state:
            show(change, form, _change(change))


def _change(change: JsonDict) -> str:
    names = f"{cell(change.get('handler'))}/{cell(change.get('task_type'))}"
    return (
        f"{short_time(change.get('at'))}  {cell(change.get('task_id')):<10} {cell(change.get('kind')):<10} "
        f"{cell(change.get('state')):<9}  {names}  attempt {cell(change.get('attempt'))}"
    )


@click.command(epilog=_OUTCOMES)
@click.argument("task_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Stay until it has ended, and print what happens to it.")
@json_option
@click.pass_context
def task(context: click.Context, task_id: str, follow: bool, form: str) -> None:
    """Show one task: every field, and what happened to it so far."""
    from graced.cli.app import call

    if follow:
        from graced.cli.follow import exit_code

        context.exit(exit_code([_follow(task_id, form)]))
    reply = call("io.graced.HTM.Get", {"task_id": task_id})
    show(reply, form, _one(reply))


def _one(reply: JsonDict) -> str:
    fields = reply.get("task") or {}
    lines = []
    for name, value in fields.items():
        text = cell(value) if not isinstance(value, (dict, list)) else _compact(value)
        lines.append(f"{paint(name.rjust(18), 'faint')}: {text}")
    events = reply.get("events") or []
    if events:
        lines += ["", paint("Events", "strong")]
        lines += [f"  {_event(event)}" for event in events]
    return "\n".join(lines)


def _compact(value: object) -> str:
    from graced.cli.output import to_json

    return cell(to_json(value, "short"))


def _event(event: JsonDict) -> str:
    detail = f"  {cell(event['detail'])}" if event.get("detail") else ""
    return f"{short_time(event.get('at'))}  {cell(event.get('kind')):<12} attempt {cell(event.get('attempt'))}{detail}"


def _follow(task_id: str, form: str) -> str:
    """Print its events as they come until it has ended; its last state."""
    from graced.cli.app import call
    from graced.cli.follow import Patience, changes, persist
    from graced.cli.tasktext import ENDED, progress_of

    patience = Patience(tell=say)
    seen, said, state = 0, "", ""
    call("io.graced.HTM.Get", {"task_id": task_id})
    for _ in changes({"task_id": task_id}, patience):
        reply = persist(lambda: call("io.graced.HTM.Get", {"task_id": task_id}), patience)
        one, events = reply.get("task") or {}, reply.get("events") or []
        for event in events[seen:]:
            show(event, form, _event(event))
        seen = len(events)
        progress = progress_of(one)
        if progress and progress != said and form == "off":
            click.echo(f"{short_time((one.get('progress') or {}).get('at'))}  {'progress':<12} {progress}")
        said, state = progress, str(one.get("state"))
        if state in ENDED:
            break
    if form == "off":
        say(f"{printable(task_id)} is {printable(state)}.")
    return state


@click.command(epilog="Example: gracectl tree task_7")
@click.argument("task_id", metavar="ID")
@json_option
def tree(task_id: str, form: str) -> None:
    """Draw the whole tree that a task belongs to: parents above their children, with state and time."""
    from time import time

    from graced.cli.app import call
    from graced.cli.output import speaks_unicode
    from graced.cli.tasktext import draw

    reply = call("io.graced.HTM.Tree", {"task_id": task_id})
    root = reply.get("root")
    if not isinstance(root, dict):
        raise Failure("the supervisor answered without a tree", "journalctl -u graced-supervisor")
    lines = list(draw(root, time(), unicode=speaks_unicode())) if form == "off" else []
    width = max((len(name) for name, _ in lines), default=0)
    show(reply, form, "\n".join(f"{_mark(name, task_id, width)}  {rest}" for name, rest in lines))
    if reply.get("truncated") and form == "off":
        say("The tree is larger than this: only the first tasks are shown.")


def _mark(name: str, task_id: str, width: int) -> str:
    """The task that was asked for stands out where there is colour."""
    padded = name.ljust(width)
    return paint(padded, "strong") if name.rpartition(" ")[2] == task_id else padded


@click.command(epilog="Example: gracectl why task_7")
@click.argument("task_id", metavar="ID")
@json_option
def why(task_id: str, form: str) -> None:
    """Say what a task is waiting for, or why it ended as it did."""
    from graced.cli.app import call

    reply = call("io.graced.HTM.Why", {"task_id": task_id})
    sentences = reply.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        raise Failure(f"the supervisor cannot say why {task_id} waits", f"gracectl task {task_id}")
    show(reply, form, "\n".join(printable(str(sentence)) for sentence in sentences))
