"""The fixed vocabulary: what each verb of a playbook does to a unit. There is no other way to act.

A verb gets a unit and a time limit, nothing else: no arguments from the plan, no shell. `restore-config`
is in `execute.py`, because it needs the act's undo record. Used by the actuator alone.
"""

from __future__ import annotations

import signal

from graced.actuator.holds import check_package_manager
from graced.base.errors import HostError
from graced.heal import playbook as words
from graced.runtime.loop import Expired, Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from graced.actuator.units import Units
    from graced.runtime.loop import Loop

RUBBISH_GRACE_S = 1.0
PATIENCE = 0.7
_GONE_POLL_S = 0.01
_STOPPED = frozenset("Tt")


class StepFailed(HostError):
    """A verb did not reach its goal."""

    code = "step-failed"


class Verbs:
    """Runs verbs on units."""

    def __init__(self, loop: Loop, units: Units) -> None:
        self._loop = loop
        self._units = units
        self._verbs: dict[str, Callable[[str, float], Awaitable[str]]] = {
            words.START: self._start,
            words.RELOAD: self._reload,
            words.RESET_FAILED: self._reset_failed,
            words.KILL: self._kill,
            words.DIAGNOSE: self._diagnose,
        }

    async def run(self, verb: str, unit: str, limit_s: float, *, rubbish: bool = False) -> str:
        """Do it; a sentence about it. `rubbish`: the unit runs on a damaged config and may not be able to stop.

        Raises StepFailed, Held, or HostError when systemd does not answer.
        """
        action = self._verbs.get(verb)
        if verb == words.RESTART:
            check_package_manager()
            return await self._restart(unit, limit_s, min(RUBBISH_GRACE_S, limit_s) if rubbish else limit_s * PATIENCE)
        if action is None:
            raise StepFailed(f"{verb} is not a verb of this actuator", code="unknown-verb")
        if verb != words.DIAGNOSE:
            check_package_manager()
        return await action(unit, limit_s)

    async def _start(self, unit: str, limit_s: float) -> str:
        await self._units.reset_failed(unit)
        return await self._job("StartUnit", unit, limit_s)

    async def _restart(self, unit: str, limit_s: float, grace_s: float) -> str:
        """`grace_s`: time to stop by itself (a store may be writing its data), before its processes are killed."""
        # Also when it is not failed: the attempts so far count against the start limit.
        await self._units.reset_failed(unit)
        (control_group,) = await self._units.values(unit, "ControlGroup")
        if hung(control_group):
            await self._kill(unit, limit_s)
        done = self._loop.spawn(self._job("RestartUnit", unit, limit_s))
        done.when_done(_nothing)
        timer = self._loop.call_later(grace_s, lambda: self._loop.spawn(self.kill_if_stuck(unit)))
        try:
            text = await done
        finally:
            timer.cancel()
        return str(text)

    async def kill_if_stuck(self, unit: str) -> None:
        """A daemon that cannot stop (its own rule may be to wait for ever) is killed; its job then goes
        on.
        """
        (active_state,) = await self._units.values(unit, "ActiveState")
        if active_state == "deactivating":
            await self._units.kill_all(unit, signal.SIGKILL)

    async def _reload(self, unit: str, limit_s: float) -> str:
        (can_reload,) = await self._units.values(unit, "CanReload")
        if not can_reload:
            raise StepFailed(f"{unit} cannot reload")
        return await self._job("ReloadUnit", unit, limit_s)

    async def _reset_failed(self, unit: str, _limit_s: float) -> str:
        await self._units.reset_failed(unit)
        return "the failed state and the start limit are forgotten"

    async def _kill(self, unit: str, limit_s: float) -> str:
        (control_group,) = await self._units.values(unit, "ControlGroup")
        before = processes(control_group)
        if not before:
            return "no process was left"
        await self._units.kill_all(unit, signal.SIGKILL)
        deadline_s = self._loop.now_s() + limit_s
        # cgroup.events would tell, but a unit's cgroup may be removed and made anew by Restart= meanwhile.
        while set(before) & set(processes(control_group)):
            if self._loop.now_s() > deadline_s:
                raise StepFailed(f"{unit}: processes survived SIGKILL for {limit_s:g} s")
            await self._loop.sleep(_GONE_POLL_S)
        return f"{len(before)} processes killed"

    async def _diagnose(self, unit: str, _limit_s: float) -> str:
        state = await self._units.state(unit)
        control_group, result, main_pid = await self._units.values(unit, "ControlGroup", "Result", "MainPID")
        alive = processes(control_group)
        return (
            f"{state.load_state}, {state.active_state}/{state.sub_state}, result {result}, "
            f"main pid {main_pid}, {len(alive)} processes{', hung' if hung(control_group) else ''}"
        )

    async def _job(self, member: str, unit: str, limit_s: float) -> str:
        try:
            result = await self._units.job(member, unit, limit_s)
        except Expired as error:
            raise StepFailed(error.message) from error
        if result != "done":
            raise StepFailed(f"{member} {unit}: {result}")
        return f"{member} done"


def _nothing(_future: Future) -> None:
    return


def processes(control_group: str) -> list[int]:
    """The pids of a unit's cgroup and those below it; empty when it is gone."""
    import os

    pids = []
    for root in _cgroup_roots():
        for directory, _names, _files in os.walk(f"{root}{control_group}") if control_group else ():
            try:
                with open(f"{directory}/cgroup.procs", encoding="ascii") as file:
                    pids += [int(line) for line in file.read().split()]
            except OSError:
                continue
    return pids


def hung(control_group: str) -> bool:
    """Whether every process of the unit is stopped, or its cgroup frozen: it cannot obey a stop."""
    pids = processes(control_group)
    if not pids:
        return False
    for root in _cgroup_roots():
        try:
            with open(f"{root}{control_group}/cgroup.events", encoding="ascii") as file:
                if "frozen 1" in file.read():
                    return True
        except OSError:
            continue
    return all(_process_state(pid) in _STOPPED for pid in pids)


def _process_state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def _cgroup_roots() -> tuple[str, ...]:
    # The unified tree is at one of these, also on a hybrid host.
    import os

    return tuple(
        root for root in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if os.path.exists(f"{root}/cgroup.procs")
    )
