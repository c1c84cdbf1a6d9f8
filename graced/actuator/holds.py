"""Who goes first: a package manager at work, an admin's job, an admin's stop or mask. The healer waits or
leaves.

`check_package_manager` asks the kernel who holds dpkg's and apt's locks without taking any. Used before
every act and again before each step that touches the unit.
"""

from __future__ import annotations

import fcntl
import os
import struct

from graced.actuator.units import CHANGED
from graced.base.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.actuator.units import Units, UnitState
    from graced.base.clock import Clock

LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
)
STUCK_JOB_US = 3_000_000
_RETRY_PACKAGES_S = 10.0
_RETRY_JOB_S = 0.25
_LOOK_AGAIN_S = 1.0
# struct flock with 64-bit offsets; the four bytes at the end are the padding of 64-bit machines.
_FLOCK = struct.Struct("@hhqqi4x")


class Held(HostError):
    """Not now. `holder` names who goes first, `retry_after_s` when to ask again."""

    code = "held"

    def __init__(self, reason: str, holder: str, retry_after_s: float) -> None:
        super().__init__(f"{reason}: {holder}", code=reason)
        self.reason = reason
        self.holder = holder
        self.retry_after_s = retry_after_s


class Stopped(HostError):
    """The admin does not want this unit touched; `code` is ``admin-stopped``, ``masked`` or
    ``no-such-unit``.
    """

    code = "admin-stopped"


def lock_holder(path: str) -> int | None:
    """The pid that holds a POSIX lock on `path`, None when nobody does or there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _whence, _start, _length, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    finally:
        os.close(fd)
    return None if kind == fcntl.F_UNLCK else int(pid)


def check_package_manager(locks: Iterable[str] = LOCKS) -> None:
    """Raise Held naming pid and program while dpkg or apt work; OSError when a lock cannot be looked at."""
    for path in locks:
        pid = lock_holder(path)
        if pid is not None:
            raise Held("package-manager", f"{comm(pid)} (pid {pid}) holds {path}", _RETRY_PACKAGES_S)


def comm(pid: int) -> str:
    """The program's name, "a process" when it cannot be seen."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "a process"


def check_wanted(state: UnitState, result: str, unit: str) -> None:
    """Raise Stopped when there is no such unit, it is masked, or it is down without having failed.

    A unit that is inactive with result ``success`` was stopped by somebody (or ended by itself, which cannot be told
    apart here): the admin is assumed. While a job is queued it may be in the middle of somebody's restart, down only
    between the two halves: Held, to look again.
    """
    if state.load_state == "masked":
        raise Stopped(f"{unit} is masked", code="masked")
    if state.load_state != "loaded":
        raise Stopped(f"{unit} is not a loaded unit: {state.load_state or 'unknown'}", code="no-such-unit")
    if state.active_state == "inactive" and result == "success":
        if state.job:
            raise Held("job", f"{unit} is down while a job of it is queued or running", _RETRY_JOB_S)
        raise Stopped(f"{unit} was stopped, it did not fail", code="admin-stopped")


def check_state(state: UnitState, unit: str, wanted: Iterable[str]) -> None:
    """Raise Held when a playbook for the states `wanted` (none: any) is late: somebody else was faster.

    The healer looks again then, and finds that there is nothing to do, or something else.
    """
    states = tuple(wanted)
    if states and state.active_state not in states:
        raise Held("state-changed", f"{unit} is {state.active_state} now", _LOOK_AGAIN_S)


async def check_jobs(units: Units, state: UnitState, unit: str, clock: Clock, *, may_kill: bool) -> None:
    """Raise Held while somebody's job on the unit is under way.

    A job other than ``stop`` that got nowhere for `STUCK_JOB_US` does not hold a plan that begins with a
    kill: a
    hung daemon is what makes it hang.
    """
    if not state.job:
        return
    if may_kill and state.job_kind != "stop":
        (changed_us,) = await units.values(unit, CHANGED)
        if clock.monotonic_us() - changed_us > STUCK_JOB_US:
            return
    raise Held("job", f"a {state.job_kind} job of {unit} is queued or running", _RETRY_JOB_S)
