"""Who is at the other end of a socket. A peer's uid is its identity, never a name it claims.

Roles come from SO_PEERCRED and SO_PEERGROUPS: an account ``_graced-<name>`` is the daemon `name`, uid 0 is root,
members of `_graced-admin` and `_graced-read` are people.
"""

from __future__ import annotations

import errno
import os
import struct

from graced.base.record import Record
from graced.model.daemons import DAEMONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.sockets import Socket

_SO_PEERCRED = 17
_SO_PEERGROUPS = 59
# The most that Python's getsockopt takes.
_GROUPS_BYTES = 1024

READ = frozenset({"root", "admin", "read", *DAEMONS})
ADMIN = frozenset({"root", "admin"})


class Peer(Record):
    """One caller: credentials of the process that connected, and what graced takes it for."""

    uid: int
    gid: int
    pid: int
    roles: frozenset[str]
    name: str


class Accounts:
    """uid and gid → role, read once from the account database. A missing account simply has no role."""

    def __init__(self) -> None:
        import grp
        import pwd

        self._daemons = {}
        for name in DAEMONS:
            try:
                self._daemons[pwd.getpwnam(f"_graced-{name}").pw_uid] = name
            except KeyError:
                continue
        self._groups = {}
        for group, role in (("_graced-admin", "admin"), ("_graced-read", "read")):
            try:
                self._groups[grp.getgrnam(group).gr_gid] = role
            except KeyError:
                continue

    def peer_of(self, connection: Socket) -> Peer:
        """The peer of a connected Unix socket. Raises OSError when the kernel does not tell."""
        pid, uid, gid = struct.unpack("3i", connection.getsockopt(1, _SO_PEERCRED, 12))
        daemon = self._daemons.get(uid)
        if daemon is not None:
            return Peer(uid, gid, pid, frozenset({daemon}), daemon)
        if uid == 0:
            return Peer(uid, gid, pid, frozenset({"root"}), "root")
        if uid == os.getuid():
            # Development: all daemons run under the developer's own account.
            return Peer(uid, gid, pid, frozenset({"root"}), f"uid{uid}")
        groups = {gid, *_groups_of(connection)}
        roles = frozenset(role for group, role in self._groups.items() if group in groups)
        return Peer(uid, gid, pid, roles, f"uid{uid}")


def _groups_of(connection: Socket) -> tuple[int, ...]:
    """The supplementary groups of the peer; of one with more than 256 none count, only its primary group does."""
    try:
        data = connection.getsockopt(1, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)
