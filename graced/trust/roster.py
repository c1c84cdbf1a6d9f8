"""The roster: root's own list of whose public keys count. A file, not a table of the supervisor's database.

Only the file's owner makes it true: it must belong to root and be writable by nobody else, or it is refused. Kids
are derived from public keys, so an edited public key does not keep its kid. Used by every verifier.
"""

from __future__ import annotations

import os

from graced.base.digest import sha256
from graced.base.errors import FormatError, TrustError
from graced.base.json import canonical, get_int, get_list, get_str, loads_object
from graced.base.record import Record
from graced.trust.keys import PUBLIC_BYTES, SIGNERS, decode_base64, encode_base64, kid_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

CURRENT = "current"
RETIRED = "retired"
REVOKED = "revoked"
FILE_NAME = "roster.json"
_STATES = (CURRENT, RETIRED, REVOKED)
_MAX_BYTES = 1 << 20
_TIME_LENGTH = len("2026-11-22T15:04:05.123Z")
_WRITABLE_BY_OTHERS = 0o022


class RosterKey(Record):
    """One public key. Times are RFC 3339 UTC with milliseconds, which order as text.

    `revoked_at_seq`: entries of the ledger from this number on do not count when this key signed them; None for a
    revoked key: from the entry on that says so. `changed_by`, `changed_by_uid` and `reason` are about its last change.
    `endorsed_by`: the kid that signed for it, "root", or None for a host's first keys.
    """

    kid: str
    signer: str
    public: str
    not_before: str
    not_after: str | None = None
    state: str = CURRENT
    endorsed_by: str | None = None
    revoked_at_seq: int | None = None
    changed_by: str | None = None
    changed_by_uid: int | None = None
    reason: str | None = None

    def public_bytes(self) -> bytes:
        """The 32 bytes of the Ed25519 key."""
        return decode_base64(self.public, f"the public key {self.kid}")


class Roster(Record):
    """Every key there ever was on this host. `machine` is the fingerprint of the machine-id they were made on,
    `origin` the ledger's name for ever."""

    origin: str
    machine: str
    keys: tuple[RosterKey, ...]

    @classmethod
    def load(cls, path: str, *, owners: tuple[int, ...] | None = (0,)) -> Self:
        """Read and check the file. `owners` are the uids that may own it and its directory; None: a copy brought
        for an offline audit, trusted by whoever names it. Raises TrustError (code "roster")."""
        return cls.parse(read(path, owners), path)

    @classmethod
    def parse(cls, data: bytes, path: str = "roster") -> Self:
        """The roster in `data`. Raises TrustError (code "roster") for anything but a sound one."""
        try:
            obj = loads_object(data, max_bytes=_MAX_BYTES, path=path)
            if get_int(obj, "v", path) != 1:
                raise FormatError(f"{path}: a version this graced does not know")
            keys = tuple(
                RosterKey.from_json(item, f"{path}.keys[{index}]")
                for index, item in enumerate(get_list(obj, "keys", path))
                if isinstance(item, dict)
            )
            roster = cls(origin=get_str(obj, "origin", path), machine=get_str(obj, "machine", path), keys=keys)
        except FormatError as error:
            raise TrustError(f"the roster cannot be used: {error.message}", code="roster") from error
        if len(keys) != len(obj["keys"]):
            raise TrustError(f"the roster cannot be used: {path}.keys holds something else than keys", code="roster")
        roster.check()
        return roster

    def check(self) -> None:
        """Raises TrustError when kids, states, times or the number of current keys are not what they must be."""
        current = [key.signer for key in self.keys if key.state == CURRENT]
        if len(set(current)) != len(current):
            raise TrustError("the roster has two current keys of one signer", code="roster")
        if len({key.kid for key in self.keys}) != len(self.keys):
            raise TrustError("the roster names a key twice", code="roster")
        for key in self.keys:
            public = key.public_bytes()
            if len(public) != PUBLIC_BYTES or kid_of(public) != key.kid:
                raise TrustError(f"the roster's key {key.kid} is not what its name says", code="roster")
            if key.signer not in SIGNERS or key.state not in _STATES:
                raise TrustError(f"the roster's key {key.kid} has an unknown signer or state", code="roster")
            if any(not _is_time(time) for time in (key.not_before, key.not_after) if time is not None):
                raise TrustError(f"the roster's key {key.kid} has a time that is none", code="roster")
            if key.revoked_at_seq is not None and (key.state != REVOKED or key.revoked_at_seq < 0):
                raise TrustError(f"the roster's key {key.kid} has an end in the log it cannot have", code="roster")

    def to_bytes(self) -> bytes:
        """The file's content."""
        return canonical({"v": 1, **self.to_json()}) + b"\n"

    def current(self, signer: str) -> RosterKey:
        """The key `signer` signs with now. Raises TrustError (code "unknown-key") when it has none."""
        for key in self.keys:
            if key.signer == signer and key.state == CURRENT:
                return key
        raise TrustError(f"the roster has no current key of {signer}", hint="run graced-keys", code="unknown-key")

    def find(self, kid: str) -> RosterKey | None:
        """The key of this kid in any state, None when the roster does not know it."""
        return next((key for key in self.keys if key.kid == kid), None)

    def key_for(self, kid: str, at: str | None = None) -> RosterKey:
        """The key of this kid, valid at the RFC 3339 time `at` (None: it must be current).

        Raises TrustError: "unknown-key", "not-current", "not-valid-then". Revocation is by log position and so a
        matter of whoever has one (`audit`).
        """
        key = self.find(kid)
        if key is None:
            raise TrustError(f"the roster does not know the key {kid}", code="unknown-key")
        if at is None:
            if key.state != CURRENT:
                raise TrustError(f"the key {kid} is {key.state}", code="not-current")
        elif at < key.not_before or (key.not_after is not None and at > key.not_after):
            raise TrustError(f"the key {kid} was not valid at {at}", code="not-valid-then")
        return key


class RosterFile:
    """The roster as it is now: read again when the file was replaced, so that no daemon restarts for a new key."""

    def __init__(self, path: str, owners: tuple[int, ...]) -> None:
        self.path = path
        self._owners = owners
        self._seen: tuple[int, int, int] | None = None
        self._roster: Roster | None = None

    def get(self) -> Roster:
        """The present roster: one stat() when nothing changed. Raises TrustError (code "roster") as `Roster.load`."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except OSError as error:
            raise TrustError(f"the roster cannot be read: {self.path}: {error.strerror}", code="roster") from error
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._roster is None or seen != self._seen:
            self._roster = Roster.load(self.path, owners=self._owners)
            self._seen = seen
        return self._roster


def owners_here() -> tuple[int, ...]:
    """Who may own the roster: root, and in development (no systemd, not root) the developer."""
    return (0,) if "INVOCATION_ID" in os.environ else (0, os.getuid())


def machine_fingerprint(machine_id: str) -> str:
    """What may be shown of a machine-id, which itself is confidential: 16 hex digits of an application-own hash."""
    return sha256(b"graced-machine-v1\n" + machine_id.encode()).hexdigest()[:16]


def origin_of(public: bytes) -> str:
    """The ledger's name: made once from its first key, so that no two hosts' logs share one."""
    return f"graced-ledger/{sha256(public).hexdigest()[:16]}"


def roster_key(
    public: bytes, signer: str, not_before: str, endorsed_by: str | None = None, not_after: str | None = None
) -> RosterKey:
    """A new current key."""
    return RosterKey(
        kid=kid_of(public),
        signer=signer,
        public=encode_base64(public),
        not_before=not_before,
        not_after=not_after,
        endorsed_by=endorsed_by,
    )


def _is_time(text: str) -> bool:
    return (
        len(text) == _TIME_LENGTH
        and text[10] == "T"
        and text[-1] == "Z"
        and text.translate(str.maketrans("", "", "-T:.Z")).isdigit()
    )


def read(path: str, owners: tuple[int, ...] | None) -> bytes:
    """The file's bytes, see `Roster.load`. Raises TrustError (code "roster")."""
    import stat

    try:
        # O_NONBLOCK: a FIFO in its place must not hang the verifier.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TrustError(
            f"the roster cannot be read: {path}: {error.strerror}", hint="graced-keys makes it", code="roster"
        ) from error
    try:
        status = os.fstat(fd)
        directory = os.stat(os.path.dirname(path) or ".")
        if not stat.S_ISREG(status.st_mode):
            raise TrustError(f"the roster is not a file: {path}", code="roster")
        for where, one in ((path, status), (os.path.dirname(path) or ".", directory)):
            if owners is not None and (one.st_uid not in owners or one.st_mode & _WRITABLE_BY_OTHERS):
                raise TrustError(
                    f"the roster is refused: {where} has owner {one.st_uid}, mode {stat.S_IMODE(one.st_mode):04o}",
                    hint="it must belong to root and be writable by root only",
                    code="roster",
                )
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(_MAX_BYTES + 1)
    finally:
        os.close(fd)
