"""Root's key files on disk: written whole and durable or not at all, read with suspicion, never overwritten.

Layout below the package's state directory (``/var/lib/graced``):
``keys/`` 0700: ``<holder>.seal`` and ``<holder>.key`` 0400 (holder: supervisor, governance, verification),
``machine-id`` 0400 (the machine-id itself, as plain text), ``governance.pin`` 0400 (what the actuator believes),
``change.json`` 0400 while a change of keys is under way (see `keychange`), ``retired/`` with what was replaced;
``roster.json`` 0644; ``keys-public/`` 0750: ``<kid>.json`` 0640 for the supervisor's key records. Used by `keys_tool`.
"""

from __future__ import annotations

import os

from graced.base.errors import FormatError, TrustError
from graced.base.json import canonical, get_str, loads_object, opt_dict, opt_str
from graced.base.record import Record
from graced.trust.keys import HOLDERS, decode_base64, encode_base64, read_private, unseal_key
from graced.trust.roster import FILE_NAME, RosterKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from graced.base.json import JsonDict

_ENDORSEMENT = ("statement", "signature", "proof")
_MAX_RECORD_BYTES = 16384

MADE_ON = "made-on-"


class KeyRecord(Record):
    """A key as the supervisor keeps it: the roster's line and the sealed blob, which it cannot unseal.

    A key that came by rotation has the statement about it with the old key's `signature` and its own `proof`.
    """

    key: RosterKey
    sealed: bytes
    statement: JsonDict | None = None
    signature: str | None = None
    proof: str | None = None

    def to_bytes(self) -> bytes:
        """The record file's content."""
        return canonical({**self.key.to_json(), "sealed": encode_base64(self.sealed), **self.endorsement()}) + b"\n"

    def endorsement(self) -> JsonDict:
        """Statement, signature and proof; empty for a key that root made."""
        if self.statement is None:
            return {}
        return {name: getattr(self, name) for name in _ENDORSEMENT}


def parse_record(data: bytes, path: str) -> KeyRecord:
    """The record in a file of ``keys-public/``. Raises TrustError."""
    try:
        obj = loads_object(data, max_bytes=_MAX_RECORD_BYTES, path=path)
        sealed = decode_base64(get_str(obj, "sealed", path), f"{path}.sealed")
        fields = {name: value for name, value in obj.items() if name not in {"sealed", *_ENDORSEMENT}}
        return KeyRecord(
            key=RosterKey.from_json(fields, path),
            sealed=sealed,
            statement=opt_dict(obj, "statement", path),
            signature=opt_str(obj, "signature", path),
            proof=opt_str(obj, "proof", path),
        )
    except FormatError as error:
        raise TrustError(f"the key record cannot be used: {error.message}") from error


def read_records(directory: str) -> Iterator[KeyRecord]:
    """Every key record in `directory` (none when it is not there). Raises TrustError for one that cannot be read."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    except OSError as error:
        raise TrustError(f"the key records cannot be read: {directory}: {error.strerror}") from error
    for name in names:
        if name.endswith(".json"):
            path = f"{directory}/{name}"
            try:
                with open(path, "rb") as file:
                    data = file.read(_MAX_RECORD_BYTES + 1)
            except OSError as error:
                raise TrustError(f"the key record cannot be read: {path}: {error.strerror}") from error
            yield parse_record(data, path)


class KeyRoom:
    """The files of one host below `lib`. Raises OSError when the disk or the rights do not allow a step."""

    def __init__(self, lib: str, group: int | None = None) -> None:
        """`group`: the gid that may read the key records (the daemons'), None for nobody but the owner."""
        self.lib = lib
        self.keys = f"{lib}/keys"
        self.public = f"{lib}/keys-public"
        self.roster = f"{lib}/{FILE_NAME}"
        self._group = group

    def prepare(self) -> None:
        """Make the directories, or take away what others could do in them."""
        os.makedirs(self.lib, mode=0o755, exist_ok=True)
        for path in (self.keys, f"{self.keys}/retired"):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, 0o700)
        os.makedirs(self.public, exist_ok=True)
        os.chmod(self.public, 0o700 if self._group is None else 0o750)
        if self._group is not None:
            os.chown(self.public, -1, self._group)

    def read_machine_id(self) -> str | None:
        """The machine-id the keys were made on; None when the file is not there."""
        try:
            with open(f"{self.keys}/machine-id", encoding="ascii", errors="replace") as file:
                return file.read().strip()
        except FileNotFoundError:
            return None

    def exists(self, signer: str) -> tuple[bool, bool]:
        """Whether the seal and the key file of `signer` are there."""
        base = f"{self.keys}/{HOLDERS[signer]}"
        return os.path.lexists(f"{base}.seal"), os.path.lexists(f"{base}.key")

    def load(self, signer: str) -> tuple[bytes, bytes]:
        """(seed, sealed blob) of the signer's files. Raises TrustError saying which file is wrong and how."""
        base = f"{self.keys}/{HOLDERS[signer]}"
        seal = read_private(f"{base}.seal", f"the seal of {signer}")
        blob = read_private(f"{base}.key", f"the key of {signer}")
        owner, seed = unseal_key(blob, seal)
        if owner != signer:
            raise TrustError(f"{base}.key belongs to {owner}", code="wrong-signer")
        return seed, blob

    def load_sealed(self, signer: str, sealed: bytes) -> bytes:
        """The seed of a blob from elsewhere under the signer's own seal. Raises TrustError."""
        owner, seed = unseal_key(sealed, read_private(f"{self.keys}/{HOLDERS[signer]}.seal", f"the seal of {signer}"))
        if owner != signer:
            raise TrustError(f"the sealed blob belongs to {owner}", code="wrong-signer")
        return seed

    def put_key(self, signer: str, blob: bytes, seal: bytes | None = None) -> None:
        """Write the key file, and the seal when a new one comes with it."""
        base = f"{self.keys}/{HOLDERS[signer]}"
        if seal is not None:
            write_file(f"{base}.seal", seal, 0o400)
        write_file(f"{base}.key", blob, 0o400)

    def set_aside(self, signer: str, stamp: str, *, seal: bool = True) -> list[str]:
        """Move the signer's files to ``keys/retired/``; the new paths. Nothing is ever overwritten."""
        moved = []
        for suffix in ("seal", "key") if seal else ("key",):
            source = f"{self.keys}/{HOLDERS[signer]}.{suffix}"
            number = 0
            target = f"{self.keys}/retired/{HOLDERS[signer]}-{stamp}.{suffix}"
            while os.path.lexists(target):
                number += 1
                target = f"{self.keys}/retired/{HOLDERS[signer]}-{stamp}.{number}.{suffix}"
            try:
                os.rename(source, target)
            except FileNotFoundError:
                continue
            moved.append(target)
        return moved

    def put_record(self, record: KeyRecord) -> None:
        """Write ``keys-public/<kid>.json``.

        Sealed blobs are of no use without the seal, which never leaves ``keys/`` but into its own unit; still only
        the daemons' group may read them, so that a leaked seal alone gives no local account a key.
        """
        mode = 0o600 if self._group is None else 0o640
        write_file(f"{self.public}/{record.key.kid}.json", record.to_bytes(), mode, self._group)

    def put_roster(self, data: bytes) -> None:
        """Replace the roster."""
        write_file(self.roster, data, 0o644)

    def is_marked(self, machine_id: str) -> bool:
        """Whether the mark for the unit's conditions names this host."""
        return os.path.lexists(f"{self.keys}/{MADE_ON}{machine_id}")

    def put_machine_id(self, machine_id: str) -> None:
        """Remember the host; written last, so that it also says that a first run came to its end.

        The mark with the machine-id in its name is for the unit's conditions: systemd compares it without a process.
        """
        write_file(f"{self.keys}/machine-id", machine_id.encode() + b"\n", 0o400)
        mark = f"{MADE_ON}{machine_id}"
        for name in os.listdir(self.keys):
            if name.startswith(MADE_ON) and name != mark:
                os.unlink(f"{self.keys}/{name}")
        write_file(f"{self.keys}/{mark}", b"\n", 0o400)


def daemons_group() -> int | None:
    """The gid that may read the key records; None when the package's accounts do not exist."""
    import grp

    try:
        return grp.getgrnam("_graced").gr_gid
    except KeyError:
        return None


def write_file(path: str, data: bytes, mode: int, group: int | None = None) -> None:
    """Replace `path` by a file with exactly this content and mode: synced, renamed, directory synced."""
    temporary = f"{path}.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        if group is not None:
            os.fchown(fd, -1, group)
        os.fchmod(fd, mode)
        os.fsync(fd)
    os.rename(temporary, path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
