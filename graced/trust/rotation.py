"""Changing a signing key: what is said about it, who may believe it, and the roster that follows from it.

A rotation is a statement signed by the key that goes and proved by the key that comes; the new private part travels
sealed, and the statement names its digest. A statement counts once: only while the key that signed it is the current
one, and never for a key the roster knows already. Revocation is root's. Pure: nothing here touches a file.
"""

from __future__ import annotations

import os

from graced.base.clock import iso
from graced.base.digest import sha256
from graced.base.errors import FormatError, TrustError
from graced.base.json import canonical, get_dict, get_str
from graced.base.record import Record
from graced.trust.keys import PUBLIC_BYTES, SIGNERS, Signer, decode_base64, encode_base64, kid_of, seal_key, verify
from graced.trust.roster import CURRENT, RETIRED, REVOKED, RosterKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from graced.base.json import JsonDict
    from graced.trust.roster import Roster

CONTEXT = b"graced-rotation-v1\n"
DAY_SECONDS = 86400
VALIDITY_SECONDS = 90 * DAY_SECONDS
RENEW_SECONDS = 7 * DAY_SECONDS
MAX_VALIDITY_SECONDS = 400 * DAY_SECONDS
# Signer and actuator read the same host's clock; between them it may have been set.
_CLOCK_SECONDS = 3600
_MAX_REASON_CHARS = 200
_MAX_NAME_CHARS = 64
_SECOND_US = 1_000_000


class Statement(Record):
    """What the key `old_kid` says about its successor. `by_uid` and `by`: who asked, as the signer saw its peer."""

    v: int
    signer: str
    old_kid: str
    kid: str
    public: str
    sealed_digest: str
    not_before: str
    not_after: str
    by: str
    by_uid: int
    reason: str


class Rotation(Record):
    """A statement with the old key's `signature`, the new key's `proof` and the `sealed` blob (all base64)."""

    statement: JsonDict
    signature: str
    proof: str
    sealed: str

    @classmethod
    def parse(cls, obj: JsonDict) -> Self:
        """The rotation in a call's parameters. Raises TrustError (code "format")."""
        try:
            rotation = cls(
                statement=get_dict(obj, "statement"),
                signature=get_str(obj, "signature"),
                proof=get_str(obj, "proof"),
                sealed=get_str(obj, "sealed"),
            )
            rotation.said()
        except FormatError as error:
            raise TrustError(f"not a rotation: {error.message}", code="format") from error
        return rotation

    def said(self) -> Statement:
        """The statement as a value. Raises FormatError."""
        statement = Statement.from_json(self.statement, "statement")
        if statement.v != 1 or statement.signer not in SIGNERS:
            raise FormatError("the statement is of a version or signer this graced does not know", path="statement")
        if len(statement.reason) > _MAX_REASON_CHARS or len(statement.by) > _MAX_NAME_CHARS:
            raise FormatError("the statement's reason or name is too long", path="statement")
        return statement


def make_rotation(
    old: Signer, seal: bytes, wall_us: int, validity_s: float, by: str, by_uid: int, reason: str
) -> tuple[Rotation, Signer]:
    """A fresh successor of `old`, sealed under the same `seal`, and the statement about it."""
    seed = os.urandom(32)
    new = Signer(seed, old.signer, old.source)
    sealed = seal_key(seed, seal, old.signer)
    statement = Statement(
        v=1,
        signer=old.signer,
        old_kid=old.kid,
        kid=new.kid,
        public=encode_base64(new.public),
        sealed_digest=sha256(sealed).hexdigest(),
        not_before=iso(wall_us),
        not_after=iso(wall_us + int(validity_s) * _SECOND_US),
        by=by[:_MAX_NAME_CHARS],
        by_uid=by_uid,
        reason=reason[:_MAX_REASON_CHARS],
    ).to_json()
    payload = canonical(statement)
    rotation = Rotation(
        statement=statement,
        signature=encode_base64(old.sign(CONTEXT, payload)),
        proof=encode_base64(new.sign(CONTEXT, payload)),
        sealed=encode_base64(sealed),
    )
    return rotation, new


def is_endorsed(statement: JsonDict, signature: str, proof: str, old: bytes, new: bytes) -> bool:
    """Whether both public keys signed the statement. Raises nothing: text that is no base64 is no signature."""
    try:
        payload = canonical(statement)
        by_old, by_new = decode_base64(signature, "the signature"), decode_base64(proof, "the proof")
    except (FormatError, TrustError):
        return False
    return verify(old, CONTEXT, payload, by_old) and verify(new, CONTEXT, payload, by_new)


def check_rotation(roster: Roster, rotation: Rotation, wall_us: int) -> Statement:
    """The statement, if the roster's current key made it now. Raises TrustError.

    Codes: "format", "not-current" (another key is current, or the new one is known already), "signature", "validity".
    """
    try:
        said = rotation.said()
    except FormatError as error:
        raise TrustError(f"not a rotation: {error.message}", code="format") from error
    current = roster.current(said.signer)
    if current.kid != said.old_kid:
        raise TrustError(f"{said.old_kid} is not {said.signer}'s current key, {current.kid} is", code="not-current")
    if roster.find(said.kid) is not None:
        raise TrustError(f"the key {said.kid} was used before", code="not-current")
    public = decode_base64(said.public, "the new public key")
    if len(public) != PUBLIC_BYTES or kid_of(public) != said.kid:
        raise TrustError(f"the new key {said.kid} is not what its name says", code="format")
    if not is_endorsed(rotation.statement, rotation.signature, rotation.proof, current.public_bytes(), public):
        raise TrustError(f"the rotation is not signed by {said.old_kid} and proved by {said.kid}", code="signature")
    sealed = decode_base64(rotation.sealed, "the sealed key")
    if sha256(sealed).hexdigest() != said.sealed_digest:
        raise TrustError("the sealed key is not the one in the statement", code="signature")
    _check_times(said, wall_us)
    return said


def _check_times(said: Statement, wall_us: int) -> None:
    near, far = iso(wall_us - _CLOCK_SECONDS * _SECOND_US), iso(wall_us + _CLOCK_SECONDS * _SECOND_US)
    latest = iso(wall_us + MAX_VALIDITY_SECONDS * _SECOND_US)
    if not near <= said.not_before <= far or not said.not_before < said.not_after <= latest:
        raise TrustError(f"a key valid from {said.not_before} to {said.not_after} is not accepted now", code="validity")


def rotated(roster: Roster, said: Statement, now: str) -> Roster:
    """The roster after a checked statement. Raises TrustError when it would not be a sound one."""
    old = roster.current(said.signer)
    gone = old.replace(state=RETIRED, not_after=_earlier(old.not_after, now))
    new = RosterKey(
        kid=said.kid,
        signer=said.signer,
        public=said.public,
        not_before=said.not_before,
        not_after=said.not_after,
        endorsed_by=said.old_kid,
        changed_by=said.by,
        changed_by_uid=said.by_uid,
        reason=said.reason,
    )
    gone = gone.replace(changed_by=said.by, changed_by_uid=said.by_uid, reason=said.reason)
    return _checked(roster.replace(keys=(*(gone if key is old else key for key in roster.keys), new)))


def revoked(
    roster: Roster, kid: str, now: str, uid: int, reason: str, at_seq: int | None, successor: RosterKey | None
) -> Roster:
    """The roster in which `kid` is revoked: from entry `at_seq` on, or (None) from where the log says so.

    A current key needs a `successor`. Raises TrustError: "unknown-key", "revoked" (it is already, and not from an
    earlier entry now), or not sound.
    """
    key = roster.find(kid)
    if key is None:
        raise TrustError(f"the roster does not know the key {kid}", code="unknown-key")
    if key.state == REVOKED and (at_seq is None or (key.revoked_at_seq is not None and at_seq >= key.revoked_at_seq)):
        raise TrustError(f"the key {kid} is revoked already", code="revoked")
    if (key.state == CURRENT) != (successor is not None):
        raise TrustError(f"the key {kid} is {key.state}: only a current one is replaced", code="roster")
    gone = key.replace(
        state=REVOKED,
        not_after=_earlier(key.not_after, now),
        revoked_at_seq=at_seq,
        changed_by="root",
        changed_by_uid=uid,
        reason=reason[:_MAX_REASON_CHARS],
    )
    keys = tuple(gone if one is key else one for one in roster.keys)
    return _checked(roster.replace(keys=keys if successor is None else (*keys, successor)))


def _earlier(planned: str | None, now: str) -> str:
    return now if planned is None else min(planned, now)


def _checked(roster: Roster) -> Roster:
    roster.check()
    return roster


def is_due(key: RosterKey, wall_us: int, ahead_s: int = RENEW_SECONDS) -> bool:
    """Whether a key ends within `ahead_s` seconds. One without an end (from before there were any) has 90 days."""
    if key.not_after is None:
        return key.not_before <= iso(wall_us + (ahead_s - VALIDITY_SECONDS) * _SECOND_US)
    return key.not_after <= iso(wall_us + ahead_s * _SECOND_US)
