"""Runs one experiment on one unit: steady state, undo record, fault, evidence, verdict.

A row passes only with evidence: records that systemd or graced itself wrote to the journal after the fault, and a unit
that serves again. What cannot be shown is a failure.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from chaos import journal
from chaos.faults import config as config_fault
from chaos.probes import Fault, inject
from chaos.shell import ChaosError, gracectl

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos.experiment import Experiment
    from chaos.journal import Follower, Record
    from chaos.show import Live
    from chaos.targets import Target
    from chaos.undo import UndoJournal

LOOK_AGAIN_SECONDS = 0.5


@dataclass
class Row:
    """One line of the table. Times are ms from the fault; None means that there is no evidence."""

    unit: str
    fault: str
    detected_ms: float | None = None
    healed_ms: float | None = None
    boot_ms: float | None = None
    limit_ms: float = 0.0
    by: str = ""
    incident: str = ""
    error: str = ""

    @property
    def passed(self) -> bool:
        """Healed, shown, and in time."""
        return not self.error and self.healed_ms is not None and self.healed_ms <= self.limit_ms

    def to_json(self) -> dict[str, Any]:
        """The fields and `passed`."""
        return {**asdict(self), "passed": self.passed}


class Runner:
    """Breaks targets one at a time. `settle_s` is how long it waits for the steady state before each fault, `timeout_s`
    how long for each piece of evidence."""

    def __init__(
        self, undo: UndoJournal, follower: Follower, *, timeout_s: float, settle_s: float, live: Live | None = None
    ) -> None:
        self._undo = undo
        self._follower = follower
        self._timeout_s = timeout_s
        self._settle_s = settle_s
        self._live = live

    def run(self, experiment: Experiment, target: Target) -> Row:
        """Break `target` once and wait for the proof that it healed. Never raises for what a fault can cause."""
        row = Row(unit=target.unit, fault=experiment.fault)
        try:
            row.limit_ms = experiment.limit_ms(target)
            self._await_steady_state(experiment, target)
            if self._live is not None:
                self._live.expect(target.unit)
            fault = inject(self._undo, experiment.fault, target)
            if self._live is not None:
                self._live.begin(fault.stamp_us)
            try:
                self._prove(row, fault)
            finally:
                fault.revert()
        except (ChaosError, OSError) as error:
            row.error = f"{row.error}; {error}" if row.error else str(error)
        return row

    def _await_steady_state(self, experiment: Experiment, target: Target) -> None:
        """The fault before may still be settling; a host that does not settle is not broken further."""
        limit = time.monotonic() + self._settle_s
        while True:
            missing = [probe.name for probe in experiment.steady if not probe.holds(target)]
            if not missing:
                return
            if time.monotonic() >= limit:
                raise ChaosError(f"no steady state before the fault: {', '.join(missing)} does not hold; no fault made")
            self._follower.read(LOOK_AGAIN_SECONDS)

    def _prove(self, row: Row, fault: Fault) -> None:
        try:
            if row.fault == config_fault.NAME:
                (self._prove_refusal if fault.target.kernel else self._prove_heal)(row, fault)
            elif not fault.target.kernel:
                self._prove_service(row, fault)
            else:
                self._prove_restart(row, fault)
        except ChaosError as error:
            # Noted before the fault is taken back, which may fail as well.
            row.error = str(error)

    def _prove_restart(self, row: Row, fault: Fault) -> None:
        """systemd saw the process end and has another one ready."""
        unit = fault.target.unit
        ended = self._pid1(unit, journal.EXITED, fault.stamp_us, "the end of the process")
        row.detected_ms = _since(fault, ended)
        began = self._pid1(unit, journal.STARTING, journal.stamp_us(ended), "the start")
        ready = self._pid1(unit, journal.STARTED, journal.stamp_us(began), "READY")
        row.healed_ms = _since(fault, ready)
        row.boot_ms = row.healed_ms - _since(fault, began)
        row.by = "systemd"
        if fault.target.state() != "active" or fault.target.main_pid() == fault.pid:
            raise ChaosError(f"{unit} is not active as a new process")

    def _pid1(self, unit: str, message_id: str, since_us: int, what: str) -> Record:
        return self._follower.wait(
            lambda record: journal.by_pid1(record, unit, message_id),
            since_us,
            self._timeout_s,
            f"{what} of {unit}, said by systemd,",
        )

    def _prove_refusal(self, row: Row, fault: Fault) -> None:
        """A daemon of graced must keep its running configuration, say so, and stay the same process."""
        unit = fault.target.unit
        refused = self._wait(
            lambda record: (
                journal.by_service(record, unit, journal.CONFIG_REFUSED) and record.get("_PID") == str(fault.pid)
            ),
            fault,
            f"the refusal of {unit}",
        )
        row.detected_ms = row.healed_ms = _since(fault, refused)
        row.by = "kept running"
        if fault.target.state() != "active" or fault.target.main_pid() != fault.pid:
            raise ChaosError(f"{unit} did not survive a bad configuration")

    def _prove_service(self, row: Row, fault: Fault) -> None:
        """Where the unit has Restart=, systemd heals a crash, and graced has nothing to do."""
        unit = fault.target.unit
        first = self._wait(
            lambda record: journal.by_pid1(record, unit, journal.STARTED) or _opened(record, unit),
            fault,
            f"an incident or a new start of {unit}",
        )
        if _opened(first, unit) or not fault.target.restarts():
            self._prove_heal(row, fault)
            return
        self._prove_restart(row, fault)
        self._await_serving(fault.target)

    def _await_serving(self, target: Target) -> None:
        limit = time.monotonic() + self._timeout_s
        while not target.serves():
            if time.monotonic() >= limit:
                raise ChaosError(f"{target.unit} runs again and does not serve")
            self._follower.read(LOOK_AGAIN_SECONDS)

    def _prove_heal(self, row: Row, fault: Fault) -> None:
        """graced opened an incident about the unit after the fault, closed it as healed, and a second party said so."""
        unit = fault.target.unit
        self._wait(lambda record: _opened(record, unit), fault, f"the beginning of an incident on {unit}")

        def ended(record: Record) -> bool:
            # Beside the incident that is healed there may be one that is only noted, of the config file alone.
            return _closed(record, unit) and record.get("GRACED_OUTCOME") != "observed" and begun(record) is not None

        def begun(record: Record) -> Record | None:
            name = record.get("GRACED_INCIDENT_ID")
            return self._follower.find(
                lambda one: _opened(one, unit) and one.get("GRACED_INCIDENT_ID") == name, fault.stamp_us
            )

        closed = self._wait(ended, fault, f"the end of an incident on {unit}")
        opened = begun(closed)
        assert opened is not None
        row.incident = str(closed.get("GRACED_INCIDENT_ID"))
        row.detected_ms = _since(fault, opened)
        row.healed_ms = _since(fault, closed)
        incident = _listed(row.incident)
        row.by = f"{incident['playbook'] or 'itself'}, {incident['verified_by'] or 'unverified'}"
        if incident["outcome"] != "healed" or not incident["verified_by"]:
            raise ChaosError(f"{row.incident} ended {incident['outcome']}: gracectl explain {row.incident}")
        if not fault.target.serves():
            raise ChaosError(f"{unit} does not serve although {row.incident} is closed")
        if row.fault == config_fault.NAME and not config_fault.restored(fault.undo):
            raise ChaosError(f"{fault.undo['path']} is not as it was: content, owner or mode differ")

    def _wait(self, wanted: Callable[[Record], bool], fault: Fault, what: str) -> Record:
        return self._follower.wait(wanted, fault.stamp_us, self._timeout_s, what)


def _opened(record: Record, unit: str) -> bool:
    return journal.by_service(record, journal.SUPERVISOR, journal.INCIDENT_OPENED) and record.get("UNIT") == unit


def _closed(record: Record, unit: str) -> bool:
    return journal.by_service(record, journal.SUPERVISOR, journal.INCIDENT_CLOSED) and record.get("UNIT") == unit


def _since(fault: Fault, record: Record) -> float:
    return (journal.stamp_us(record) - fault.stamp_us) / 1000


def _listed(name: str) -> dict[str, Any]:
    for incident in gracectl("incidents"):
        if incident["id"] == name:
            return dict(incident)
    raise ChaosError(f"no evidence: gracectl incidents does not list {name}")
