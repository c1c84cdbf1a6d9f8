"""gracectl approvals, approve, deny: a person's word on a repair that waits for it."""

from __future__ import annotations

import click

from graced.cli.app import Failure, json_option, verbose_option
from graced.cli.output import printable, say, show, span, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also those that are approved, denied, used or expired.")
@json_option
def approvals(everything: bool, form: str) -> None:
    """Show which repairs wait for a person, and why."""
    from graced.cli.app import call

    rows = call("io.graced.Governance.Approvals", {"all": everything or None}).get("approvals")
    if not isinstance(rows, list):
        raise Failure("Governance answered without approvals", "journalctl -u graced-governance")
    headings = ("id", "state", "unit", "playbook", "tier", "approved", "task", "expires in", "why")
    show(rows, form, table(headings, [_row(row) for row in rows]))
    if not rows and form == "off":
        say("No repair waits for a person.")


def _row(row: JsonDict) -> tuple[object, ...]:
    left = row.get("expires_seconds")
    people = ", ".join(f"uid {uid}" for uid in row.get("approved_by") or [])
    given = f"{len(row.get('approved_by') or [])}/{row.get('needed')}" + (f" ({people})" if people else "")
    why = row.get("denied_reason") if row.get("state") == "denied" else row.get("reason")
    names = (row.get("id"), row.get("state"), row.get("unit"), row.get("playbook"), row.get("tier"), given)
    return (*names, row.get("task_id"), None if left is None else span(float(left)), why)


@click.command(epilog="Example: gracectl approve approval_7")
@click.argument("ident", metavar="ID")
@verbose_option
def approve(ident: str) -> None:
    """Approve a repair that waits for a person; it goes on by itself.

    Only as a member of _graced-admin and not as root: the ledger records who it was. The approval counts for exactly
    the plan that `gracectl approvals` shows, once, until it expires. Where a rule asks for two people, two different
    ones have to.
    """
    reply = _say("Approve", {"id": ident})
    missing = int(reply["needed"]) - len(reply["approved_by"])
    if missing > 0:
        say(f"Approved. {missing} more {'person has' if missing == 1 else 'people have'} to: gracectl approvals")
    else:
        say("Approved: the repair goes on. See: gracectl incidents")


@click.command(epilog="Example: gracectl deny approval_7 --reason 'the till is open until eight'")
@click.argument("ident", metavar="ID")
@click.option("--reason", required=True, help="Why, for the record and for whoever looks next.")
@verbose_option
def deny(ident: str, reason: str) -> None:
    """Deny a repair that waits for a person, also after others approved it, as long as it has not begun."""
    _say("Deny", {"id": ident, "reason": reason})
    say(f"Denied: {printable(ident)} will not be done. See: gracectl incidents")


def _say(verb: str, parameters: JsonDict) -> JsonDict:
    from graced.cli.app import call
    from graced.varlink.wire import VarlinkError

    try:
        return call(f"io.graced.Governance.{verb}", parameters)
    except VarlinkError as error:
        if error.name == "PermissionDenied":
            raise Failure(
                "only a member of the group _graced-admin can do this, and not root: it is a person's word",
                "run it under your own account; root adds you with: adduser NAME _graced-admin",
            ) from error
        if error.name in {"NoSuchApproval", "NotOpen", "SamePerson"}:
            raise Failure(str(error.parameters.get("reason")), "gracectl approvals --all") from error
        raise
