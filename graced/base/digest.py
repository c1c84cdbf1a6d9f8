"""SHA-256 for what a daemon hashes while it starts: the interpreter's own, so that OpenSSL need not be loaded.

Loading OpenSSL (the module `hashlib` does) takes 3 to 5 ms and 4 MiB of each daemon. It is worth it where much is
hashed: from 200 bytes on it is faster, with a kilobyte four times. Such code imports `hashlib` in the function.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha2 import sha256  # Python 3.12 and later
    except ImportError:
        from _sha256 import sha256

__all__ = ["sha256"]
