"""gracectl audit: check the signed ledger, look into it, and take evidence out of it."""

from __future__ import annotations

import click

from graced.cli.app import EXIT_FAILED, json_option, paths
from graced.cli.commands.audit_out import copy_options, export, kept_checkpoint, prove, readable
from graced.cli.commands.audit_show import show_entries
from graced.cli.output import printable, say, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.trust.audit import Anchor, Report

_ANCHORS = {
    "none": "No earlier head from outside the database was there to compare with.",
    "agrees": "The heads kept outside it agree.",
    "rolled-back": "The heads kept outside know a LATER state than this one, or than the one it goes on from.",
    "differs": "The heads kept outside know a DIFFERENT history.",
}
_ANSWERS = {
    "holds": "The ledger holds.",
    "rolled-back": "The ledger does NOT hold: it was ROLLED BACK to an older copy.",
    "truncated": "The ledger does NOT hold: it was TRUNCATED, the database itself knows more entries than it has.",
    "differs": "The ledger does NOT hold: it DIFFERS from what was signed before, its history was rewritten.",
    "changed": "The ledger does NOT hold: it was CHANGED and contradicts its own heads, keys or tables.",
    "unread": "The ledger does NOT hold: it could not be read.",
}


@click.group()
def audit() -> None:
    """Check and show the signed record of what graced found, decided and did."""


@audit.command(epilog="Exit status: 0 when everything holds, 1 when anything does not.")
@copy_options
@click.option(
    "--checkpoint",
    "heads",
    type=click.Path(dir_okay=False),
    multiple=True,
    help="A file with a head that was kept elsewhere; again for more.",
)
@click.option("--archive", is_flag=True, help="Read the archive of old entries too, not only what it hashes to.")
@json_option
@click.pass_context
def verify(
    context: click.Context,
    database: str | None,
    roster: str | None,
    heads: tuple[str, ...],
    *,
    archive: bool,
    form: str,
) -> None:
    """Verify the ledger: every entry, signature and checkpoint, against the roster of public keys.

    On this host also against the heads in its journal and in the supervisor's ledger_anchor_file. Works while graced
    runs and on copied files: no daemon is asked, nothing is written.
    """
    from graced.cli.auditing import audit_database, configured_anchor_file, journal_anchors

    if (database is None) != (roster is None):
        raise click.UsageError("--database and --roster go together: a copy is checked against its own roster")
    kept = [_kept_head(path) for path in heads]
    if database is not None and roster is not None:
        report = audit_database(readable(database), readable(roster), kept, owners=None, whole=archive)
    else:
        ledger = readable(f"{paths().lib}/supervisor/ledger.db")
        file = configured_anchor_file(paths().config_file())
        anchors = [*kept, *journal_anchors()]
        report = audit_database(ledger, f"{paths().lib}/roster.json", anchors, anchor_file=file, whole=archive)
    show(report.to_json(), form, "\n".join(printable(line) for line in sentences(report)))
    if not report.ok:
        if form == "off":
            say("gracectl: the ledger does NOT hold; keep a copy of it and read SECURITY.md in /usr/share/doc/graced")
        context.exit(EXIT_FAILED)


def sentences(report: Report) -> list[str]:
    """The report for people."""
    lines = [
        _ANSWERS[report.answer],
        f"{report.entries} entries, {report.uncovered} of them after the last checkpoint.",
        *([f"{report.sealed} older entries are in the archive; --archive reads them."] if report.sealed else []),
        f"{report.checkpoints} checkpoints, {report.signatures} good signatures.",
        f"Size {report.size}, root {report.root or 'unknown'}.",
        _ANCHORS.get(report.anchor, report.anchor),
    ]
    bad = [problem.seq for problem in report.problems if problem.seq is not None]
    lines += [f"The first bad entry is {min(bad)}."] if bad else []
    for problem in report.problems:
        where = "" if problem.seq is None else f" at {problem.seq}"
        lines.append(f"  {problem.code}{where}: {problem.detail}")
    if report.more_problems:
        lines.append(f"  and {report.more_problems} more problems")
    return lines


def _kept_head(path: str) -> Anchor:
    from graced.trust.audit import Anchor

    head = kept_checkpoint(path)
    return Anchor(origin=head.origin, size=head.size, root=head.root, source=path)


for _command in (show_entries, prove, export):
    audit.add_command(_command)
