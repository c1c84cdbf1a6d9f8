"""Infrastructure Manager: units and host, telemetry, start-time baselines, hang probes, anomaly detection.

Wires systemd's announcements and the probes to the checks, and what the checks find to the bus. It never acts.
Unknown is said as unknown: without the system bus the units' states are null, not the last ones seen.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.base.config import Option
from graced.base.errors import HostError
from graced.base.json import get_str, opt_bool
from graced.base.log import NOTICE, WARNING
from graced.base.messages import ANOMALY as ANOMALY_MESSAGE
from graced.heal.book import APPROVED, CLOSED, OPENED, FindingBook
from graced.heal.checks import host_pressure
from graced.heal.checks.facts import RESTART_ANNOUNCED_US
from graced.heal.checks.index import UNIT_CHECKS
from graced.heal.tracker import LEAVING, UnitTracker
from graced.model.daemons import KERNELS
from graced.model.event import ANOMALY, CONFIG_CHANGED, TELEMETRY_BRAIN, TELEMETRY_HTM
from graced.model.finding import UNIT_HUNG
from graced.runtime import adopted, inventory
from graced.runtime.kernel import Kernel, kernel_main
from graced.runtime.peer import READ
from graced.runtime.service import Interface
from graced.runtime.starts import StartTimes
from graced.runtime.unitwatch import UnitWatch
from graced.varlink.wire import VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.config import Config
    from graced.base.json import JsonDict
    from graced.heal.checks.facts import Judgement
    from graced.host.systemd import Properties
    from graced.model.finding import Finding
    from graced.runtime.adopted import AdoptedUnit
    from graced.runtime.prober import Prober
    from graced.runtime.service import Call

INTERFACE = "io.graced.Infrastructure"
OWN_UNITS = [f"graced-{name}.service" for name in KERNELS]
# The bus library costs 15 ms of CPU: not while seven other daemons want to become READY.
BUS_AFTER_S = 0.2
LOG_AFTER_S = 0.05
SHOWS_S = 0.1
CLEARED_FOR_US = 60_000_000
OPTIONS = (
    Option("infrastructure", "telemetry_seconds", "duration_s", 10.0, "Pause between two telemetry events", low=1),
    Option(
        "infrastructure", "repeat_seconds", "duration_s", 60.0, "An open finding is announced again after this", low=5
    ),
)


class InfrastructureInterface(Interface):
    """io.graced.Infrastructure."""

    name = INTERFACE
    acl = {
        "Units": READ,
        "Unit": READ,
        "Host": READ,
        "Baselines": READ,
        "Kernels": READ,
        "ConfigChanged": frozenset({"root"}),
    }

    def __init__(self, kernel: InfrastructureKernel) -> None:
        self._kernel = kernel

    async def Units(self, call: Call) -> JsonDict:
        units = self._kernel.adopted_json()
        if not opt_bool(call.parameters, "adopted_only"):
            listed = await inventory.services(self._kernel.loop)
            units += [unit for unit in listed if unit["unit"] not in self._kernel.units]
        return {"units": units}

    async def Unit(self, call: Call) -> JsonDict:
        name = get_str(call.parameters, "unit")
        tracker = self._kernel.trackers.get(name)
        if tracker is not None:
            return {"unit": self._kernel.unit_json(tracker)}
        for unit in await inventory.services(self._kernel.loop):
            if unit["unit"] == name:
                return {"unit": unit}
        raise VarlinkError(f"{INTERFACE}.NoSuchUnit", {"unit": name})

    async def Host(self, _call: Call) -> JsonDict:
        states: dict[str, int] = {}
        for unit in await inventory.services(self._kernel.loop):
            states[unit["active_state"]] = states.get(unit["active_state"], 0) + 1
        return {
            "host": {
                **self._kernel.sample(),
                "units": states,
                "system_bus": self._kernel.bus_problem or "ok",
                "findings": [finding.to_json() for finding in self._kernel.book.all()],
            }
        }

    def Baselines(self, _call: Call) -> JsonDict:
        return {"baselines": self._kernel.starts.to_json()}

    def Kernels(self, _call: Call) -> JsonDict:
        return {"kernels": [self._kernel.kernel_json(name) for name in KERNELS]}

    def ConfigChanged(self, call: Call) -> JsonDict:
        unit = get_str(call.parameters, "unit")
        self._kernel.reread()
        if unit not in self._kernel.units:
            raise VarlinkError(f"{INTERFACE}.NoSuchUnit", {"unit": unit})
        self._kernel.publish(CONFIG_CHANGED, {"unit": unit}, subject=unit)
        return {}


class InfrastructureKernel(Kernel):
    """See the module."""

    name = "infrastructure"
    options = OPTIONS

    def setup(self) -> None:
        """Read the learned baselines; a damaged file is put aside and learned anew."""
        self.trackers: dict[str, UnitTracker] = {}
        self.units: dict[str, AdoptedUnit] = {}
        self.bus_problem = "not connected yet"
        self._probers: dict[str, Prober] = {}
        self._signature: tuple[tuple[str, int, int], ...] | None = None
        self._problems: list[str] = []
        self._cleared: dict[tuple[str, str], int] = {}
        self._sample: JsonDict = {}
        self._sampled_us = 0
        self._leaving = False
        self._resets = inventory.WatchdogResets()
        self.book = FindingBook(int(self.config["repeat_seconds"] * 1e6))
        self.starts = StartTimes(f"{self.paths.state(self.name)}/start-times.json")
        for problem in self.starts.problems:
            self.log(WARNING, problem)
        self.watch = UnitWatch(self.loop, self)

    def interfaces(self) -> list[Interface]:
        return [InfrastructureInterface(self)]

    def started(self) -> None:
        """The bus after READY: what happened meanwhile is found by the first full look."""
        self.reread()
        self.loop.call_later(BUS_AFTER_S, self.watch.start)
        self.every(1.0, self._tick)
        self._telemetry()

    def reload(self, config: Config) -> None:
        self.book.set_repeat(int(config["repeat_seconds"] * 1e6))
        self._signature = None
        self.reread()

    def close(self) -> None:
        self.watch.close()

    def status(self) -> str:
        bus = f"; system bus: {self.bus_problem}" if self.bus_problem else ""
        bad = f"; {len(self._problems)} watch files cannot be used: {self._problems[0]}" if self._problems else ""
        return f"Adopted units: {len(self.units)}, open findings: {len(self.book.all())}{bus}{bad}"

    # What is adopted ---------------------------------------------------------------------------------------

    def reread(self) -> None:
        """Take over watch files and profiles when they changed."""
        signature = adopted.signature(self.paths)
        if signature == self._signature:
            return
        self._signature = signature
        self.units, problems = adopted.load(self.paths, self.units)
        for problem in problems:
            if problem not in self._problems:
                self.log(WARNING, problem)
        self._problems = problems
        followed = dict.fromkeys(OWN_UNITS, "") | {name: unit.profile.name for name, unit in self.units.items()}
        for name in [name for name in self.trackers if name not in followed]:
            self._forget(name)
        for name, profile in followed.items():
            tracker = self.trackers.setdefault(name, UnitTracker(name))
            tracker.profile, tracker.adopted = profile, name in self.units
            self._set_prober(name, tracker)
        self.watch.follow(tuple(followed))

    def _forget(self, name: str) -> None:
        del self.trackers[name]
        self._stop_prober(name)
        for finding in self.book.forget(name):
            self._clear(finding.unit, finding.kind)

    def _stop_prober(self, name: str) -> None:
        if name in self._probers:
            self._probers.pop(name).stop()

    def _set_prober(self, name: str, tracker: UnitTracker) -> None:
        self._stop_prober(name)
        if name not in self.units or not self.units[name].profile.probes:
            return
        from graced.runtime.prober import Prober

        probes = self.units[name].profile.probes
        tracker.probe_limit = min(probe.failures for probe in probes)
        self._probers[name] = Prober(self.loop, probes, lambda result, began: self._probed(tracker, result, began))
        self._steer(tracker)

    def _steer(self, tracker: UnitTracker) -> None:
        prober = self._probers.get(tracker.unit)
        if prober is not None:
            (prober.start if tracker.state.active is True else prober.stop)()

    # What systemd says (graced.runtime.unitwatch.Receiver) -------------------------------------------------

    def unit_shown(self, unit: str, properties: Properties) -> None:
        tracker = self.trackers.get(unit)
        if tracker is not None and tracker.shown(properties):
            self._changed(tracker)

    def unit_announced(self, unit: str, properties: Properties) -> None:
        tracker = self.trackers.get(unit)
        if tracker is not None and tracker.announced(properties):
            self._changed(tracker)

    def job_new(self, job: int, unit: str) -> None:
        if unit in self.trackers:
            self.trackers[unit].job_new(job)
        elif unit in LEAVING:
            self._leaving = True

    def job_removed(self, job: int, unit: str, result: str) -> None:
        if unit in self.trackers:
            self.trackers[unit].job_removed(job, result)
            self._judge(self.trackers[unit])
        elif unit in LEAVING and result != "done":
            self._leaving = False

    def bus_changed(self, problem: str) -> None:
        if problem and problem != self.bus_problem:
            self._complain(f"units cannot be followed: {problem}")
        if problem and not self.bus_problem:
            for tracker in self.trackers.values():
                tracker.missed()
        self.bus_problem = problem

    def _changed(self, tracker: UnitTracker) -> None:
        problem = self.starts.learn(tracker)
        if problem:
            self.log(WARNING, problem)
        self._judge(tracker)
        self._steer(tracker)
        if tracker.state.active_state == "failed" and tracker.adopted:
            # By then systemd has said whether it restarts the unit.
            self.loop.call_later(2e-6 * RESTART_ANNOUNCED_US, lambda: self._judge(tracker))

    def _probed(self, tracker: UnitTracker, result: JsonDict, began_us: int) -> None:
        limit_us = self.units[tracker.unit].profile.ready_within_seconds * 1e6
        grace = tracker.probe is None or tracker.probe.get("ok") is not True
        young = began_us - tracker.state.active_enter_us < limit_us
        tracker.probed(result, began_us, grace=grace and young and not tracker.probe_failures)
        self._judge(tracker)

    # Judging -----------------------------------------------------------------------------------------------

    def _judge(self, tracker: UnitTracker) -> None:
        if tracker.needs_journal:
            self.loop.spawn(self._ask_journal(tracker))
        # graced's own daemons are systemd's and the rescue timer's: no anomaly about them.
        if not tracker.adopted:
            return
        hung_open = self.book.get(tracker.unit, UNIT_HUNG) is not None
        facts = tracker.facts(self.clock.monotonic_us(), host_leaving=self._leaving, hung_open=hung_open)
        for check in UNIT_CHECKS:
            self._record(tracker.unit, check(facts))

    def _record(self, unit: str, judgement: Judgement) -> None:
        outcome = self.book.record(unit, judgement, self.clock.monotonic_us())
        if outcome == OPENED and judgement.finding is not None:
            self._cleared.pop((unit, judgement.kind), None)
            finding = judgement.finding
            self._announce(finding)
            # The journal's client library takes 10 ms to import: the healer must not wait for that.
            self.loop.call_later(
                LOG_AFTER_S,
                lambda: self.log(
                    NOTICE,
                    f"{unit}: {finding.kind}: {finding.value}",
                    ANOMALY_MESSAGE,
                    GRACED_UNIT=unit,
                    GRACED_FINDING=finding.kind,
                ),
            )
        elif outcome == CLOSED:
            self.log(
                NOTICE,
                f"{unit}: {judgement.kind} is over: {judgement.reason}",
                GRACED_UNIT=unit,
                GRACED_FINDING=judgement.kind,
            )
            self._clear(unit, judgement.kind)
            self._publish_brain()
        elif outcome == APPROVED:
            self._clear(unit, judgement.kind)

    def _clear(self, unit: str, kind: str) -> None:
        # Said again for a while: the brain may have missed it, or was busy with a task about it.
        self._cleared[unit, kind] = self.clock.monotonic_us() + CLEARED_FOR_US

    def _announce(self, finding: Finding, *, repeat: bool = False) -> None:
        data = finding.anomaly(iso(self.clock.wall_us()), self._sample) | ({"repeat": True} if repeat else {})
        self.publish(ANOMALY, data, subject=finding.unit)
        self.count("graced_anomalies_total", finding=finding.kind)

    async def _ask_journal(self, tracker: UnitTracker) -> None:
        stamp_us = tracker.state.state_change_us
        # PID 1's last line may still be on its way to the journal.
        await self.loop.sleep(0.3)
        answer: bool | None = None
        try:
            answer = await inventory.stopped_by_job(self.loop, tracker.unit, tracker.state.inactive_exit_us)
        except HostError as error:
            self._complain(f"{tracker.unit}: the journal cannot be asked who stopped it: {error}")
        if tracker.state.state_change_us == stamp_us and tracker.needs_journal:
            tracker.journal_says(answer)
            self._judge(tracker)

    # Every second and every telemetry pause ----------------------------------------------------------------

    def _tick(self) -> None:
        self.reread()
        now_us = self.clock.monotonic_us()
        for finding in self.book.due(now_us):
            self._announce(finding, repeat=True)
        if now_us - self._sampled_us >= self.config["telemetry_seconds"] * 1e6:
            self._telemetry()
        if self._resets.due(self.trackers[name] for name in OWN_UNITS):
            self.loop.spawn(self._count_watchdog_resets())

    def _telemetry(self) -> None:
        self.sample()
        open_now = self.book.get(host_pressure.UNIT, "host.pressure") is not None
        self._record(host_pressure.UNIT, host_pressure.judge(self._sample, self._sampled_us, is_open=open_now))
        for tracker in list(self.trackers.values()):
            self._judge(tracker)
        self.publish(TELEMETRY_HTM, {"host": self._sample, "units": self.adopted_json()})
        self._publish_brain()

    def _publish_brain(self) -> None:
        now_us = self.clock.monotonic_us()
        self._cleared = {key: until_us for key, until_us in self._cleared.items() if until_us > now_us}
        cleared = [{"unit": unit, "finding": kind} for unit, kind in self._cleared]
        self.publish(
            TELEMETRY_BRAIN,
            {
                "host": self._sample,
                "units": self.adopted_json(),
                "cleared": cleared,
                "open": [{"unit": one.unit, "finding": one.kind} for one in self.book.all()],
            },
        )

    def sample(self) -> JsonDict:
        """The host now."""
        from graced.host import pressure

        self._sample, self._sampled_us = pressure.sample(), self.clock.monotonic_us()
        return self._sample

    def unit_json(self, tracker: UnitTracker) -> JsonDict:
        """One followed unit; the state is null while it is not known."""
        adopted_unit = self.units.get(tracker.unit)
        return tracker.unit_json(
            known=not self.bus_problem,
            tier=adopted_unit.watch.tier if adopted_unit else None,
            findings=[finding.kind for finding in self.book.of(tracker.unit)],
        )

    def adopted_json(self) -> list[JsonDict]:
        """All adopted units."""
        return [self.unit_json(tracker) for tracker in self.trackers.values() if tracker.adopted]

    def kernel_json(self, name: str) -> JsonDict:
        """One of graced's own daemons."""
        tracker = self.trackers[f"graced-{name}.service"]
        return tracker.kernel_json(name, known=not self.bus_problem, watchdog_resets=self._resets.of(tracker))

    async def _count_watchdog_resets(self) -> None:
        try:
            await self._resets.ask(self.loop, OWN_UNITS, self.clock.monotonic_us())
        except HostError as error:
            self._complain(f"watchdog resets of this boot stay unknown: {error}")

    def _complain(self, text: str) -> None:
        # A stop ends the program that was asked, too, and a host on its way down the bus: that shows a moment later.
        self.loop.call_later(SHOWS_S, lambda: None if self.stopping or self._leaving else self.log(WARNING, text))


main = kernel_main(InfrastructureKernel)
