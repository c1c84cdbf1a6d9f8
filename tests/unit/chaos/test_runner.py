"""What counts as evidence, and what a fault leaves behind when there is none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chaos import journal, probes, runner
from chaos.experiment import Experiment, Probe
from chaos.runner import Runner
from chaos.shell import ChaosError
from chaos.targets import Target
from chaos.undo import UndoJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chaos.journal import Record

UNIT = "nginx.service"
KERNEL = Target("graced-code.service", Path("/etc/graced/graced.toml"), kernel=True)
NGINX = Target(UNIT, Path("/etc/nginx/nginx.conf"), kernel=False)
FAULT_US = 1_000_000


class Journal:
    """A journal that holds what the test gives it, and ends."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def find(self, wanted: Callable[[Record], bool], since_us: int) -> Record | None:
        return next((one for one in self.records if journal.stamp_us(one) >= since_us and wanted(one)), None)

    def wait(self, wanted: Callable[[Record], bool], since_us: int, _timeout_s: float, what: str) -> Record:
        found = self.find(wanted, since_us)
        if found is None:
            raise ChaosError(f"no evidence: {what}")
        return found

    def read(self, _timeout_s: float) -> None:
        pass

    def systemd(self, at_ms: float, message_id: str, unit: str, pid: str = "1") -> None:
        stamp = str(FAULT_US + int(at_ms * 1000))
        self.records.append({"__MONOTONIC_TIMESTAMP": stamp, "_PID": pid, "UNIT": unit, "MESSAGE_ID": message_id})

    def incident(self, at_ms: float, message_id: str, name: str, outcome: str = "", unit: str = UNIT) -> None:
        self.systemd(at_ms, message_id, unit, pid="7")
        self.records[-1] |= {
            "_SYSTEMD_UNIT": journal.SUPERVISOR,
            "GRACED_INCIDENT_ID": name,
            "GRACED_OUTCOME": outcome,
        }


class Fault:
    """A fault module that breaks nothing."""

    def __init__(self) -> None:
        self.injected = self.reverted = 0
        self.undoable = True

    def prepare(self, _target: Target) -> dict[str, Any]:
        return {}

    def inject(self, _target: Target, _undo: dict[str, Any]) -> int:
        self.injected += 1
        return FAULT_US

    def revert(self, _target: Target, _undo: dict[str, Any]) -> bool:
        self.reverted += 1
        return self.undoable


class Bench:
    """A runner whose host is made of what the test says."""

    def __init__(self, undo: UndoJournal, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journal, self.fault, self.undo = Journal(), Fault(), undo
        self.steady = self.serves = True
        self.restarts = False
        self.pids = [10, 11]
        self.listed = {
            "id": "incident_1",
            "outcome": "healed",
            "playbook": "restart-unit",
            "verified_by": "verification/1",
        }
        monkeypatch.setitem(probes.FAULTS, "kill", self.fault)
        monkeypatch.setitem(probes.PROBES, "serves", lambda **_: self.steady)
        monkeypatch.setattr(runner, "gracectl", lambda *_: [self.listed])
        monkeypatch.setattr(Target, "state", lambda _self: "active")
        monkeypatch.setattr(Target, "serves", lambda _self: self.serves)
        monkeypatch.setattr(Target, "restarts", lambda _self: self.restarts)
        monkeypatch.setattr(Target, "main_pid", lambda _self: self.pids.pop(0) if len(self.pids) > 1 else self.pids[0])

    def run(self, target: Target) -> runner.Row:
        probe = Probe("the unit serves", "serves", {}, tolerance=True)
        experiment = Experiment("kill", "killed", (probe,), "kill", 500.0, 5000.0, plus_watchdog=False)
        made = Runner(self.undo, self.journal, timeout_s=0.01, settle_s=0.0)  # type: ignore[arg-type]
        return made.run(experiment, target)

    def kernel_restart(self, ready_ms: float = 200.0, pid: str = "1") -> None:
        for at_ms, message_id in ((2, journal.EXITED), (5, journal.STARTING), (ready_ms, journal.STARTED)):
            self.journal.systemd(at_ms, message_id, KERNEL.unit, pid)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with UndoJournal(tmp_path / "undo.jsonl") as undo:
        yield Bench(undo, monkeypatch)


def test_a_kernel_that_comes_back_in_time_passes(bench: Bench) -> None:
    bench.kernel_restart()
    row = bench.run(KERNEL)
    assert (row.passed, row.detected_ms, row.healed_ms, row.boot_ms) == (True, 2.0, 200.0, 195.0)
    assert (bench.fault.injected, bench.fault.reverted) == (1, 1)
    assert bench.undo.pending() == []


def test_a_kernel_that_comes_back_late_fails(bench: Bench) -> None:
    bench.kernel_restart(ready_ms=500.5)
    row = bench.run(KERNEL)
    assert (row.passed, row.error) == (False, "")


def test_what_happened_before_the_fault_proves_nothing(bench: Bench) -> None:
    bench.kernel_restart()
    for record in bench.journal.records:
        record["__MONOTONIC_TIMESTAMP"] = str(FAULT_US - 1)
    assert "no evidence" in bench.run(KERNEL).error


def test_words_that_systemd_did_not_say_prove_nothing(bench: Bench) -> None:
    bench.kernel_restart(pid="4711")
    assert "no evidence" in bench.run(KERNEL).error


def test_the_same_process_as_before_was_never_killed(bench: Bench) -> None:
    bench.kernel_restart()
    bench.pids = [10]
    assert "new process" in bench.run(KERNEL).error


def test_the_incident_that_heals_counts_not_the_one_that_is_noted(bench: Bench) -> None:
    bench.journal.incident(-50, journal.INCIDENT_OPENED, "incident_0")
    bench.journal.incident(10, journal.INCIDENT_OPENED, "incident_2")
    bench.journal.incident(12, journal.INCIDENT_OPENED, "incident_1")
    bench.journal.incident(20, journal.INCIDENT_CLOSED, "incident_0", "healed")
    bench.journal.incident(30, journal.INCIDENT_CLOSED, "incident_2", "observed")
    bench.journal.incident(250, journal.INCIDENT_CLOSED, "incident_1", "healed")
    row = bench.run(NGINX)
    assert (row.passed, row.incident, row.detected_ms, row.healed_ms) == (True, "incident_1", 12.0, 250.0)
    assert row.by == "restart-unit, verification/1"


@pytest.mark.parametrize(
    ("change", "said"),
    [({"outcome": "failed"}, "ended failed"), ({"verified_by": None}, "explain"), ({"id": "incident_9"}, "not list")],
)
def test_a_heal_without_outcome_or_verifier_fails(bench: Bench, change: dict[str, Any], said: str) -> None:
    bench.journal.incident(10, journal.INCIDENT_OPENED, "incident_1")
    bench.journal.incident(90, journal.INCIDENT_CLOSED, "incident_1", "healed")
    bench.listed |= change
    row = bench.run(NGINX)
    assert said in row.error
    assert not row.passed


def test_a_closed_incident_of_a_unit_that_does_not_serve_fails(bench: Bench) -> None:
    bench.journal.incident(10, journal.INCIDENT_OPENED, "incident_1")
    bench.journal.incident(90, journal.INCIDENT_CLOSED, "incident_1", "healed")
    bench.serves = False
    assert "does not serve" in bench.run(NGINX).error


@pytest.mark.parametrize("restarts", [True, False])
def test_a_start_by_systemd_is_a_heal_only_where_the_unit_says_restart(bench: Bench, *, restarts: bool) -> None:
    bench.restarts = restarts
    for at_ms, message_id in ((2, journal.EXITED), (5, journal.STARTING), (90, journal.STARTED)):
        bench.journal.systemd(at_ms, message_id, UNIT)
    row = bench.run(NGINX)
    assert row.passed is restarts
    assert ("no evidence" in row.error) is not restarts


def test_nothing_is_broken_without_a_steady_state(bench: Bench) -> None:
    bench.steady = False
    row = bench.run(KERNEL)
    assert "no steady state" in row.error
    assert bench.fault.injected == 0


def test_a_fault_that_cannot_be_undone_stays_in_the_journal_and_both_errors_are_told(bench: Bench) -> None:
    bench.fault.undoable = False
    row = bench.run(KERNEL)
    assert "no evidence" in row.error
    assert "could not be undone" in row.error
    assert [entry["unit"] for entry in bench.undo.pending()] == [KERNEL.unit]
    with pytest.raises(ChaosError, match="could not be undone"):
        probes.rollback(bench.undo)
    bench.fault.undoable = True
    assert probes.rollback(bench.undo) == [f"rolled back kill on {KERNEL.unit}"]
    assert bench.undo.pending() == []
