"""Everything an act needs, opened once: the unit manager, the verbs, trials, and the durable stores below
$STATE.
"""

from __future__ import annotations

from graced.actuator import restore
from graced.actuator.configs import owners_of
from graced.actuator.lkg import GoodStore, make_directories
from graced.actuator.steps import RUBBISH_GRACE_S, Verbs
from graced.actuator.trial import Trials
from graced.actuator.undo import DONE, UndoJournal, new_act_id
from graced.actuator.units import Units
from graced.actuator.warrant import Nonces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.actuator.configs import Examined
    from graced.actuator.safeopen import Owners
    from graced.actuator.trial import Outcome, Recipe
    from graced.actuator.undo import UndoRecord
    from graced.actuator.units import UnitState
    from graced.base.clock import Clock
    from graced.runtime.loop import Loop

TRIAL_HOLDS_US = 30_000_000
_START_LIMIT_S = 30.0


class Host:
    """The actuator's hands and memory. `state_dir` and `rejected_dir` are directories only root can enter."""

    new_act_id = staticmethod(new_act_id)

    def __init__(self, loop: Loop, clock: Clock, state_dir: str, rejected_dir: str, boot_id: str) -> None:
        make_directories(state_dir)
        self.loop = loop
        self.clock = clock
        self.boot_id = boot_id
        self.rejected_dir = rejected_dir
        self.units = Units(loop)
        self.verbs = Verbs(loop, self.units)
        self.good = GoodStore(f"{state_dir}/lkg")
        self.undo = UndoJournal(f"{state_dir}/acts")
        self.edits = restore.Edits(f"{state_dir}/edits.json", boot_id)
        self.nonces = Nonces(f"{state_dir}/nonces", boot_id, clock.boottime_us())
        self._trials = Trials(loop, self.units)
        self._tried: dict[str, tuple[str, int, Outcome]] = {}

    async def trial(self, unit: str, recipe: Recipe, examined: list[Examined]) -> Outcome:
        """The validator's answer on the set as examined; asked once per set and half a minute.

        An answer is kept only while it is one: "could not be decided" is asked again.
        """
        print_ = restore.fingerprint(examined)
        now_us = self.clock.monotonic_us()
        known = self._tried.get(unit)
        if known is not None and known[0] == print_ and now_us - known[1] < TRIAL_HOLDS_US:
            return known[2]
        outcome = await self._trials.run(unit, recipe)
        if outcome.valid is not None:
            self._tried[unit] = (print_, now_us, outcome)
        return outcome

    async def owners(self, unit: str) -> Owners:
        """The unit's own account, as trusted for its config directories."""
        return owners_of(*await self.units.values(unit, "User", "Group"))

    async def recover(self, record: UndoRecord) -> list[str]:
        """Finish an act that was cut off: its files, then the unit if it was left down. Sentences about
        the rest.
        """
        problems = self.undo.finish_files(record)
        state = await self.units.state(record.unit)
        if record.changes and state.job_kind == "restart" and state.active_state == "deactivating":
            # The act's own restart, of a daemon that ran on what was just replaced and may never stop.
            await self.loop.sleep(RUBBISH_GRACE_S)
            await self.verbs.kill_if_stuck(record.unit)
        elif not state.job and state.load_state == "loaded" and _left_down(record, state):
            await self.units.reset_failed(record.unit)
            result = await self.units.job("StartUnit", record.unit, _START_LIMIT_S)
            if result != "done":
                problems.append(f"starting {record.unit}: {result}")
        self.undo.close(record, DONE, {**record.act, "recovered": True, "problems": problems})
        return problems


def _left_down(record: UndoRecord, state: UnitState) -> bool:
    """Whether the act found the unit down or took it down; a clean stop of a running one was somebody else's."""
    if state.active_state == "failed":
        return True
    return state.active_state == "inactive" and record.act.get("unit_state") in {"failed", "activating"}
