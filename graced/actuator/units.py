"""systemd as the actuator needs it: state, jobs with a deadline, signals; coroutines over the system bus.

The bus is connected on first use. A unit is always looked at under the name the warrant gave *and* under
systemd's own name for it, so an alias opens no back door.
"""

from __future__ import annotations

from graced.base.errors import HostError
from graced.base.record import Record
from graced.host.dbus import DBusError, SystemBus
from graced.host.systemd import (
    MANAGER,
    MANAGER_PATH,
    PROPERTIES_INTERFACE,
    SERVICE_INTERFACE,
    SYSTEMD,
    UNIT_INTERFACE,
    Manager,
    bus_path_for_unit,
)
from graced.runtime.loop import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from graced.runtime.loop import Loop

_CALL_TIMEOUT_S = 5.0
_LOST_BUS_POLL_S = 0.05
_NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
# In µs of CLOCK_MONOTONIC.
CHANGED = "StateChangeTimestampMonotonic"
_OF_UNITS = frozenset({"ActiveState", "CanReload", "Names", CHANGED})


class UnitState(Record):
    """A unit at one moment; `job` is 0 and `job_kind` "" when none is queued. `name` is systemd's own, not an alias."""

    name: str
    load_state: str
    active_state: str
    sub_state: str
    job: int
    job_kind: str


class Known(Record):
    """A unit's state, its names (the asked one first), and how it ended last, at that moment or a later one."""

    state: UnitState
    names: tuple[str, ...]
    result: str


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

    async def state(self, unit: str) -> UnitState:
        """The unit's state now; `load_state` says whether there is such a unit. HostError when systemd does not
        answer.
        """
        state: UnitState = await self._answer(
            lambda: self._together(lambda listed: _listed(unit, listed), self._list(unit))
        )
        return state

    async def values(self, unit: str, *names: str) -> list[Any]:
        """Properties of the unit or the service. HostError when systemd does not answer."""
        values: list[Any] = await self._answer(lambda: self._together(_values, *self._get(unit, names)))
        return values

    def ask(self, unit: str) -> Future:
        """Ask what `known` tells, and do something else meanwhile; what goes wrong is told there.

        A few small questions in one go: all that systemd knows of a service takes it three times as long to tell, and
        us five times as long to read.
        """

        def make(listed: Any, *more: Any) -> Known:
            state, (names, result) = _listed(unit, listed), _values(*more)
            return Known(state, tuple(dict.fromkeys([unit, state.name, *names])), str(result))

        try:
            return self._together(make, self._list(unit), *self._get(unit, ("Names", "Result")))
        except HostError as error:
            asked = Future()
            asked.set_exception(error)
            return asked

    async def known(self, unit: str, asked: Future) -> Known:
        """The answer to `ask`; HostError when there is none."""
        known: Known = await self._answer(lambda: self.ask(unit), asked)
        return known

    async def _answer(self, ask: Callable[[], Future], asked: Future | None = None) -> Any:
        try:
            return await (asked or ask())
        except HostError:
            if self._connected:
                raise
            # A new dbus-daemon takes calls, and answers them as soon as it runs.
            return await ask()

    @property
    def _connected(self) -> bool:
        return self._bus is not None and not self._bus.closed

    def _list(self, unit: str) -> Future:
        return self._begin(MANAGER_PATH, MANAGER, "ListUnitsByNames", "as", ([unit],))

    def _get(self, unit: str, names: Iterable[str]) -> list[Future]:
        path = bus_path_for_unit(unit)
        kinds = {name: UNIT_INTERFACE if name in _OF_UNITS else SERVICE_INTERFACE for name in names}
        return [self._begin(path, PROPERTIES_INTERFACE, "Get", "ss", (kind, name)) for name, kind in kinds.items()]

    def _together(self, make: Callable[..., Any], *answers: Future) -> Future:
        """What `make` makes of all answers, once the last is there; the questions leave now, all at once."""
        together = Future()

        def take(_answer: Future) -> None:
            if all(answer.done() for answer in answers):
                try:
                    together.set_result(make(*[_first(answer.result()) for answer in answers]))
                except HostError as error:
                    together.set_exception(error)

        for answer in answers:
            answer.when_done(take)
        if self._bus is not None:
            self._bus.flush()
        return together

    async def job(self, member: str, unit: str, limit_s: float) -> str:
        """Queue a job (StartUnit …) and wait for systemd's word on it, or, when the bus is lost meanwhile, for the end
        of the job. Expired after `limit_s`.
        """
        result = await self._loop.within(self._job(member, unit), limit_s, f"{member} {unit}")
        return str(result)

    async def _job(self, member: str, unit: str) -> str:
        (before_us,) = await self.values(unit, CHANGED)
        manager = self.connect()
        try:
            return str(await _future(lambda settle: manager.run_job(member, unit, settle)))
        except HostError:
            if self._connected:
                raise
        # The end may have been announced while nobody heard it: only asking again tells.
        while True:
            try:
                state, (now_us,) = await self.state(unit), await self.values(unit, CHANGED)
            except HostError:
                if self._connected:
                    raise
            else:
                if not state.job:
                    active = state.active_state
                    return "done" if now_us != before_us and active == "active" else f"{active} after a lost bus"
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

    def _begin(self, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]) -> Future:
        self.connect()
        bus = self._bus
        assert bus is not None

        def begin(settle: Callable[[Any, HostError | None], None]) -> None:
            bus.call(SYSTEMD, path, interface, member, signature, body, settle, _CALL_TIMEOUT_S, later=True)

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


def _listed(unit: str, units: list[tuple[Any, ...]]) -> UnitState:
    if not units:
        raise HostError(f"systemd does not say what {unit} is", hint=f"systemctl status {unit}")
    # Name, description, three states, what it follows, path, job, its kind and path.
    name, _description, load, active, sub, _follows, _path, job, kind, _job_path = units[0]
    return UnitState(str(name), str(load), str(active), str(sub), int(job), str(kind))


def _values(*variants: tuple[str, Any]) -> list[Any]:
    try:
        return [value for _kind, value in variants]
    except ValueError as problem:
        raise HostError("systemd does not say what was asked of the unit", hint="journalctl -b _PID=1") from problem
