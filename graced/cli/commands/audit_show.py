"""gracectl audit show: what stands in the ledger, by kind, unit, task and time."""

from __future__ import annotations

import click

from graced.cli.app import Failure, connect, json_option
from graced.cli.commands.pause import parse_duration
from graced.cli.output import cell, printable, short_time, show, table, terminal_columns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from graced.base.json import JsonDict
    from graced.varlink.client import Client

    Wanted = Callable[[JsonDict], bool]

KINDS = ("approval", "checkpoint", "decision", "finding", "key", "restore", "step", "task", "verdict", "warrant")
_CHUNK = 1000
_MOST_WORDS = 4
# No ledger has an entry of this number: the answer is its size and nothing else.
_BEYOND = 1 << 53


class Since(click.ParamType):
    """A length of time ago, or a UTC time; becomes the beginning of an RFC 3339 time."""

    name = "when"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Text to a time that compares with those of entries; a usage error says what is accepted."""
        import re

        from graced.base.clock import SystemClock, iso

        text = str(value)
        if re.fullmatch(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?)?Z?", text, re.ASCII):
            return text.replace(" ", "T").removesuffix("Z")
        try:
            return iso(SystemClock().wall_us() - parse_duration(text) * 1_000_000)
        except ValueError:
            self.fail(f"{text!r} is neither a time such as 2026-01-31T15:04 (UTC) nor a span such as 2h", param, ctx)


@click.command(name="show", epilog="Example: gracectl audit show --kind warrant --kind verdict --unit nginx --since 1d")
@click.argument("entry", type=click.IntRange(0), required=False)
@click.option(
    "--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Only entries of this kind; again for more."
)
@click.option("--unit", help="Only entries about this unit.")
@click.option("--task", help="Only entries about this task.")
@click.option("--since", type=Since(), help="Not older than this: 2h, or a time in UTC.")
@click.option("-n", "--lines", type=click.IntRange(1, 100_000), default=50, help="At most so many of the newest (50).")
@json_option
def show_entries(
    entry: int | None,
    kinds: tuple[str, ...],
    unit: str | None,
    task: str | None,
    since: str | None,
    lines: int,
    form: str,
) -> None:
    """Show entries of the ledger, oldest first: what was found, decided, done and seen afterwards. Or the whole of
    ENTRY, a number.

    Archived entries are looked through as well. It tells what stands there. Whether that is what was written,
    'gracectl audit verify' says.
    """
    from graced.cli.units import service_name

    if entry is not None:
        if kinds or unit or task or since:
            raise click.UsageError("ENTRY is one entry: no other choice goes with it")
        one = _one(entry)
        show(one, form, details(one))
        return
    name = service_name(unit) if unit else None

    def wanted(entry: JsonDict) -> bool:
        return (
            (not kinds or entry.get("kind") in kinds)
            and (name is None or entry.get("unit") == name)
            and (task is None or entry.get("task_id") == task)
            and (since is None or str(entry.get("time")) >= since)
        )

    asked = {key: value for key, value in (("unit", name), ("task_id", task)) if value is not None}
    found: list[JsonDict] = []
    with connect("io.graced.Ledger", timeout_s=30.0) as client:
        for page in found_pages(client, asked) if asked else _backwards(client):
            found = [entry for entry in page if wanted(entry)] + found
            if len(found) >= lines:
                break
            # One entry is not enough to stop at: the clock may have been set back and forth.
            if since is not None and page and all(str(entry.get("time")) < since for entry in page):
                break
    found = found[-lines:]
    show(found, form, entry_table(found) or "No entries.")


def _one(number: int) -> JsonDict:
    with connect("io.graced.Ledger", timeout_s=30.0) as client:
        entries: list[JsonDict] = client.call("io.graced.Ledger.Read", {"start": number, "count": 1})["entries"]
    if not entries:
        raise Failure(f"the ledger has no entry {number}", "they are numbered from 0; gracectl audit show: the newest")
    return entries[0]


def details(entry: JsonDict) -> str:
    """One entry for people, whole."""
    from graced.cli.output import to_json

    facts = {name: value for name, value in entry.items() if name not in {"data", "v"} and value is not None}
    lines = [f"{name:12} {value}" for name, value in facts.items()]
    lines += ["", *to_json(entry.get("data"), "pretty").split("\n")]
    return "\n".join(printable(line) for line in lines)


def entry_table(entries: list[JsonDict]) -> str:
    """The entries for people."""
    rows = [
        (
            entry.get("seq"),
            short_time(entry.get("time")),
            entry.get("kind"),
            entry.get("actor"),
            entry.get("unit"),
            entry.get("task_id"),
            _words(entry.get("data")),
        )
        for entry in entries
    ]
    headings = ("entry", "time", "kind", "by", "unit", "task", "what")
    return table(headings, rows, right=("entry",), columns=terminal_columns())


def _words(data: object) -> str:
    """The first plain facts of an entry's data; the rest is in --json."""
    if not isinstance(data, dict):
        return ""
    facts = [
        f"{key}={cell(value)}" for key, value in data.items() if isinstance(value, (str, int, float)) and value != ""
    ]
    return " ".join(facts[:_MOST_WORDS])


def found_pages(client: Client, asked: JsonDict) -> Iterator[list[JsonDict]]:
    """What Find knows about a unit, task or intent, page by page: the newest page first, in each the oldest first."""
    before: int | None = None
    while True:
        page = client.call("io.graced.Ledger.Find", {**asked, "before": before})
        yield page["entries"]
        before = page.get("next")
        if before is None:
            return


def _backwards(client: Client) -> Iterator[list[JsonDict]]:
    end = int(client.call("io.graced.Ledger.Read", {"start": _BEYOND, "count": 1})["size"])
    while end > 0:
        start = max(0, end - _CHUNK)
        chunk: list[JsonDict] = []
        while start + len(chunk) < end:
            asked = {"start": start + len(chunk), "count": end - start - len(chunk)}
            entries: list[JsonDict] = client.call("io.graced.Ledger.Read", asked)["entries"]
            if not entries:
                break
            chunk += entries
        yield chunk
        end = start
