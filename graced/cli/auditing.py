"""Joins a stored ledger, the roster and the anchors in the journal into one verdict. For `gracectl audit verify`.

Works on the live database (as root) and on a copied file with a copied roster. Reads only.
"""

from __future__ import annotations

from graced.base.errors import FormatError, StoreError, TrustError
from graced.cli.exporting import newest_head
from graced.store.ledger import LedgerReader
from graced.trust.anchors import MAX_ANCHORS, file_anchors, journal_argv, supervisor_uids
from graced.trust.anchors import journal_anchors as anchors_of_journal
from graced.trust.audit import Anchor, Problem, Report, Sealed, audit_blocks
from graced.trust.blocks import blocks_of
from graced.trust.keylog import KeyLog
from graced.trust.keys import LEDGER
from graced.trust.merkle import HASH_BYTES, widths
from graced.trust.roster import Roster
from graced.trust.tables import Tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def audit_database(
    path: str,
    roster_path: str,
    anchors: Iterable[Anchor] = (),
    *,
    owners: tuple[int, ...] | None = (0,),
    anchor_file: str = "",
    whole: bool = True,
) -> Report:
    """Check the ledger database at `path` against the roster at `roster_path`, the given anchors and `anchor_file`.

    `owners`: the uids that may own the roster, None for a copy brought along. Without `whole` only the hashes of
    sealed entries count, their files are not read. Nothing is raised for what is wrong with them: an unreadable
    database or roster is a Problem ("store", "roster") and the report is not ok.
    """
    try:
        reader = LedgerReader(path)
    except StoreError as error:
        return _failed("store", str(error))
    try:
        # After the snapshot of the database: a roster that is newer by a rotation is no contradiction, an older one is.
        roster = Roster.load(roster_path, owners=owners)
        heads = [*anchors, *(file_anchors(anchor_file, roster) if anchor_file else ())]
        heads = [anchor for anchor in heads if anchor.origin == roster.origin]
        report = None
        if not whole and (not heads or max(anchor.size for anchor in heads) > reader.sealed_size):
            report = _behind_the_sealed(reader, roster, heads)
        return report or _audit(reader, roster, heads, None, Tables(reader.derived, sealed=reader.sealed_size))
    except TrustError as error:
        return _failed("roster", str(error))
    except StoreError as error:
        return _failed("store", str(error))
    finally:
        reader.close()


def _audit(reader: LedgerReader, roster: Roster, heads: list[Anchor], start: Sealed | None, tables: Tables) -> Report:
    blocks = tables.watch(blocks_of(reader.entries(0 if start is None else start.size)))
    report = audit_blocks(blocks, reader.checkpoints(), roster, anchors=heads, tile=reader.tile, start=start)
    return report.concluded([*report.problems, *tables.finish(roster)])


def _behind_the_sealed(reader: LedgerReader, roster: Roster, heads: list[Anchor]) -> Report | None:
    """The report without reading what is sealed; None when what is said of it is not beyond doubt.

    The newest head must be by the roster's current key, and cover an entry that says the same as the table `sealed`:
    then nobody without that key wrote the summary of the keys before.
    """
    size = reader.sealed_size
    try:
        head = newest_head(reader, roster)
        keys = KeyLog.parse(reader.sealed_keys())
        levels = _levels(reader, size)
        current = roster.current(LEDGER)
    except (FormatError, TrustError):
        return None
    if not size or reader.missing_files() or levels is None or head.kid != current.kid:
        return None
    start = Sealed(size=size, levels=levels, keys=dict(keys.active), ended=frozenset(keys.ended))
    tables = Tables(reader.derived, size, keys, size)
    report = _audit(reader, roster, heads, start, tables)
    return report if tables.vouched(head.checkpoint.size) else None


def _levels(reader: LedgerReader, size: int) -> tuple[bytes, ...] | None:
    levels = []
    for level, width in enumerate(widths(size)):
        hashes = reader.tile(level, (size >> (8 * level)) >> 8)[: width * HASH_BYTES]
        if (level == 0 and width) or len(hashes) != width * HASH_BYTES:
            return None
        levels.append(hashes)
    return tuple(levels)


def _failed(code: str, detail: str) -> Report:
    return Report(
        ok=False,
        entries=0,
        checkpoints=0,
        signatures=0,
        uncovered=0,
        anchor="none",
        anchors=0,
        size=0,
        root="",
        problems=(Problem(code=code, seq=None, detail=detail),),
        answer="unread",
    )


def journal_anchors(arguments: tuple[str, ...] = ()) -> list[Anchor]:
    """The heads that the supervisor wrote to this host's journal, newest first; at most MAX_ANCHORS.

    `arguments` go to journalctl (such as ``--directory=``). Raises StoreError when it cannot be asked.
    """
    import subprocess

    argv = journal_argv(MAX_ANCHORS, *arguments)
    try:
        done = subprocess.run(argv, capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StoreError(f"the journal cannot be read: {error}", code="journal") from error
    if done.returncode:
        raise StoreError(f"the journal cannot be read: {done.stderr.decode(errors='replace').strip()}", code="journal")
    return anchors_of_journal(done.stdout, supervisor_uids())


def configured_anchor_file(config_path: str) -> str:
    """The supervisor's option ledger_anchor_file, "" when there is none. Raises ConfigError."""
    from graced.base.config import load
    from graced.cli.checks import all_options

    return str(load(config_path, all_options(), "supervisor")["ledger_anchor_file"])
