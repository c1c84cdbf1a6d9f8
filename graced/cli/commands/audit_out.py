"""gracectl audit prove and export: evidence that others can check without this host."""

from __future__ import annotations

import os
from contextlib import contextmanager

import click

from graced.cli.app import Failure, json_option, paths, verbose_option
from graced.cli.output import printable, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from graced.cli.exporting import Head
    from graced.store.ledger import LedgerReader
    from graced.trust.note import Checkpoint

_CHECK = "python3 -m graced.trust.verify"


def copy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--database and --roster: a copy instead of this host's ledger."""
    command = click.option("--roster", type=click.Path(dir_okay=False), help="The copied roster that goes with it.")(
        command
    )
    return click.option(
        "--database", type=click.Path(dir_okay=False), help="A copied ledger.db instead of this host's."
    )(command)


@contextmanager
def open_ledger(database: str | None, roster: str | None) -> Iterator[tuple[LedgerReader, Head]]:
    """The ledger and its newest head. Raises Failure, StoreError, TrustError."""
    from graced.cli.exporting import newest_head
    from graced.store.ledger import LedgerReader
    from graced.trust.roster import FILE_NAME, Roster

    if (database is None) != (roster is None):
        raise click.UsageError("--database and --roster go together: a copy is checked against its own roster")
    path = readable(database or f"{paths().lib}/supervisor/ledger.db")
    keys = Roster.load(roster, owners=None) if roster else Roster.load(f"{paths().lib}/{FILE_NAME}")
    reader = LedgerReader(path)
    try:
        yield reader, newest_head(reader, keys)
    finally:
        reader.close()


def readable(path: str) -> str:
    """`path`; Failure when it is not there or not to be seen."""
    if not os.access(path, os.R_OK):
        what = "cannot be read" if os.path.exists(path) else "there is no such file, or no permission to see it"
        raise Failure(f"{path}: {what}", "the ledger of this host needs root: run it again with sudo")
    return path


@click.command(epilog=f"Check it anywhere: {_CHECK} FILE --key KEY [--checkpoint HEAD]")
@click.argument("entry", type=click.IntRange(0), required=False)
@click.option("--from", "kept", type=click.Path(dir_okay=False), help="A file with an earlier head, instead of ENTRY.")
@copy_options
@verbose_option
def prove(entry: int | None, kept: str | None, database: str | None, roster: str | None) -> None:
    """Print proof that ENTRY, a number, is in the ledger that the newest signed head covers, archived or not.

    A C2SP tlog-proof with the entry in it. Whoever trusts the ledger's public key needs nothing else to check it. With
    --from: proof that the ledger goes on from an earlier head, every entry before it unchanged. It is checked with that
    head.
    """
    from graced.cli.exporting import prove_continuation, prove_entry

    if (entry is None) == (kept is None):
        raise click.UsageError("either ENTRY or --from, an earlier head")
    old = None if kept is None else kept_checkpoint(kept)
    with open_ledger(database, roster) as (reader, head):
        if old is not None:
            click.echo(prove_continuation(reader, head, old).text(), nl=False)
        elif entry is not None:
            click.echo(prove_entry(reader, head, entry).text(), nl=False)


def kept_checkpoint(path: str) -> Checkpoint:
    """The head in a file. Raises Failure."""
    from graced.base.errors import FormatError
    from graced.trust.verify import checkpoint_of

    try:
        return checkpoint_of(readable(path))
    except (OSError, FormatError) as error:
        raise Failure(f"{path}: {error}", "a head is a signed note: the file 'checkpoint' of an export") from error


@click.command(epilog=f"Check it anywhere: {_CHECK} DIRECTORY --key KEY")
@click.argument("directory", type=click.Path(file_okay=False))
@copy_options
@json_option
def export(directory: str, database: str | None, roster: str | None, form: str) -> None:
    """Write the whole ledger into DIRECTORY, as tiles, entry bundles and a checkpoint that other tools read.

    The layout is C2SP tlog-tiles. Entries that no signed head covers yet are left out. The key that is printed is not
    for whoever gets the directory: let them have it by another way.
    """
    from graced.cli.exporting import export_log

    with open_ledger(database, roster) as (reader, head):
        export_log(reader, head, directory)
    size = head.checkpoint.size
    text = f"{size} entries are in {printable(directory)}.\nThe head is signed by {head.key}"
    show({"directory": directory, "size": size, "key": head.key, "checkpoint": head.note}, form, text)
