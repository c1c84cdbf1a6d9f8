"""What the experiment files may call, and nothing else: PROBES, ACTIONS and ROLLBACKS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chaos.faults import config, kill, stop
from chaos.shell import ChaosError, gracectl
from chaos.targets import Target, broken, find

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from chaos.undo import UndoJournal

FAULTS: dict[str, ModuleType] = {module.NAME: module for module in (kill, stop, config)}


def serves(unit: str) -> bool:
    """Active and answering."""
    return find(unit).serves()


def healthy() -> bool:
    """Whether graced itself says that it is healthy and has nothing left to heal."""
    status = gracectl("status")
    return bool(status["overall"] == "healthy" and status["open_incidents"] == 0)


def inject(journal: UndoJournal, fault: str, target: Target) -> Fault:
    """Note the undo, then break it. A fault that is half made is undone before the error leaves."""
    made = Fault(journal, fault, target)
    try:
        made.inject()
    except BaseException:
        made.revert()
        raise
    return made


def rollback(journal: UndoJournal) -> list[str]:
    """Undo every fault the journal has pending; sentences about what was done. ChaosError names what could not be."""
    told, problems = [], []
    for entry in journal.pending():
        try:
            if not fault_named(entry["fault"]).revert(broken(entry["unit"]), entry["undo"]):
                raise ChaosError(f"systemctl status {entry['unit']}")
        except (ChaosError, OSError) as error:
            problems.append(f"{entry['fault']} on {entry['unit']} could not be undone: {error}")
        else:
            journal.end(entry["id"])
            told.append(f"rolled back {entry['fault']} on {entry['unit']}")
    if problems:
        raise ChaosError("; ".join(told + problems))
    journal.forget()
    return told


class Fault:
    """One fault on one target, from its undo record to its end."""

    def __init__(self, journal: UndoJournal, name: str, target: Target) -> None:
        module = fault_named(name)
        self.target = target
        self.undo: dict[str, Any] = module.prepare(target)
        self.pid = target.main_pid()
        self.stamp_us = 0
        self._module = module
        self._journal = journal
        self._entry = journal.begin(name, target.unit, self.undo)

    def inject(self) -> None:
        """Break it now; `stamp_us` is the moment, CLOCK_MONOTONIC."""
        self.stamp_us = self._module.inject(self.target, self.undo)

    def revert(self) -> None:
        """Take back what is left of it. ChaosError when that fails: the journal keeps it for the next start."""
        if not self._module.revert(self.target, self.undo):
            raise ChaosError(f"the fault could not be undone: systemctl status {self.target.unit}")
        self._journal.end(self._entry)


def fault_named(name: str) -> Any:
    """The fault module of a name. ChaosError with the known ones."""
    if name not in FAULTS:
        raise ChaosError(f"{name} is not a fault; there are: {', '.join(FAULTS)}")
    return FAULTS[name]


PROBES: dict[str, Callable[..., bool]] = {"serves": serves, "healthy": healthy}
ACTIONS: dict[str, Callable[..., Any]] = {"inject": inject}
ROLLBACKS: dict[str, Callable[..., Any]] = {"rollback": rollback}
