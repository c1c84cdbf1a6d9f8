"""gracectl pause, resume, drain, shadow and reset: hold repairs, or what one handler gets, and let them go on.

Without --handler they mean repairs (io.graced.Governance), with it the queue (io.graced.HTM): never both at once.
"""

from __future__ import annotations

import click

from graced.cli.app import Failure, verbose_option
from graced.cli.output import printable, say, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_PAUSE_SECONDS = 365 * 86400
NO_REASON = "no reason given"


def parse_duration(text: str) -> int:
    """``90s``, ``15m``, ``2h``, ``1d`` or their sum (``1h30m``) in whole seconds; ValueError otherwise."""
    import re

    units = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
    if not re.fullmatch(r"(?:\d{1,9}(?:s|min|m|h|d))+|\d{1,9}", text, re.ASCII):
        raise ValueError(f"{text!r} is not a duration such as 90s, 15m, 2h or 1d")
    parts = re.findall(r"(\d+)(s|min|m|h|d|)", text, re.ASCII)
    seconds = sum(int(number) * units[unit] for number, unit in parts)
    if not 1 <= seconds <= MAX_PAUSE_SECONDS:
        raise ValueError(f"{text!r} is not between 1 s and 365 d")
    return seconds


class Duration(click.ParamType):
    """A length of time on the command line, in seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Text to seconds; a usage error says what is accepted."""
        if isinstance(value, int):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def handler_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--handler: the queue of one handler instead of repairs."""
    return click.option(
        "--handler", metavar="NAME", help="Not repairs, but the tasks for this handler; '*' is all handlers."
    )(command)


@click.command(
    epilog="Examples: gracectl pause 1h --reason 'moving the database'; "
    "gracectl pause --handler backup --reason 'the target is full'"
)
@click.argument("duration", type=Duration(), required=False)
@handler_option
@click.option("--reason", help="Why, for the record and for whoever looks next.")
@verbose_option
def pause(duration: int | None, handler: str | None, reason: str | None) -> None:
    """Hold every repair for DURATION (90s, 15m, 2h, 1d), or until `gracectl resume`.

    Findings are still made and recorded; nothing on the host is changed.

    With --handler, repairs go on; instead no task for that handler is given to a worker until `gracectl resume
    --handler NAME`, over restarts too. Tasks are still taken in, and running ones end.
    """
    from graced.cli.app import call

    if handler is not None:
        if duration is not None:
            raise click.UsageError("a handler is paused until it is resumed: DURATION goes without --handler")
        call("io.graced.HTM.Pause", {"handler": handler, "reason": reason or NO_REASON})
        say(f"No more tasks are given out {_for(handler)}. To end it: gracectl resume --handler {_quoted(handler)}")
        return
    reply = call("io.graced.Governance.Pause", {"duration_seconds": duration, "reason": reason})
    if duration is not None and reply.get("until_boottime_us") is None:
        raise Failure("Governance paused without an end, though one was asked for", "gracectl resume")
    until = f"for {span(duration)}" if duration is not None else "until you resume them"
    say(f"Repairs are paused {until}. To end it now: gracectl resume")


@click.command(epilog="Examples: gracectl resume; gracectl resume --handler backup")
@handler_option
@verbose_option
def resume(handler: str | None) -> None:
    """Let repairs happen again; with --handler, end the pause or the drain of that handler."""
    from graced.cli.app import call

    if handler is not None:
        call("io.graced.HTM.Resume", {"handler": handler})
        say(f"Tasks are taken in and given out again {_for(handler)}. See: gracectl top")
        return
    call("io.graced.Governance.Resume")
    say("Repairs are no longer paused. See: gracectl status")


@click.command(epilog="Example: gracectl drain --handler backup --reason 'the host moves tonight'")
@click.option("--handler", metavar="NAME", required=True, help="The handler to drain; '*' is all handlers.")
@click.option("--reason", help="Why, for the record and for whoever is refused.")
@verbose_option
def drain(handler: str, reason: str | None) -> None:
    """Take in no more tasks for a handler; what is there is worked off.

    It lasts until `gracectl resume --handler NAME`, over restarts too. Whoever submits a task meanwhile is told the
    reason and to come back later.
    """
    from graced.cli.app import call

    call("io.graced.HTM.Drain", {"handler": handler, "reason": reason or NO_REASON})
    say(f"No more tasks are taken in {_for(handler)}. To end it: gracectl resume --handler {_quoted(handler)}")


@click.command(epilog="Example: gracectl shadow on --reason 'a first week of watching'")
@click.argument("state", type=click.Choice(["on", "off"]))
@click.option("--reason", help="Why, for the record and for whoever looks next.")
@verbose_option
def shadow(state: str, reason: str | None) -> None:
    """Put the whole host in shadow: graced finds, decides and records, and changes nothing.

    Unlike a pause, a repair does not wait: it ends as refused, with what would have been done. It lasts until
    `gracectl shadow off`, over restarts too.
    """
    from graced.cli.app import Failure, call

    reply = call("io.graced.Governance.Shadow", {"on": state == "on", "reason": reason})
    if reply.get("on") is True and state == "off":
        raise Failure(
            "the host stays in shadow: graced.toml says so",
            "remove shadow = true from [governance] in /etc/graced/graced.toml, then systemctl reload graced.target",
        )
    say("The host is in shadow: nothing acts." if state == "on" else "The host is not in shadow: repairs act.")


@click.command(
    epilog="Example: gracectl reset nginx --reason 'the certificate is back'. "
    "Exit status: 0 done, 1 when it is not adopted."
)
@click.argument("unit")
@click.option("--reason", help="What was mended, for the record.")
@verbose_option
def reset(unit: str, reason: str | None) -> None:
    """Forget the repairs of UNIT that did not help, once you have mended the cause.

    After a few futile repairs graced waits longer between tries and takes a tier away. This gives UNIT the tier that
    it was adopted with, and what is still wrong with it is tried again at once. What it has had in the last hour still
    counts.
    """
    from graced.base.words import counted
    from graced.cli.app import call
    from graced.cli.units import service_name

    name = service_name(unit)
    reply = call("io.graced.Governance.Reset", {"unit": name, "reason": reason})
    futile = counted(int(reply.get("failures") or 0), "futile repair")
    say(f"{futile} of {printable(name)} forgotten; its tier is {reply.get('tier')}. See: gracectl status")


def _for(handler: str) -> str:
    return "for any handler" if handler == "*" else f"for {printable(handler)}"


def _quoted(handler: str) -> str:
    return "'*'" if handler == "*" else printable(handler)
