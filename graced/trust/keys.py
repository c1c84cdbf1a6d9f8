"""Ed25519 signing keys: how they are sealed, loaded, used and checked.

A signer's private part is a sealed blob (SecretBox under a 32-byte seal). Seal and blob are root's files, given to
that signer's unit alone as the credentials ``seal`` and ``key``; whoever has only one of them has nothing. The
blob carries its signer, kid and public key inside the sealed part, so a blob swapped for another is refused.
Used by the three signers and by `graced-keys`; nacl is imported on first use.
"""

from __future__ import annotations

import binascii
import os

from graced.base.digest import sha256
from graced.base.errors import FormatError, TrustError
from graced.base.json import canonical, get_int, get_str, loads_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

LEDGER = "ledger"
GOVERNANCE = "governance"
VERIFICATION = "verification"
SIGNERS = (LEDGER, GOVERNANCE, VERIFICATION)
# The daemon that holds each signer's key; key files are named after the daemon.
HOLDERS = {LEDGER: "supervisor", GOVERNANCE: "governance", VERIFICATION: "verification"}

PURPOSES = {LEDGER: "signs ledger heads", GOVERNANCE: "signs warrants", VERIFICATION: "signs verdicts"}

# What a signature is for is part of the signed bytes, so that one kind never passes for another.
WARRANT_CONTEXT = b"graced-warrant-v1\n"
VERDICT_CONTEXT = b"graced-verdict-v1\n"

# Who may sign the data of which kind of ledger entry, and the kinds that must be signed.
SIGNER_OF = {
    "warrant": GOVERNANCE,
    "decision": GOVERNANCE,
    "approval": GOVERNANCE,
    "verdict": VERIFICATION,
}
MUST_BE_SIGNED = frozenset({"warrant", "verdict"})

SEAL_BYTES = 32
PUBLIC_BYTES = 32
DEVELOPMENT_FILE = "development.key"
_MAGIC = b"graced-sealed-key-v1\n"
_NONCE_BYTES = 24
_MAX_FILE_BYTES = 4096
_GROUP_OR_OTHERS = 0o077


def kid_of(public: bytes) -> str:
    """A key's name: the first 16 hex digits of the SHA-256 of its public part."""
    return sha256(b"graced-kid-v1\n" + public).hexdigest()[:16]


def context_of(kind: str) -> bytes:
    """The context under which a ledger entry's data of this kind is signed."""
    return b"graced-%s-v1\n" % kind.encode()


def decode_base64(text: str, what: str) -> bytes:
    """Base64 in its one canonical spelling, so that no text can change unseen; TrustError names `what`."""
    try:
        data = binascii.a2b_base64(text)
    except (binascii.Error, ValueError) as error:
        raise TrustError(f"{what} is not base64") from error
    if encode_base64(data) != text:
        raise TrustError(f"{what} is not canonical base64")
    return data


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding, as text."""
    return binascii.b2a_base64(data, newline=False).decode()


class Signer:
    """One signer's private key, ready to use. `source` says where it came from: "credentials" or "development-file"."""

    __slots__ = ("_secret", "kid", "public", "signer", "source")

    def __init__(self, seed: bytes, signer: str, source: str) -> None:
        from graced.trust import sodium

        self.public, self._secret = sodium.keypair(seed)
        self.kid = kid_of(self.public)
        self.signer = signer
        self.source = source

    @classmethod
    def load(cls, credentials_directory: str = "", *, signer: str = "", state_directory: str = "") -> Self:
        """Unseal the key this unit was given.

        `credentials_directory` defaults to $CREDENTIALS_DIRECTORY. `signer` ("ledger", "governance",
        "verification"; "" = any) must be what the blob says. Without credentials, and only where systemd did not
        start the process, the 0600 file ``development.key`` in `state_directory` is used (made by `graced-keys
        --development`). Raises TrustError: nothing to load, wrong seal, changed, swapped or foreign blob.
        """
        directory = credentials_directory or os.environ.get("CREDENTIALS_DIRECTORY", "")
        if not directory and state_directory and "INVOCATION_ID" not in os.environ:
            return cls.load_development(f"{state_directory}/{DEVELOPMENT_FILE}", signer)
        if not directory:
            raise TrustError(
                "this unit has no credentials to sign with",
                hint="LoadCredential=seal: and key: are missing from the unit, see graced-keys.service",
                code="no-key",
            )
        seal = read_private(f"{directory}/seal", "the credential 'seal'")
        blob = read_private(f"{directory}/key", "the credential 'key'")
        owner, seed = unseal_key(blob, seal)
        if signer and owner != signer:
            raise TrustError(f"the key belongs to {owner}, not to {signer}", code="wrong-signer")
        return cls(seed, owner, "credentials")

    @classmethod
    def load_development(cls, path: str, signer: str) -> Self:
        """The key in a 0600 file, in the open: for development only. Raises TrustError as `load` does."""
        owner, seed = _open_inside(read_private(path, "the development key"))
        if signer and owner != signer:
            raise TrustError(f"the key belongs to {owner}, not to {signer}", code="wrong-signer")
        return cls(seed, owner, "development-file")

    def sign(self, context: bytes, payload: bytes) -> bytes:
        """The 64-byte signature of ``context + payload``; a context ends with a newline (notes have none)."""
        from graced.trust import sodium

        return sodium.sign(context + payload, self._secret)

    def __repr__(self) -> str:
        return f"Signer({self.signer}, kid={self.kid}, source={self.source})"


def verify(public: bytes, context: bytes, payload: bytes, signature: bytes) -> bool:
    """Whether `signature` is the one of `public` over ``context + payload``. Writes nothing, raises nothing."""
    from graced.trust import sodium

    return sodium.is_signed(context + payload, signature, public)


def seal_key(seed: bytes, seal: bytes, signer: str) -> bytes:
    """The sealed blob of a seed: version line, nonce, cipher text over signer, kid, public key and seed."""
    from graced.trust import sodium

    public, _secret = sodium.keypair(seed)
    inside = {
        "v": 1,
        "signer": signer,
        "kid": kid_of(public),
        "public": encode_base64(public),
        "seed": encode_base64(seed),
    }
    nonce = os.urandom(_NONCE_BYTES)
    return _MAGIC + nonce + sodium.seal(canonical(inside), seal, nonce)


def unseal_key(blob: bytes, seal: bytes) -> tuple[str, bytes]:
    """(signer, seed) of a sealed blob. TrustError when it does not open or what is inside does not agree."""
    from graced.trust import sodium

    if not blob.startswith(_MAGIC) or len(blob) <= len(_MAGIC) + _NONCE_BYTES:
        raise TrustError("not a sealed key of a version this graced knows", code="unseal")
    if len(seal) != SEAL_BYTES:
        raise TrustError(f"a seal has {SEAL_BYTES} bytes, not {len(seal)}", code="unseal")
    nonce = blob[len(_MAGIC) : len(_MAGIC) + _NONCE_BYTES]
    return _open_inside(sodium.unseal(blob[len(_MAGIC) + _NONCE_BYTES :], seal, nonce))


def _open_inside(plain: bytes) -> tuple[str, bytes]:
    from graced.trust import sodium

    try:
        inside = loads_object(plain, max_bytes=_MAX_FILE_BYTES, path="key")
        version, signer = get_int(inside, "v", "key"), get_str(inside, "signer", "key")
        kid, public = get_str(inside, "kid", "key"), get_str(inside, "public", "key")
        seed = decode_base64(get_str(inside, "seed", "key"), "the seed")
    except FormatError as error:
        raise TrustError(f"the key file is damaged: {error.message}", code="unseal") from error
    if version != 1 or signer not in SIGNERS:
        raise TrustError("the key file is of a version or signer this graced does not know", code="unseal")
    derived, _secret = sodium.keypair(seed)
    if encode_base64(derived) != public or kid_of(derived) != kid:
        raise TrustError("the key file's kid, public and private part do not belong together", code="unseal")
    return signer, seed


def development_key(seed: bytes, signer: str) -> bytes:
    """The content of a development key file: as a sealed blob's inside, but in the open."""
    from graced.trust import sodium

    public, _secret = sodium.keypair(seed)
    return canonical(
        {
            "v": 1,
            "signer": signer,
            "kid": kid_of(public),
            "public": encode_base64(public),
            "seed": encode_base64(seed),
        }
    )


def read_private(path: str, what: str) -> bytes:
    """A small secret file, refused when it is no regular file, too big, or open to others than its owner.

    Raises TrustError naming `what`. systemd's credentials are 0400 (or 0440 root:root under an ACL).
    """
    import stat

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TrustError(f"{what} cannot be read: {path}: {error.strerror}", code="no-key") from error
    try:
        status = os.fstat(fd)
        # With an ACL the group bits of the mode are the ACL's mask; systemd writes root:root 0440 then.
        allowed = 0o040 if status.st_gid == 0 else 0
        if not stat.S_ISREG(status.st_mode) or status.st_mode & _GROUP_OR_OTHERS & ~allowed:
            raise TrustError(
                f"{what} is open to others: {path} has mode {stat.S_IMODE(status.st_mode):04o}",
                hint="only its owner may read it",
                code="permissions",
            )
        data = os.read(fd, _MAX_FILE_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > _MAX_FILE_BYTES:
        raise TrustError(f"{what} is larger than {_MAX_FILE_BYTES} bytes: {path}")
    return data
