"""Ed25519 and SecretBox from PyNaCl's libsodium: the only importer of nacl.

PyNaCl's public modules cost 14-20 ms of import CPU per process (`typing`, all of `nacl.bindings`); the compiled
module under them costs 1.3 ms, and four daemons of a booting host pay for it. So the five calls graced needs are
made on that module directly, and tests hold every one of them against PyNaCl's public classes.
Import this module inside functions only. Ed25519: RFC 8032; SecretBox: XSalsa20-Poly1305.
"""

from __future__ import annotations

from nacl._sodium import ffi, lib

from graced.base.errors import TrustError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SEED_BYTES = 32
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
BOX_KEY_BYTES = 32
BOX_NONCE_BYTES = 24
# libsodium's classic secretbox interface wants this much zero padding before plain and cipher text.
_ZERO_BYTES = 32
_BOX_ZERO_BYTES = 16

if lib.sodium_init() < 0:
    raise TrustError("libsodium could not be initialised")


def _buffer(size: int) -> Any:
    return ffi.new("unsigned char[]", size)


def _bytes(buffer: Any, start: int, end: int) -> bytes:
    data: bytes = ffi.buffer(buffer, end)[start:]
    return data


def keypair(seed: bytes) -> tuple[bytes, bytes]:
    """(public key of 32 bytes, secret key of 64 bytes) of a 32-byte seed."""
    if len(seed) != SEED_BYTES:
        raise TrustError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
    public, secret = _buffer(PUBLIC_BYTES), _buffer(64)
    if lib.crypto_sign_seed_keypair(public, secret, seed) != 0:
        raise TrustError("libsodium made no key")
    return _bytes(public, 0, PUBLIC_BYTES), _bytes(secret, 0, 64)


def sign(message: bytes, secret: bytes) -> bytes:
    """The 64-byte Ed25519 signature of `message` by a 64-byte secret key."""
    signed, length = _buffer(len(message) + SIGNATURE_BYTES), ffi.new("unsigned long long *")
    if lib.crypto_sign(signed, length, message, len(message), secret) != 0:
        raise TrustError("libsodium made no signature")
    return _bytes(signed, 0, SIGNATURE_BYTES)


def is_signed(message: bytes, signature: bytes, public: bytes) -> bool:
    """Whether `signature` is `public`'s over `message`; wrong lengths are simply not a signature."""
    if len(signature) != SIGNATURE_BYTES or len(public) != PUBLIC_BYTES:
        return False
    signed = signature + message
    length = ffi.new("unsigned long long *")
    return bool(lib.crypto_sign_open(_buffer(len(signed)), length, signed, len(signed), public) == 0)


def seal(plain: bytes, key: bytes, nonce: bytes) -> bytes:
    """SecretBox cipher text (plain text + 16 bytes). A nonce must never be used twice with one key."""
    if len(key) != BOX_KEY_BYTES or len(nonce) != BOX_NONCE_BYTES:
        raise TrustError("a SecretBox needs a key of 32 and a nonce of 24 bytes")
    padded = bytes(_ZERO_BYTES) + plain
    boxed = _buffer(len(padded))
    if lib.crypto_secretbox(boxed, padded, len(padded), nonce, key) != 0:
        raise TrustError("libsodium sealed nothing")
    return _bytes(boxed, _BOX_ZERO_BYTES, len(padded))


def unseal(boxed: bytes, key: bytes, nonce: bytes) -> bytes:
    """The plain text; TrustError when the key is another one or any bit was changed."""
    if len(key) != BOX_KEY_BYTES or len(nonce) != BOX_NONCE_BYTES:
        raise TrustError("a SecretBox needs a key of 32 and a nonce of 24 bytes")
    padded = bytes(_BOX_ZERO_BYTES) + boxed
    plain = _buffer(len(padded))
    if len(boxed) < _BOX_ZERO_BYTES or lib.crypto_secretbox_open(plain, padded, len(padded), nonce, key) != 0:
        raise TrustError("the sealed blob does not open with this seal", code="unseal")
    return _bytes(plain, _ZERO_BYTES, len(padded))
