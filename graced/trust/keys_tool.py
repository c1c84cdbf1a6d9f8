"""`graced-keys`: root makes missing signing keys, re-keys a cloned host, keeps the roster. Loud about every loss.

Run by graced-keys.service before the daemons. The unit's conditions skip it when all of these are there and not
empty: ``/var/lib/graced/keys/{supervisor,governance,verification}.{seal,key}``, ``/var/lib/graced/roster.json``,
``/var/lib/graced/keys/governance.pin``, and ``/var/lib/graced/keys/made-on-<machine-id>`` names the machine-id that
systemd booted with; and when no change of keys was cut off (``keys/change.json``).
Exit codes: 0 every signer has its key, 1 not (and the journal says why). Nothing is ever overwritten or deleted:
replaced files go to ``keys/retired/``, replaced keys stay in the roster so that old signatures verify.
"""

from __future__ import annotations

import os
import sys

from graced.base.clock import SystemClock, iso
from graced.base.errors import TrustError
from graced.base.log import ERR, NOTICE, WARNING, log
from graced.base.messages import KEYS_CREATED, KEYS_REKEYED
from graced.base.paths import Paths
from graced.base.record import Record
from graced.trust.keychange import FINISHED, JOURNAL, Pin, finish, put_pin, read_pin
from graced.trust.keyfiles import KeyRecord, KeyRoom, daemons_group, read_records, write_file
from graced.trust.keys import (
    DEVELOPMENT_FILE,
    GOVERNANCE,
    HOLDERS,
    LEDGER,
    SEAL_BYTES,
    SIGNERS,
    Signer,
    development_key,
    seal_key,
)
from graced.trust.roster import (
    CURRENT,
    FILE_NAME,
    RETIRED,
    Roster,
    RosterKey,
    machine_fingerprint,
    origin_of,
    owners_here,
    roster_key,
)
from graced.trust.rotation import VALIDITY_SECONDS

_HEX = frozenset("0123456789abcdef")
_NO_MACHINE_ID = "systemd-machine-id-setup makes it"


class Notice(Record):
    """One journal record to write: what was done and why."""

    priority: int
    message: str
    message_id: str
    fields: dict[str, str]


class Keeper:
    """One run over a host's key files. `notices` fills with what the journal has to know."""

    def __init__(
        self, room: KeyRoom, machine_id: str, now: str, owners: tuple[int, ...] = (0,), until: str | None = None
    ) -> None:
        """`now` is RFC 3339 UTC, `until` when new keys end; `owners` the uids that may own the roster."""
        self._room = room
        self._machine_id = machine_id
        self._now = now
        self._until = until
        self._owners = owners
        self.notices: list[Notice] = []
        self._records: dict[str, KeyRecord] = {}
        self._keys: list[RosterKey] = []
        self._origin = ""
        self._pin: Pin | None = None
        self._first = False
        self._cloned = False

    def run(self) -> None:
        """Bring files and roster to where every signer has one current key. Raises TrustError or OSError."""
        self._room.prepare()
        self._finish_change()
        known = self._room.read_machine_id()
        self._read_records()
        self._pin = self._read_pin()
        roster = self._read_roster()
        self._first = roster is None and known is None and not self._records
        self._cloned = self._is_clone(known, roster)
        if roster is not None:
            self._keys, self._origin = list(roster.keys), roster.origin
        elif not self._first:
            self._rebuild()
        for signer in SIGNERS:
            self._keep(signer)
        self._finish(roster, known)

    def _say(self, priority: int, message: str, message_id: str = KEYS_REKEYED, **fields: str) -> None:
        self.notices.append(Notice(priority=priority, message=message, message_id=message_id, fields=fields))

    def _finish_change(self) -> None:
        try:
            what = finish(self._room)
        except TrustError as error:
            aside = f"{self._room.keys}/retired/{JOURNAL}-{self._now}"
            os.rename(f"{self._room.keys}/{JOURNAL}", aside)
            self._say(ERR, f"a change of keys was cut off and cannot be read, it is set aside as {aside}: {error}")
            return
        if what:
            ended = "was finished" if what == FINISHED else "had not begun to count and was dropped"
            self._say(WARNING, f"a change of keys that was cut off {ended}")

    def _read_pin(self) -> Pin | None:
        try:
            return read_pin(self._room)
        except TrustError as error:
            self._say(ERR, f"{error}")
            return None

    def _read_records(self) -> None:
        try:
            self._records = {record.key.kid: record for record in read_records(self._room.public)}
        except TrustError as error:
            self._say(WARNING, f"key records: {error}")

    def _read_roster(self) -> Roster | None:
        if not os.path.lexists(self._room.roster):
            return None
        try:
            roster = Roster.load(self._room.roster, owners=self._owners)
            self._check_pin(roster)
            return roster
        except TrustError as error:
            aside = f"{self._room.roster}.refused-{self._now}"
            os.rename(self._room.roster, aside)
            self._say(ERR, f"the roster was refused and set aside as {aside}: {error}", FILE=aside)
            return None

    def _check_pin(self, roster: Roster) -> None:
        """An older roster that was put back. Raises TrustError when the records know better, else says so."""
        if self._pin is None or self._pin.kid == next(
            (key.kid for key in roster.keys if key.signer == GOVERNANCE and key.state == CURRENT), None
        ):
            return
        known = self._records.get(self._pin.kid)
        if known is not None and known.key.state == CURRENT:
            raise TrustError(f"it does not have the current key {self._pin.kid}: an older roster was put back")
        self._say(WARNING, f"the actuator's pin was {self._pin.kid}, which is not Governance's current key")

    def _is_clone(self, known: str | None, roster: Roster | None) -> bool:
        if self._first:
            return False
        if known is not None:
            return known != self._machine_id
        self._say(WARNING, "the file keys/machine-id is lost")
        return roster is None or roster.machine != machine_fingerprint(self._machine_id)

    def _rebuild(self) -> None:
        """The roster is lost: what the key records and key files still say."""
        self._keys = [record.key for record in self._records.values()]
        ledger = sorted((key for key in self._keys if key.signer == LEDGER), key=lambda key: key.not_before)
        self._origin = origin_of(ledger[0].public_bytes()) if ledger else ""
        self._say(
            WARNING,
            f"the roster was lost and is made again from {len(self._keys)} key records and the key files",
            RECORDS=str(len(self._keys)),
        )

    def _current(self, signer: str) -> RosterKey | None:
        return next((key for key in self._keys if key.signer == signer and key.state == CURRENT), None)

    def _keep(self, signer: str) -> None:
        """Leave, restore or replace one signer's key."""
        if self._cloned:
            self._replace(signer, "the machine-id changed: this is a copy of another host")
            return
        current = self._current(signer)
        if not any(self._room.exists(signer)) and current is None and self._first:
            self._replace(signer, "")
            return
        try:
            seed, blob = self._room.load(signer)
            key = Signer(seed, signer, "file")
        except TrustError as error:
            self._recover(signer, current, str(error))
            return
        if current is None:
            self._adopt(signer, key, blob)
        elif key.kid != current.kid:
            self._recover(signer, current, f"its key file holds {key.kid}, the roster says {current.kid}")
        elif current.kid not in self._records:
            self._records[current.kid] = KeyRecord(key=current, sealed=blob)

    def _adopt(self, signer: str, key: Signer, blob: bytes) -> None:
        """A good key file that no roster names: an unfinished first run, or the roster was lost with its records."""
        entry = roster_key(key.public, signer, self._now, not_after=self._until)
        if any(known.kid == entry.kid for known in self._keys):
            self._replace(signer, f"its key file holds {entry.kid}, which is not current any more")
            return
        self._keys.append(entry)
        self._records[entry.kid] = KeyRecord(key=entry, sealed=blob)
        if not self._first:
            self._say(WARNING, f"{signer}: the key {entry.kid} was taken into the roster from its file", KID=entry.kid)

    def _recover(self, signer: str, current: RosterKey | None, why: str) -> None:
        """A file is lost or wrong: put the recorded blob of the current key back if the seal opens it, else re-key."""
        record = self._records.get(current.kid) if current else None
        if current is not None and record is not None:
            try:
                seed = self._room.load_sealed(signer, record.sealed)
                if Signer(seed, signer, "record").kid == current.kid:
                    self._room.set_aside(signer, self._now, seal=False)
                    self._room.put_key(signer, record.sealed)
                    message = f"{signer}: the key {current.kid} was restored from its record: {why}"
                    self._say(WARNING, message, KID=current.kid)
                    return
            except TrustError as error:
                why = f"{why}; its record does not help: {error.message}"
        self._replace(signer, why)

    def _replace(self, signer: str, why: str) -> None:
        """A new seal and key; the old ones stay in the roster as retired, their files in ``keys/retired/``."""
        old = self._current(signer)
        moved = self._room.set_aside(signer, self._now)
        seal, seed = os.urandom(SEAL_BYTES), os.urandom(32)
        blob = seal_key(seed, seal, signer)
        key = Signer(seed, signer, "new")
        if old is not None:
            retired = old.replace(
                state=RETIRED, not_after=self._now, changed_by="root", changed_by_uid=os.getuid(), reason=why
            )
            self._keys[self._keys.index(old)] = retired
            if old.kid in self._records:
                self._records[old.kid] = self._records[old.kid].replace(key=retired)
        entry = roster_key(key.public, signer, self._now, None if self._first else "root", self._until).replace(
            changed_by="root", changed_by_uid=os.getuid(), reason=why or "the first key"
        )
        self._keys.append(entry)
        self._records[entry.kid] = KeyRecord(key=entry, sealed=blob)
        self._room.put_key(signer, blob, seal)
        if self._first:
            self._say(NOTICE, f"{signer}: made the signing key {entry.kid}", KEYS_CREATED, KID=entry.kid)
            return
        before = f", {old.kid} is retired" if old else ""
        kept = f"; old files: {', '.join(moved)}" if moved else ""
        self._say(
            WARNING,
            f"{signer}: RE-KEYED to {entry.kid}{before}: {why}{kept}",
            KID=entry.kid,
            OLD_KID=old.kid if old else "",
            REASON=why,
        )

    def _finish(self, roster: Roster | None, known: str | None) -> None:
        if not self._origin:
            first = next(key for key in self._keys if key.signer == LEDGER)
            self._origin = origin_of(first.public_bytes())
        new = Roster(origin=self._origin, machine=machine_fingerprint(self._machine_id), keys=tuple(self._keys))
        new.check()
        for record in self._records.values():
            self._room.put_record(record)
        if new != roster:
            self._room.put_roster(new.to_bytes())
        current = new.current(GOVERNANCE)
        if self._pin is None or self._pin.kid != current.kid:
            put_pin(self._room, Pin(kid=current.kid, public=current.public))
            if not self._first:
                self._say(WARNING, f"the actuator's pin on Governance's key is {current.kid} now", KID=current.kid)
        if known != self._machine_id or not self._room.is_marked(self._machine_id):
            self._room.put_machine_id(self._machine_id)


def read_machine_id(path: str = "/etc/machine-id") -> str:
    """This host's machine-id. Raises TrustError when it has none: keys made then would survive cloning unseen."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read().strip()
    except OSError as error:
        raise TrustError(f"{path} cannot be read: {error.strerror}", hint=_NO_MACHINE_ID) from error
    if len(text) != 32 or not set(text) <= _HEX:
        raise TrustError(f"{path} holds no machine-id", hint=_NO_MACHINE_ID)
    return text


def make_development_keys(lib: str, now: str) -> list[str]:
    """Keys without systemd: ``<lib>/<holder>/development.key`` (0600) and a roster owned by whoever runs this.

    Keys that are there stay. Returns the paths of the files made. Raises TrustError or OSError.
    """
    made: list[str] = []
    entries: list[RosterKey] = []
    for signer in SIGNERS:
        directory = f"{lib}/{HOLDERS[signer]}"
        path = f"{directory}/{DEVELOPMENT_FILE}"
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if not os.path.lexists(path):
            write_file(path, development_key(os.urandom(32), signer), 0o600)
            made.append(path)
        key = Signer.load_development(path, signer)
        entries.append(roster_key(key.public, signer, now))
    if made or not os.path.exists(f"{lib}/{FILE_NAME}"):
        roster = Roster(origin=origin_of(entries[0].public_bytes()), machine="development", keys=tuple(entries))
        write_file(f"{lib}/{FILE_NAME}", roster.to_bytes(), 0o644)
        made.append(f"{lib}/{FILE_NAME}")
    return made


def main() -> None:
    """Entry point; ``--development`` makes keys for a run without systemd below $GRACED_LIB."""
    clock = SystemClock()
    lib = Paths().lib
    try:
        if "--development" in sys.argv[1:]:
            for path in make_development_keys(lib, iso(clock.wall_us())):
                log(NOTICE, f"made {path}")
            return
        group = daemons_group()
        if group is None:
            log(WARNING, "the group _graced does not exist: the supervisor will not see the key records")
        now_us = clock.wall_us()
        until = iso(now_us + VALIDITY_SECONDS * 1_000_000)
        keeper = Keeper(KeyRoom(lib, group), read_machine_id(), iso(now_us), owners_here(), until)
        try:
            keeper.run()
        finally:
            for notice in keeper.notices:
                fields = {f"GRACED_{name}": value for name, value in notice.fields.items()}
                log(notice.priority, notice.message, notice.message_id, **fields)
    except (TrustError, OSError) as error:
        log(ERR, f"graced-keys failed: {error}", KEYS_REKEYED)
        sys.exit(1)


if __name__ == "__main__":
    main()
