"""gracectl keys: whose signatures count on this host, since when, who changed it, and changing it.

Looking needs no daemon: the roster is a file of root's that everybody may read.
"""

from __future__ import annotations

import click

from graced.cli.app import EXIT_FAILED, Failure, json_option, need_root, verbose_option
from graced.cli.output import printable, say, show, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.trust.roster import Roster, RosterKey

_ROTATE = {
    "ledger": "io.graced.Ledger.RotateKey",
    "governance": "io.graced.Governance.RotateKey",
    "verification": "io.graced.Verification.RotateKey",
}
# A repair under way is waited for (30 s), then the actuator works (twice 10 s at worst).
_ROTATE_SECONDS = 60.0
_LEAST_PREFIX = 4
# SubjectPublicKeyInfo of an Ed25519 key (RFC 8410): 12 fixed bytes before the 32 of the key.
_SPKI = bytes.fromhex("302a300506032b6570032100")


@click.group()
def keys() -> None:
    """Show and change the keys that sign the ledger's heads, warrants and verdicts."""


@keys.command(name="list", epilog="Exit status: 0; 1 when a signer's key has ended or the roster cannot be used.")
@json_option
@click.pass_context
def list_(context: click.Context, form: str) -> None:
    """List every key there ever was on this host, the current ones first."""
    from graced.base.clock import SystemClock, iso

    roster = _roster()
    now = iso(SystemClock().wall_us())
    ordered = sorted(roster.keys, key=lambda key: (key.state != "current", key.signer, key.not_before))
    rows = [(key.signer, key.kid, _word(key, now), key.not_before[:10], (key.not_after or "")[:10]) for key in ordered]
    show([_facts(key, now) for key in ordered], form, table(("signer", "key", "state", "from", "until"), rows))
    if any(_word(key, now) == "ended" for key in ordered):
        if form == "off":
            say("gracectl: a key has ended and was not rotated; the journal of its daemon says why")
        context.exit(EXIT_FAILED)


@keys.command(name="show", epilog="Examples: gracectl keys show governance; gracectl keys show 5f0c")
@click.argument("key")
@json_option
def show_(key: str, form: str) -> None:
    """Show one key: its validity, what it was replaced by and why, and every operation on it with who asked.

    KEY is a key's name, the beginning of one, or a signer for its current key: ledger, governance or verification.
    """
    from graced.base.clock import SystemClock, iso
    from graced.cli.app import attempt

    roster = _roster()
    found = _find(roster, key)
    facts = _facts(found, iso(SystemClock().wall_us()))
    reply, silent = attempt("io.graced.Ledger.KeyHistory", {"kid": found.kid})
    history = None if reply is None else reply.get("operations")
    lines = [f"{name:15} {printable(str(value))}" for name, value in facts.items() if value not in {None, ""}]
    facts["operations"] = history
    if isinstance(history, list):
        rows = [(one["time"], one["operation"], one["actor"], one["uid"]) for one in history if isinstance(one, dict)]
        lines += ["", table(("when", "what", "who", "uid"), rows)]
    else:
        lines += ["", f"What was done to it is not known: {printable(silent)}"]
    show(facts, form, "\n".join(lines))


@keys.command(epilog="Example: sudo gracectl keys rotate governance --reason 'an admin left'")
@click.argument("signer", type=click.Choice(sorted(_ROTATE)), nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="The keys of all three signers.")
@click.option("--reason", help="Why, for the record.")
@json_option
def rotate(signer: tuple[str, ...], everyone: bool, reason: str | None, form: str) -> None:
    """Change a signer's key now: the present key signs for its successor, and nothing restarts.

    What it signed stays verifiable. It happens by itself 7 days before a key ends. Needs root or _graced-admin.
    """
    from graced.cli.app import call

    if everyone == bool(signer):
        raise click.UsageError("name a signer, or use --all")
    done = []
    for one in sorted(_ROTATE) if everyone else signer:
        reply = call(_ROTATE[one], {"reason": reason}, timeout_s=_ROTATE_SECONDS)
        done.append({"signer": one, **reply})
    human = [
        f"{one['signer']}: {one['kid']} signs now, until {one['not_after']}; {one['old_kid']} is retired"
        for one in done
    ]
    show(done, form, "\n".join(map(printable, human)))


@keys.command(epilog="Example: sudo gracectl keys revoke 5f0c81d2 --at 10412 --reason 'stolen with the backup of May'")
@click.argument("key")
@click.option("--at", "at_seq", type=click.IntRange(min=0), help="Ledger entries from this number on do not count.")
@click.option("--reason", required=True, help="Why, for the record.")
@json_option
def revoke(key: str, at_seq: int | None, reason: str, form: str) -> None:
    """Revoke a key, for ever: from now on, or with --at from an earlier entry of the ledger on. Root only.

    A current key is replaced by a new one at once, and its daemon starts again with that. There is no way back.
    """
    from graced.cli.app import call

    need_root("revoking a key")
    kid = _find(_roster(), key).kid
    reply = call("io.graced.Actuator.RevokeKey", {"kid": kid, "at_seq": at_seq, "reason": reason}, timeout_s=15.0)
    then = f"; {reply['replaced_by']} takes its place" if reply.get("replaced_by") else ""
    since = "from now on" if at_seq is None else f"from ledger entry {at_seq} on"
    show(reply, form, printable(f"{kid} is revoked {since}{then}."))


@keys.command(name="export-public", epilog="Example: gracectl keys export-public ledger --format note")
@click.argument("key")
@click.option(
    "--format",
    "shape",
    type=click.Choice(["pem", "base64", "note"]),
    default="pem",
    help="pem for openssl, base64 for the bare 32 bytes, note for tools that verify signed notes (ledger only).",
)
@verbose_option
def export_public(key: str, shape: str) -> None:
    """Print a public key for other people's tools."""
    from graced.trust.keys import LEDGER, encode_base64
    from graced.trust.note import verifier_key

    roster = _roster()
    found = _find(roster, key)
    public = found.public_bytes()
    if shape == "pem":
        click.echo(f"-----BEGIN PUBLIC KEY-----\n{encode_base64(_SPKI + public)}\n-----END PUBLIC KEY-----")
    elif shape == "base64":
        click.echo(encode_base64(public))
    elif found.signer != LEDGER:
        raise Failure(f"{found.kid} belongs to {found.signer}: only the ledger signs notes", "use --format pem")
    else:
        click.echo(verifier_key(roster.origin, public))


def _roster() -> Roster:
    from graced.cli.app import paths
    from graced.trust.roster import FILE_NAME, Roster, owners_here

    return Roster.load(f"{paths().lib}/{FILE_NAME}", owners=owners_here())


def _find(roster: Roster, text: str) -> RosterKey:
    if text in _ROTATE:
        return roster.current(text)
    found = [key for key in roster.keys if key.kid.startswith(text) and len(text) >= _LEAST_PREFIX]
    if len(found) != 1:
        what = "there is no key" if not found else f"{len(found)} keys begin with"
        raise Failure(f"{what} {printable(text)}", "gracectl keys list shows them")
    return found[0]


def _word(key: RosterKey, now: str) -> str:
    return "ended" if key.state == "current" and key.not_after is not None and key.not_after < now else key.state


def _facts(key: RosterKey, now: str) -> JsonDict:
    facts = key.to_json()
    return {
        **{name: facts.pop(name) for name in ("signer", "kid")},
        "state": _word(key, now),
        **{name: value for name, value in facts.items() if name != "state"},
    }
