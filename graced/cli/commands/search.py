"""gracectl search: full-text search over the documents in Memory."""

from __future__ import annotations

import click

from graced.cli.app import Failure, json_option
from graced.cli.output import cell, paint, say, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict


@click.command()
@click.argument("query", nargs=-1, required=True)
@click.option("-n", "--limit", type=click.IntRange(1, 100), default=10, show_default=True, help="At most so many.")
@json_option
def search(query: tuple[str, ...], limit: int, form: str) -> None:
    """Search the documents graced has taken in; best hit first."""
    from graced.cli.app import call

    hits = call("io.graced.Memory.Search", {"query": " ".join(query), "limit": limit}).get("hits")
    if not isinstance(hits, list):
        raise Failure("Memory answered without a list of hits", "journalctl -u graced-memory")
    show(hits, form, "\n\n".join(map(_human, hits)))
    if not hits and form == "off":
        say("Nothing found.")


def _human(hit: JsonDict) -> str:
    head = cell(hit.get("title") or hit.get("path") or hit.get("uri") or hit.get("document_id"))
    heading = hit.get("heading") or hit.get("section")
    text = cell(hit.get("snippet") or hit.get("text"))
    return paint(f"{head}{f' - {cell(heading)}' if heading else ''}", "strong") + f"\n  {text}"
