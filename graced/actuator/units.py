"""systemd as the actuator needs it: state, jobs with a deadline, signals; coroutines over the system bus.

The bus is connected on first use. A unit is always looked at under the name the warrant gave *and* under
systemd's own name for it, so an alias opens no back door.
"""

from __future__ import annotations

from graced.base.errors import HostError
from graced.base.record import Record
from graced.host.dbus import DBusError, SystemBus
from graced.host.systemd import (
    MANAGER_PATH,
    PROPERTIES_INTERFACE,
    READ,
    SYSTEMD,
    Manager,
    bus_path_for_unit,
    interface_of,
)
from graced.runtime.loop import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.runtime.loop import Loop

_CALL_TIMEOUT_S = 5.0
_LOST_BUS_POLL_S = 0.05
_NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"


class UnitState(Record):
    """A unit now. `user`/`group` are as its file says ("" = root); `job` is 0 when none is queued."""

    names: tuple[str, ...]
    load_state: str
    active_state: str
    sub_state: str
    result: str
    unit_file_state: str
    main_pid: int
    control_group: str
    job: int
    state_changed_us: int
    user: str
    group: str
    can_reload: bool
    can_start: bool

    @property
    def failed(self) -> bool:
        """Failed for good, or in the pause between two attempts of a crash loop."""
        return self.active_state == "failed" or self.sub_state == "auto-restart"


class Units:
    """One connection to systemd's manager, made when first needed."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._bus: SystemBus | None = None
        self._manager: Manager | None = None

    def connect(self) -> Manager:
        """The manager; HostError when the system bus is not there."""
        if self._manager is None or self._bus is None or self._bus.closed:
            self._bus = SystemBus.connect()
            self._bus.attach(self._loop)
            self._manager = Manager(self._bus)
            self._bus.on_lost = self._manager.lost
            self._manager.subscribe()
        return self._manager

    def close(self) -> None:
        """Leave the bus."""
        if self._bus is not None:
            self._bus.close()

    async def state(self, unit: str, asked: Future | None = None) -> UnitState:
        """What systemd knows of one moment, now (or when it was asked with `ask`); `load_state` says whether there is
        such a unit. HostError when it does not answer.
        """
        try:
            reply = await (asked or self.ask(unit))
        except HostError:
            if self._connected:
                raise
            # A new dbus-daemon takes calls, and answers them as soon as it runs.
            reply = await self.ask(unit)
        return _state(unit, _first(reply))

    @property
    def _connected(self) -> bool:
        return self._bus is not None and not self._bus.closed

    def ask(self, unit: str) -> Future:
        """Ask for the unit's state now and do something else meanwhile; what goes wrong is told by `state`."""
        try:
            return self._begin(bus_path_for_unit(unit), PROPERTIES_INTERFACE, "GetAll", "s", (interface_of(unit),))
        except HostError as error:
            asked = Future()
            asked.set_exception(error)
            return asked

    async def job_type(self, job: int) -> str:
        """``start``, ``stop``, ``restart`` …; "" when the job is over."""
        path = f"{MANAGER_PATH}/job/{job}"
        try:
            answer = await self._call(path, PROPERTIES_INTERFACE, "Get", "ss", (f"{SYSTEMD}.Job", "JobType"))
        except HostError:
            return ""
        return str(answer[1])

    async def job(self, member: str, unit: str, limit_s: float, before: UnitState) -> str:
        """Queue a job (StartUnit …) and wait for systemd's word on it, or, when the bus is lost meanwhile, for the end
        of the job; `before` is the unit as it was. Expired after `limit_s`.
        """
        result = await self._loop.within(self._job(member, unit, before), limit_s, f"{member} {unit}")
        return str(result)

    async def _job(self, member: str, unit: str, before: UnitState) -> str:
        manager = self.connect()
        try:
            return str(await _future(lambda settle: manager.run_job(member, unit, settle)))
        except HostError:
            if self._connected:
                raise
        # The end may have been announced while nobody heard it: only asking again tells.
        while True:
            try:
                state = await self.state(unit)
            except HostError:
                if self._connected:
                    raise
            else:
                if not state.job:
                    active = state.active_state
                    new = state.state_changed_us != before.state_changed_us
                    return "done" if new and active == "active" else f"{active} after a lost bus"
            await self._loop.sleep(_LOST_BUS_POLL_S)

    async def kill_all(self, unit: str, signal_number: int) -> None:
        """Signal every process of the unit."""
        manager = self.connect()
        await _future(lambda settle: manager.kill(unit, signal_number, lambda error: settle("", error)))

    async def reset_failed(self, unit: str) -> None:
        """Forget the failed state and the start limit."""
        manager = self.connect()
        try:
            await _future(lambda settle: manager.reset_failed(unit, lambda error: settle("", error)))
        except DBusError as error:
            # A disabled unit that is not failed is not kept in memory: systemd has forgotten it already.
            if error.name != _NO_SUCH_UNIT:
                raise

    async def _call(self, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]) -> Any:
        return _first(await self._begin(path, interface, member, signature, body))

    def _begin(self, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]) -> Future:
        self.connect()
        bus = self._bus
        assert bus is not None

        def begin(settle: Callable[[Any, HostError | None], None]) -> None:
            bus.call(SYSTEMD, path, interface, member, signature, body, settle, _CALL_TIMEOUT_S)

        return _future(begin)


def _first(reply: tuple[Any, ...]) -> Any:
    return reply[0] if reply else ()


def _future(begin: Callable[[Callable[[Any, HostError | None], None]], None]) -> Future:
    future = Future()

    def settle(value: Any, error: HostError | None) -> None:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    begin(settle)
    return future


def _state(unit: str, found: dict[str, tuple[str, Any]]) -> UnitState:
    def value(name: str, default: Any) -> Any:
        # What is not read from the bus would look like "systemd does not say".
        assert name in READ, name
        return found[name][1] if name in found else default

    def flag(name: str) -> bool:
        return bool(value(name, None))

    return UnitState(
        names=tuple(dict.fromkeys([unit, str(value("Id", unit)), *value("Names", [])])),
        load_state=str(value("LoadState", "")),
        active_state=str(value("ActiveState", "")),
        sub_state=str(value("SubState", "")),
        result=str(value("Result", "")),
        unit_file_state=str(value("UnitFileState", "")),
        main_pid=int(value("MainPID", 0)),
        control_group=str(value("ControlGroup", "")),
        job=int(value("Job", (0, "/"))[0]),
        state_changed_us=int(value("StateChangeTimestampMonotonic", 0)),
        user=str(value("User", "")),
        group=str(value("Group", "")),
        can_reload=flag("CanReload"),
        can_start=flag("CanStart"),
    )
