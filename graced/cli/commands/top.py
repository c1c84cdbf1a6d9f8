"""gracectl top: a live view of the queue."""

from __future__ import annotations

import sys

import click

from graced.cli.app import EXIT_FAILED, json_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.cli.board import Sample
    from graced.cli.feed import Feed

EPILOG = """\b
Keys: q or Ctrl-C leaves, space asks anew at once, Ctrl-Z stops.
Without a terminal it prints one frame, as with --once.
Example: gracectl top --interval 5"""

WINDOW = 5
"""Samples over which rates are taken."""
WIDE = 1000
"""Columns of a pipe."""


@click.command(epilog=EPILOG)
@click.option(
    "-d",
    "--interval",
    type=click.FloatRange(0.1, 3600.0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option("--once", is_flag=True, help="Print one frame and leave.")
@json_option
@click.pass_context
def top(context: click.Context, interval: float, once: bool, form: str) -> None:
    """Watch the queue live: tasks by priority and state, handlers, what runs, rates, the oldest, the dead.

    Late counts tasks that passed their deadline, slack is the time to it; refused are submissions beyond a limit.
    """
    import os

    from graced.cli.feed import Feed

    with Feed() as feed:
        killed_by = _show(context, feed, interval, form, once=once)
    if killed_by is not None:
        import signal

        signal.signal(killed_by, signal.SIG_DFL)
        os.kill(os.getpid(), killed_by)


def _show(context: click.Context, feed: Feed, interval: float, form: str, *, once: bool) -> int | None:
    """JSON, one frame or the live view; the signal that ended it, if one did."""
    import os

    from graced.cli import board
    from graced.cli.output import paint, say, show, terminal_columns

    sample = feed.first()
    columns = terminal_columns()
    if form != "off":
        show({"stats": sample.stats, "running": sample.running}, form, "")
        return None
    if once or columns is None or os.environ.get("TERM", "dumb") == "dumb":
        lines = board.frame(None, sample, board.Room(columns=columns or WIDE))
        click.echo("\n".join(paint(text, kind) if kind else text for text, kind in lines))
        return None
    try:
        return _live(feed, sample, interval)
    except OSError as error:
        say(f"gracectl: the terminal is gone: {error.strerror}")
        context.exit(EXIT_FAILED)


def _live(feed: Feed, sample: Sample, interval: float) -> int | None:
    """Draw until the person leaves; the signal that ended it, if one did."""
    from time import monotonic

    from graced.cli import board
    from graced.cli.output import paint
    from graced.cli.screen import Screen

    keys_from = sys.stdin.fileno() if sys.stdin.isatty() else None
    samples = [sample]
    next_s = monotonic() + interval
    sys.stdout.flush()
    with Screen(sys.stdout.fileno(), keys_from, paint) as screen:
        while True:
            columns, rows = screen.size
            room = board.Room(columns=columns, rows=rows)
            before = samples[0] if len(samples) > 1 else None
            screen.draw(board.frame(before, samples[-1], room, trouble=feed.trouble(samples[-1])))
            keys, ready = screen.wait(feed.waits_for(), next_s - monotonic())
            if keys & {"q", "Q", "quit"}:
                return screen.killed_by()
            if " " in keys or monotonic() >= next_s:
                feed.ask()
                next_s = monotonic() + interval
            if ready and (fresh := feed.take()) is not None:
                samples = [*samples, fresh][-WINDOW:]
