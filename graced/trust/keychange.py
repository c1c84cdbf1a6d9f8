"""A change of keys on disk, whole or not at all: roster, key files, records and the actuator's pin together.

The change is written down first (``keys/change.json``, 0400). Replacing the roster is the moment it counts; what a
crash or power cut leaves after that is finished by the next `finish`, what it leaves before is dropped. The pin is
the actuator's own memory of Governance's key: an older roster put back does not bring an older key back.
Used by the actuator and by `graced-keys`, both root.
"""

from __future__ import annotations

import hashlib
import os

from graced.base.errors import FormatError, TrustError
from graced.base.json import canonical, get_dict, get_int, get_list, get_str, loads_object, opt_dict, opt_str
from graced.base.record import Record
from graced.trust.keyfiles import KeyRecord, KeyRoom, parse_record, write_file
from graced.trust.keys import HOLDERS, decode_base64, encode_base64, kid_of, read_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

JOURNAL = "change.json"
PIN = "governance.pin"
FINISHED = "finished"
DROPPED = "dropped"
_MAX_JOURNAL_BYTES = 4 << 20


class Pin(Record):
    """Governance's public key as the actuator knows it.

    `previous` was rotated out at `rotated_boottime_us` of boot `boot_id`: warrants it signed before that still count
    until they expire, so that no repair is lost to a rotation. "" for none.
    """

    kid: str
    public: str
    previous_kid: str = ""
    previous_public: str = ""
    boot_id: str = ""
    rotated_boottime_us: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The pin in a file. Raises TrustError (code "pin")."""
        try:
            pin = cls.from_json(loads_object(data, max_bytes=4096, path="pin"), "pin")
        except FormatError as error:
            raise TrustError(f"the pin on Governance's key is damaged: {error.message}", code="pin") from error
        if kid_of(pin.public_bytes()) != pin.kid:
            raise TrustError("the pin on Governance's key is not what its name says", code="pin")
        return pin

    def public_bytes(self) -> bytes:
        """The pinned key's 32 bytes."""
        return decode_base64(self.public, "the pinned key")

    def to_bytes(self) -> bytes:
        """The file's content."""
        return canonical(self.to_json()) + b"\n"


class NewFiles(Record):
    """A signer's new key file and, when root made it, its new seal."""

    signer: str
    key: bytes
    seal: bytes | None = None


class Change(Record):
    """Everything one change writes. `stamp` names the files set aside."""

    roster: bytes
    files: NewFiles
    records: tuple[KeyRecord, ...]
    stamp: str
    pin: Pin | None = None

    def to_bytes(self) -> bytes:
        """The journal file's content."""
        seal = self.files.seal
        return canonical(
            {
                "v": 1,
                "roster": encode_base64(self.roster),
                "signer": self.files.signer,
                "key": encode_base64(self.files.key),
                "seal": None if seal is None else encode_base64(seal),
                "records": [encode_base64(record.to_bytes()) for record in self.records],
                "stamp": self.stamp,
                "pin": None if self.pin is None else self.pin.to_json(),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The change in a journal file. Raises TrustError."""
        try:
            obj = loads_object(data, max_bytes=_MAX_JOURNAL_BYTES, path=JOURNAL)
            if get_int(obj, "v") != 1:
                raise FormatError("a version this graced does not know")
            seal, pin = opt_str(obj, "seal"), opt_dict(obj, "pin")
            signer = get_str(obj, "signer")
            if signer not in HOLDERS:
                raise FormatError(f"{signer!r} is no signer")
            return cls(
                roster=decode_base64(get_str(obj, "roster"), "the roster"),
                files=NewFiles(
                    signer=signer,
                    key=decode_base64(get_str(obj, "key"), "the key"),
                    seal=None if seal is None else decode_base64(seal, "the seal"),
                ),
                records=tuple(
                    parse_record(decode_base64(str(item), "a record"), JOURNAL) for item in get_list(obj, "records")
                ),
                stamp=get_str(obj, "stamp"),
                pin=None if pin is None else Pin.parse(canonical(get_dict(obj, "pin"))),
            )
        except FormatError as error:
            raise TrustError(f"the change of keys under way is damaged: {error.message}") from error


def commit(room: KeyRoom, change: Change) -> None:
    """Make the change. Raises OSError or TrustError; when the roster was not replaced nothing has changed."""
    write_file(f"{room.keys}/{JOURNAL}", change.to_bytes(), 0o400)
    room.put_roster(change.roster)
    _rest(room, change)


def finish(room: KeyRoom) -> str:
    """Bring a change that was cut off to its end: FINISHED, DROPPED, or "" when there is none. Raises as `commit`."""
    path = f"{room.keys}/{JOURNAL}"
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_JOURNAL_BYTES + 1)
    except FileNotFoundError:
        return ""
    change = Change.parse(data)
    try:
        with open(room.roster, "rb") as file:
            counts = file.read() == change.roster
    except FileNotFoundError:
        counts = False
    if not counts:
        os.unlink(path)
        return DROPPED
    _rest(room, change)
    return FINISHED


def _rest(room: KeyRoom, change: Change) -> None:
    files = change.files
    if _file_digest(f"{room.keys}/{HOLDERS[files.signer]}.key") != hashlib.sha256(files.key).digest():
        room.set_aside(files.signer, change.stamp, seal=files.seal is not None)
        room.put_key(files.signer, files.key, files.seal)
    for record in change.records:
        room.put_record(record)
    if change.pin is not None:
        put_pin(room, change.pin)
    os.unlink(f"{room.keys}/{JOURNAL}")


def _file_digest(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read(8192)).digest()
    except FileNotFoundError:
        return b""


def read_pin(room: KeyRoom) -> Pin | None:
    """The actuator's pin, None when there is none yet. Raises TrustError (damaged, or open to others)."""
    path = f"{room.keys}/{PIN}"
    if not os.path.lexists(path):
        return None
    return Pin.parse(read_private(path, "the pin on Governance's key"))


def put_pin(room: KeyRoom, pin: Pin) -> None:
    """Replace the pin."""
    write_file(f"{room.keys}/{PIN}", pin.to_bytes(), 0o400)
