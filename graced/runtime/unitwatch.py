"""Units followed live: a system bus connection that comes back, the first full look, and all that systemd announces.

Order matters: subscribe, then look (`systemctl show`, in a process, so the loop stays free); the receiver drops a
look that is older than an announcement. While the bus is away `problem` says so, and after it came back everything
is looked at again. Used by the Infrastructure kernel.
"""

from __future__ import annotations

from graced.base.errors import HostError
from graced.host.dbus import SystemBus
from graced.host.systemd import SYSTEMD, Manager, parse_show, show_argv
from graced.runtime.process import run_process
from graced.runtime.signals import SIGTERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from graced.host.dbus import Subscription
    from graced.host.systemd import Properties
    from graced.runtime.loop import Loop

    class Receiver(Protocol):
        """Who wants to know."""

        def unit_shown(self, unit: str, properties: Properties) -> None:
            """A full look at a unit."""

        def unit_announced(self, unit: str, properties: Properties) -> None:
            """Properties that changed."""

        def job_new(self, job: int, unit: str) -> None:
            """Any unit's job was queued."""

        def job_removed(self, job: int, unit: str, result: str) -> None:
            """Any unit's job ended."""

        def bus_changed(self, problem: str) -> None:
            """The bus came ("") or went (why)."""


FIRST_PAUSE_S = 0.5
MOST_ENDED = 3
"""So many looks in a row may be ended by a signal before that is a problem."""
LAST_PAUSE_S = 30.0


class UnitWatch:
    """`follow` sets which units; everything else is told to the receiver."""

    def __init__(self, loop: Loop, receiver: Receiver, *, address: str | None = None) -> None:
        self._loop = loop
        self._receiver = receiver
        self._address = address
        self._units: tuple[str, ...] = ()
        self._subscriptions: dict[str, Subscription] = {}
        self._bus: SystemBus | None = None
        self._manager: Manager | None = None
        self._ended = 0
        self._pause_s = FIRST_PAUSE_S
        self._looking = False
        self._look_again = False
        self.problem = "not connected yet"

    def start(self) -> None:
        """Connect; keeps trying with a growing pause."""
        try:
            self._bus = SystemBus.connect(self._address)
        except HostError as error:
            self._gone(error)
            return
        self._bus.on_lost = self._gone
        self._bus.on_owner_changed = self._owner_changed
        self._manager = Manager(self._bus)
        self._manager.on_job_new = self._receiver.job_new
        self._manager.on_job_removed = self._receiver.job_removed
        # A mask or an edited unit file is announced for no unit.
        self._manager.on_reloaded = self.look
        self._manager.follow_jobs()
        self._subscriptions = {
            unit: self._manager.follow_unit(unit, self._receiver.unit_announced) for unit in self._units
        }
        self._manager.subscribe(self._subscribed)
        self._bus.attach(self._loop)

    def follow(self, units: tuple[str, ...]) -> None:
        """Follow exactly these units."""
        self._units = units
        if self._manager is None or self._bus is None or self._bus.closed:
            return
        for unit in [unit for unit in self._subscriptions if unit not in units]:
            self._bus.unmatch(self._subscriptions.pop(unit))
        for unit in units:
            if unit not in self._subscriptions:
                self._subscriptions[unit] = self._manager.follow_unit(unit, self._receiver.unit_announced)
        if not self.problem:
            self.look()

    def look(self) -> None:
        """Look at all followed units once more."""
        if self._looking:
            self._look_again = True
        elif self._units:
            self._looking = True
            self._loop.spawn(self._look())

    def close(self) -> None:
        """Leave the bus."""
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    def _subscribed(self, error: HostError | None) -> None:
        if error is not None:
            if self._bus is not None and not self._bus.closed:
                self._bus.close()
                self._gone(error)
            return
        self._pause_s = FIRST_PAUSE_S
        self.problem = ""
        self._receiver.bus_changed("")
        self.look()

    async def _look(self) -> None:
        units = self._units
        try:
            done = await run_process(self._loop, show_argv(units), 10.0, max_output_bytes=4 << 20)
            if done.returncode == -SIGTERM and self._ended < MOST_ENDED:
                # the stop of a unit ends its children too, and our own signal comes a moment later
                self._ended += 1
                self._loop.call_later(self._pause_s, self.look)
                return
            if done.returncode != 0:
                raise HostError(f"systemctl show: {done.stderr.strip() or done.returncode}")
            shown = parse_show(done.stdout)
            if len(shown) != len(units):
                raise HostError(f"systemctl show told of {len(shown)} units, not of {len(units)}")
        except HostError as error:
            self.problem = str(error)
            self._receiver.bus_changed(self.problem)
            self._loop.call_later(self._pause_s, self.look)
            self._pause_s = min(LAST_PAUSE_S, self._pause_s * 2)
            return
        finally:
            self._looking = False
        self._ended = 0
        if self.problem and self._bus is not None and not self._bus.closed:
            self.problem = ""
            self._receiver.bus_changed("")
        for unit, properties in zip(units, shown, strict=True):
            if unit in self._units:
                self._receiver.unit_shown(unit, properties)
        if self._look_again:
            self._look_again = False
            self.look()

    def _owner_changed(self, name: str, owner: str) -> None:
        # systemd re-executed itself: it may not remember who subscribed.
        if name == SYSTEMD and owner and self._manager is not None:
            self._manager.subscribe(self._subscribed)

    def _gone(self, error: HostError) -> None:
        self._bus = None
        self._manager = None
        self._subscriptions = {}
        self.problem = str(error)
        self._receiver.bus_changed(self.problem)
        self._loop.call_later(self._pause_s, self.start)
        self._pause_s = min(LAST_PAUSE_S, self._pause_s * 2)
