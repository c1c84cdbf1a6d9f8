"""What every daemon is: configuration, sockets, self-test, READY, the work loop, reload, drain.

A kernel is data and handlers: class attributes name it, its options and the topics it wants; this module owns
signals, the watchdog, the bus connection and the way down. READY=1 is sent only after `setup` succeeded. The
watchdog is fed by the work loop itself and starves when turns fail.

Exit codes: 0 asked to stop, 1 crashed (systemd restarts it), 78 the configuration or store cannot be used.
"""

from __future__ import annotations

import os
import sys

import graced
from graced.base import config as config_file
from graced.base.clock import Clock, SystemClock
from graced.base.errors import ConfigError, GracedError, StoreError
from graced.base.log import ERR, INFO, NOTICE, WARNING, log
from graced.base.messages import CONFIG_REFUSED, INTERNAL_ERROR, STORE_REFUSED
from graced.base.notify import Notifier, watchdog_interval_s
from graced.base.paths import Paths
from graced.base.sockets import Socket
from graced.model.event import KERNEL_STATUS, Event
from graced.runtime.links import Links, Stream
from graced.runtime.loop import Loop
from graced.runtime.service import Interface, Service, listen_unix
from graced.runtime.signals import SIGHUP, SIGINT, SIGTERM, Signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.base.config import Config, Option
    from graced.base.json import JsonDict

EXIT_CONFIG = 78
# Reasons of a store that go away without anybody repairing it: systemd tries again, and after that the rescue timer.
PASSING = frozenset({"disk-full", "io", "busy", "in-use"})
MAX_FAILED_TURNS = 3
DRAIN_SECONDS = 5.0
MAX_UNSENT_EVENTS = 256


class Kernel:
    """Base of every daemon. Override what is yours; everything runs on one loop in one thread."""

    name = ""
    options: tuple[Option, ...] = ()
    gc_threshold = 2_000
    """New objects between two collections; more where thousands of calls a second make them, none of them cycles."""
    subscribes: tuple[str, ...] = ()
    # Seconds without a connection or work after which the daemon leaves (socket activated ones only).
    idle_exit_s: float | None = None
    # The actuator takes its directories from nowhere but the package.
    fixed_paths = False

    def __init__(self) -> None:
        self.clock: Clock = SystemClock()
        self.paths = Paths(fixed=self.fixed_paths)
        self.loop = Loop()
        self.notifier = Notifier()
        self.links = Links(self.loop, self.paths)
        self.service = Service(self.loop, f"graced-{self.name}", graced.__version__, self.paths.share)
        self.config: Config
        self.config_ok = True
        self.counters: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self.stopping = False
        self._bus: Stream | None = None
        self._reported: JsonDict = {}
        self._unsent = 0
        self._failed_turns = 0
        self._turn_failed = False

    # What a kernel overrides -------------------------------------------------------------------------------

    def setup(self) -> None:
        """Open stores, check keys: the self-test before READY. Raise to refuse the start."""

    def interfaces(self) -> list[Interface]:
        """The Varlink interfaces this daemon serves."""
        return []

    def started(self) -> None:
        """Called once after READY."""

    def reload(self, config: Config) -> None:
        """SIGHUP: take over `config` (already in `self.config`). Raise GracedError to keep the old one."""

    def drain(self) -> None:
        """SIGTERM: take no new work."""

    def drained(self) -> bool:
        """Whether no work is under way any more."""
        return True

    def close(self) -> None:
        """Last call before the exit: close stores."""

    def status(self) -> str:
        """One sentence for `systemctl status`."""
        return "Running"

    def unhealthy(self) -> str | None:
        """A reason to starve the watchdog (a failed store, a stuck child); None while the daemon can do its job."""
        return None

    def on_event(self, event: Event) -> None:
        """An event of a topic in `subscribes`."""

    # What a kernel uses ------------------------------------------------------------------------------------

    def log(self, priority: int, message: str, message_id: str = "", **fields: Any) -> None:
        """Write a journal record of this daemon."""
        log(priority, message, message_id, GRACED_KERNEL=self.name, **fields)

    def count(self, counter: str, by: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        key = (counter, tuple(sorted(labels.items())))
        self.counters[key] = self.counters.get(key, 0.0) + by

    async def call(self, method: str, parameters: JsonDict | None = None, timeout_s: float = 2.0) -> JsonDict:
        """Ask another daemon. Raises VarlinkError or WireError."""
        return await self.links.call(method, parameters or {}, timeout_s)

    def publish(self, topic: str, data: JsonDict, subject: str | None = None, intent_id: str | None = None) -> None:
        """Put an event on the bus: at most once, counted when it could not be."""
        if self._unsent >= MAX_UNSENT_EVENTS:
            self.count("graced_bus_unsent_total")
            return
        self._unsent += 1
        self.loop.spawn(self._publish(topic, data, subject, intent_id))

    async def _publish(self, topic: str, data: JsonDict, subject: str | None, intent_id: str | None) -> None:
        parameters: JsonDict = {"type": topic, "data": data}
        if subject is not None:
            parameters["subject"] = subject
        if intent_id is not None:
            parameters["intentid"] = intent_id
        try:
            await self.call("io.graced.Bus.Publish", parameters)
        except GracedError:
            self.count("graced_bus_unsent_total")
        finally:
            self._unsent -= 1

    def report(self) -> JsonDict:
        """What topic kernel.status says of this daemon: its sentence, its configuration, its counters."""
        return {
            "kernel": self.name,
            "status": self.status(),
            "config_accepted": self.config_ok,
            "internal_errors": self.service.internal_errors,
            "counters": [
                {"name": name, "labels": dict(labels), "value": value}
                for (name, labels), value in sorted(self.counters.items())
            ],
        }

    def every(self, seconds: float, function: Callable[[], object]) -> None:
        """Call `function` again and again; its errors count as failed turns."""

        def again() -> None:
            self.loop.call_later(seconds, again)
            function()

        self.loop.call_later(seconds, again)

    def leave(self) -> None:
        """As when asked to stop: finish the work under way and go; systemd starts the daemon again."""
        self._on_term()

    # Life --------------------------------------------------------------------------------------------------

    def main(self) -> int:
        """Run to the end; the exit code."""
        self.loop.on_error = self._on_error
        try:
            self.config = config_file.load(self.paths.config_file(), self.options, self.name)
            self.setup()
        except (ConfigError, StoreError) as error:
            self._refuse(error)
            return 1 if error.code in PASSING else EXIT_CONFIG
        except GracedError as error:
            self._refuse(error)
            return 1
        for interface in self.interfaces():
            self.service.add(interface)
        for sock in self._sockets():
            self.service.listen(sock)
        Signals(
            self.loop,
            {SIGTERM: self._on_term, SIGINT: self._on_term, SIGHUP: self._on_hangup},
        )
        if self.subscribes:
            self._bus = Stream(
                self.loop,
                self.paths.socket("io.graced.Bus"),
                "io.graced.Bus.Subscribe",
                lambda: {"patterns": list(self.subscribes)},
                self._on_bus,
            )
        self.notifier.ready(self.status())
        # What is said at READY stands in STATUS=; the bus hears of the first change, after the boot's rush.
        self._reported = self.report()
        self._feed()
        self.loop.call_soon(self._after_ready)
        self.loop.after_turn.append(self._after_turn)
        self.loop.run()
        self.close()
        return 1 if self._failed_turns >= MAX_FAILED_TURNS else 0

    def _refuse(self, error: GracedError) -> None:
        message_id = STORE_REFUSED if isinstance(error, StoreError) else CONFIG_REFUSED
        self.notifier.status(f"Refused to start: {error}")
        self.log(ERR, f"{self.name} refuses to start: {error}", message_id, **_fields(error))

    def _after_ready(self) -> None:
        import gc

        gc.enable()
        gc.freeze()
        gc.set_threshold(self.gc_threshold, *gc.get_threshold()[1:])
        if self._bus is not None:
            self._bus.start()
        self.started()
        # What the first turns brought (the bus, the files) shows without waiting for the watchdog's rhythm.
        self.loop.call_later(0.3, lambda: self.notifier.status(self.status()))
        if self.idle_exit_s is not None:
            self.loop.call_later(self.idle_exit_s, self._leave_when_idle)

    def _sockets(self) -> list[Socket]:
        if os.environ.get("LISTEN_PID") == str(os.getpid()):
            count = int(os.environ.get("LISTEN_FDS", "0"))
            return [Socket(fileno=fd) for fd in range(3, 3 + count)]
        return [listen_unix(path) for path in self.own_sockets()]

    def own_sockets(self) -> list[str]:
        """Paths this daemon binds itself when systemd did not (development, tests)."""
        return sorted({self.paths.socket(interface.name) for interface in self.interfaces()})

    def _feed(self) -> None:
        interval_s = watchdog_interval_s()
        reason = self.unhealthy()
        if reason is None and self._failed_turns == 0:
            self.notifier.watchdog()
        self.notifier.status(f"Unhealthy: {reason}" if reason else self.status())
        self.loop.call_later(interval_s or 1.5, self._feed)
        report = self.report()
        if report != self._reported and self.idle_exit_s is None:
            self._reported = report
            self.publish(KERNEL_STATUS, report, subject=self.name)

    def _on_error(self, error: BaseException) -> None:
        self._turn_failed = True
        self.service.internal_errors += 1
        import traceback

        trace = "".join(traceback.format_exception(error))
        self.log(ERR, f"{self.name}: {error!r}\n{trace}", INTERNAL_ERROR)

    def _after_turn(self) -> None:
        self._failed_turns = self._failed_turns + 1 if self._turn_failed else 0
        self._turn_failed = False
        if self._failed_turns >= MAX_FAILED_TURNS:
            self.log(ERR, f"{self.name}: {self._failed_turns} turns failed in a row, leaving", INTERNAL_ERROR)
            self.loop.stop()

    def _on_bus(self, item: JsonDict) -> None:
        envelope = item.get("event")
        if isinstance(envelope, dict):
            self.on_event(Event.parse(envelope))

    def _on_hangup(self) -> None:
        self.notifier.reloading()
        old = self.config
        try:
            self.config = config_file.load(self.paths.config_file(), self.options, self.name)
            self.reload(self.config)
            self.config_ok = True
            self.count("graced_config_reloads_total")
            self.log(INFO, f"{self.name}: configuration reloaded")
        except GracedError as error:
            self.config = old
            self.config_ok = False
            self.count("graced_config_reload_failures_total")
            self.log(WARNING, f"{self.name}: configuration refused, the running one stays: {error}", CONFIG_REFUSED)
        self.notifier.ready(self.status())

    def _on_term(self) -> None:
        if self.stopping:
            self.log(NOTICE, f"{self.name}: asked to stop a second time, leaving at once")
            self.loop.stop()
            return
        self.stopping = True
        self.service.close_listeners()
        self.notifier.stopping("Finishing the work under way")
        if self._bus is not None:
            self._bus.stop()
        self.drain()
        self._leave_when_drained(self.loop.now_s() + DRAIN_SECONDS)

    def _leave_when_drained(self, limit_s: float) -> None:
        if (self.drained() and not self.service.busy) or self.loop.now_s() > limit_s:
            self.loop.stop()
            return
        self.loop.call_later(0.02, lambda: self._leave_when_drained(limit_s))

    def _leave_when_idle(self) -> None:
        assert self.idle_exit_s is not None
        if self.service.connection_count == 0 and self.drained():
            self.loop.stop()
            return
        self.loop.call_later(self.idle_exit_s, self._leave_when_idle)


def _fields(error: GracedError) -> dict[str, object]:
    return {f"GRACED_{name.upper()}": value for name, value in error.fields.items()}


def kernel_main(kernel: type[Kernel]) -> Callable[[], None]:
    """The entry point of a daemon's launcher."""

    def main() -> None:
        import gc

        gc.disable()
        sys.exit(kernel().main())

    return main
