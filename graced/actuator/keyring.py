"""Whose warrants count, and the only way that changes: a rotation signed with the current key, or root.

Governance's key is pinned: roster and pin must name the same one, so that an older roster put back brings no older key
back. Warrants a key signed before it was rotated out count until they expire. The actuator writes roster, key files,
records and pin, because it is the one process of graced that changes root's files; it never sees a private key that a
signer made, only one it makes itself after a revocation.
"""

from __future__ import annotations

import os

from graced.actuator.warrant import MAX_WINDOW_US, Refused
from graced.base.clock import iso
from graced.base.errors import TrustError
from graced.base.log import NOTICE, WARNING, log
from graced.base.messages import KEY_REVOKED, KEY_ROTATED, KEYS_REKEYED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.actuator.warrant import Warrant
    from graced.base.clock import Clock
    from graced.base.json import JsonDict
    from graced.runtime.peer import Peer
    from graced.trust.keychange import Pin
    from graced.trust.keyfiles import KeyRecord, KeyRoom
    from graced.trust.roster import Roster, RosterKey

_SECOND_US = 1_000_000


class Signers:
    """Pin and roster as they were at one moment (`now_us` of CLOCK_BOOTTIME), for one warrant."""

    def __init__(self, pin: Pin, roster: Roster, boot_id: str, now_us: int) -> None:
        self._pin = pin
        self._roster = roster
        age_us = now_us - pin.rotated_boottime_us
        self._is_recent = pin.boot_id == boot_id and 0 <= age_us <= MAX_WINDOW_US

    def public_of(self, kid: str) -> bytes | None:
        """The key `kid` if warrants of it may count."""
        pin = self._pin
        if kid == pin.kid:
            return pin.public_bytes()
        if kid and kid == pin.previous_kid and self._is_recent:
            key = self._roster.find(kid)
            # Revoked means at once.
            return key.public_bytes() if key is not None and key.state == "retired" else None
        return None

    def check_age(self, kid: str, warrant: Warrant) -> None:
        """A key that was rotated out signs nothing new. Refused ``unknown-key``."""
        if kid != self._pin.kid and warrant.not_before_boottime_us > self._pin.rotated_boottime_us:
            raise Refused("unknown-key", f"signed by {kid} after it was rotated out")


class Keyring:
    """Root's key files below `lib`, as the actuator uses and changes them."""

    def __init__(self, lib: str, clock: Clock, boot_id: str, owners: tuple[int, ...] = (0,)) -> None:
        self._lib = lib
        self._clock = clock
        self._boot_id = boot_id
        self._owners = owners
        self._parsed: tuple[bytes, Roster] | None = None

    def recover(self) -> None:
        """Bring a change that a killed predecessor began to its end. Raises OSError or TrustError."""
        if not os.path.lexists(f"{self._lib}/keys/change.json"):
            return
        from graced.trust.keychange import FINISHED, finish

        what = finish(self._room())
        ended = "was finished" if what == FINISHED else "had not begun to count and was dropped"
        log(WARNING, f"a change of keys that was cut off {ended}", KEYS_REKEYED)

    # Warrants ----------------------------------------------------------------------------------------------

    def signers(self) -> Signers:
        """Whose warrants count now. Refused ``pin``; TrustError when files cannot be used."""
        roster = self._roster()
        return Signers(self._pin(roster), roster, self._boot_id, self._clock.boottime_us())

    def _pin(self, roster: Roster) -> Pin:
        from graced.trust.keychange import Pin, put_pin, read_pin
        from graced.trust.keyfiles import KeyRoom
        from graced.trust.keys import GOVERNANCE

        current = roster.current(GOVERNANCE)
        # The pin is root's alone: nobody asks for the daemons' group.
        room = KeyRoom(self._lib)
        pin = read_pin(room)
        if pin is None:
            pin = Pin(kid=current.kid, public=current.public)
            put_pin(room, pin)
            log(WARNING, f"there was no pin on Governance's key; it is {current.kid} now", KEYS_REKEYED)
        if pin.kid != current.kid or pin.public != current.public:
            raise Refused("pin", f"the roster names {current.kid}, pinned is {pin.kid}: run graced-keys as root")
        return pin

    # Changes -----------------------------------------------------------------------------------------------

    def rotate(self, parameters: JsonDict, peer: Peer) -> JsonDict:
        """Apply a rotation. Raises TrustError (see `check_rotation`; "wrong-signer" for another daemon's key)."""
        from graced.trust.keychange import Change, NewFiles, commit
        from graced.trust.keyfiles import KeyRecord
        from graced.trust.keys import GOVERNANCE, HOLDERS, decode_base64
        from graced.trust.rotation import Rotation, check_rotation, rotated

        rotation = Rotation.parse(parameters)
        said = rotation.said()
        if HOLDERS[said.signer] not in peer.roles and "root" not in peer.roles:
            raise TrustError(f"{peer.name} does not hold the key of {said.signer}", code="wrong-signer")
        roster = self._roster()
        known = roster.find(said.kid)
        if known is not None and known.state == "current" and known.endorsed_by == said.old_kid:
            return {"kid": said.kid}
        if said.signer == GOVERNANCE:
            self._pin(roster)
        now_us = self._clock.wall_us()
        check_rotation(roster, rotation, now_us)
        after = rotated(roster, said, iso(now_us))
        sealed = decode_base64(rotation.sealed, "the sealed key")
        record = KeyRecord(
            key=after.current(said.signer),
            sealed=sealed,
            statement=rotation.statement,
            signature=rotation.signature,
            proof=rotation.proof,
        )
        room = self._room()
        change = Change(
            roster=after.to_bytes(),
            files=NewFiles(said.signer, sealed),
            records=(record, *_old_record(room, after, said.old_kid)),
            stamp=iso(now_us),
            pin=self._new_pin(roster, after) if said.signer == GOVERNANCE else None,
        )
        commit(room, change)
        log(
            NOTICE,
            f"{said.signer}: the signing key {said.old_kid} was rotated to {said.kid}, valid until {said.not_after}, "
            f"asked by {said.by} (uid {said.by_uid}): {said.reason}",
            KEY_ROTATED,
            GRACED_KID=said.kid,
            GRACED_OLD_KID=said.old_kid,
            GRACED_UID=said.by_uid,
        )
        return {"kid": said.kid}

    def revoke(self, kid: str, at_seq: int | None, reason: str, uid: int) -> JsonDict:
        """Revoke a key; a current one is replaced by a new key under a new seal, made here. Raises TrustError."""
        from graced.trust.keychange import Change, NewFiles, commit
        from graced.trust.keyfiles import KeyRecord
        from graced.trust.keys import GOVERNANCE
        from graced.trust.rotation import revoked

        roster, room = self._roster(), self._room()
        now_us = self._clock.wall_us()
        now = iso(now_us)
        key = roster.find(kid)
        if key is None or key.state != "current":
            after = revoked(roster, kid, now, uid, reason, at_seq, None)
            # The record is a copy for the supervisor: without it the roster still counts.
            for record in _old_record(room, after, kid):
                room.put_record(record)
            room.put_roster(after.to_bytes())
            self._say_revoked(kid, None, reason, uid)
            return {"kid": kid, "replaced_by": None}
        successor, files = _make_successor(key, now_us, uid, reason)
        after = revoked(roster, kid, now, uid, reason, at_seq, successor)
        records = (KeyRecord(key=successor, sealed=files[0]), *_old_record(room, after, kid))
        pin = None
        if key.signer == GOVERNANCE:
            pin = self._new_pin(roster, after).replace(previous_kid="", previous_public="")
        change = Change(
            roster=after.to_bytes(), files=NewFiles(key.signer, *files), records=records, stamp=now, pin=pin
        )
        commit(room, change)
        self._say_revoked(kid, successor.kid, reason, uid)
        return {"kid": kid, "replaced_by": successor.kid}

    def _new_pin(self, before: Roster, after: Roster) -> Pin:
        from graced.trust.keychange import Pin
        from graced.trust.keys import GOVERNANCE

        old, new = before.current(GOVERNANCE), after.current(GOVERNANCE)
        return Pin(
            kid=new.kid,
            public=new.public,
            previous_kid=old.kid,
            previous_public=old.public,
            boot_id=self._boot_id,
            rotated_boottime_us=self._clock.boottime_us(),
        )

    def _roster(self) -> Roster:
        from graced.trust.roster import FILE_NAME, Roster, read

        path = f"{self._lib}/{FILE_NAME}"
        data = read(path, self._owners)
        # Read anew for every warrant; the same bytes are not taken apart again.
        if self._parsed is None or self._parsed[0] != data:
            self._parsed = data, Roster.parse(data, path)
        return self._parsed[1]

    def _room(self) -> KeyRoom:
        from graced.trust.keyfiles import KeyRoom, daemons_group

        return KeyRoom(self._lib, daemons_group())

    @staticmethod
    def _say_revoked(kid: str, replaced_by: str | None, reason: str, uid: int) -> None:
        then = f", {replaced_by} is the new one" if replaced_by else ""
        log(
            WARNING,
            f"the signing key {kid} was revoked by uid {uid}: {reason}{then}",
            KEY_REVOKED,
            GRACED_KID=replaced_by or "",
            GRACED_OLD_KID=kid,
            GRACED_UID=uid,
        )


def _make_successor(key: RosterKey, now_us: int, uid: int, reason: str) -> tuple[RosterKey, tuple[bytes, bytes]]:
    """A new current key of the same signer, and its (sealed key, new seal)."""
    from graced.trust.keys import SEAL_BYTES, Signer, seal_key
    from graced.trust.roster import roster_key
    from graced.trust.rotation import VALIDITY_SECONDS

    seal, seed = os.urandom(SEAL_BYTES), os.urandom(32)
    new = Signer(seed, key.signer, "new")
    entry = roster_key(
        new.public, key.signer, iso(now_us), "root", iso(now_us + VALIDITY_SECONDS * _SECOND_US)
    ).replace(changed_by="root", changed_by_uid=uid, reason=f"{key.kid} was revoked: {reason}"[:200])
    return entry, (seal_key(seed, seal, key.signer), seal)


def _old_record(room: KeyRoom, after: Roster, kid: str) -> tuple[KeyRecord, ...]:
    """The record of the key that goes, with its new state; nothing when there is none to be read."""
    from graced.trust.keyfiles import parse_record

    path = f"{room.public}/{kid}.json"
    key = after.find(kid)
    try:
        with open(path, "rb") as file:
            record = parse_record(file.read(1 << 16), path)
    except (OSError, TrustError):
        return ()
    return () if key is None else (record.replace(key=key),)
