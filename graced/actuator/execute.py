"""One act from a checked warrant to its record: undo journal, steps, restore-config with its trials,
reports.

The act belongs to one unit; the caller holds that unit's place. The order never changes: write down,
then do. When a step fails the files go back to what they were, unless the restored set is what the
validator accepts.
"""

from __future__ import annotations

from graced.actuator import report, restore
from graced.actuator.configs import examine, is_damaged
from graced.actuator.holds import Held, Stopped, check_state
from graced.actuator.safeopen import ROOT_ONLY, UnsafePathError
from graced.actuator.steps import StepFailed
from graced.actuator.trial import Outcome, Recipe
from graced.actuator.undo import BEGUN, DONE, FAILED, UndoRecord
from graced.actuator.warrant import Refused
from graced.base.errors import GracedError, HostError
from graced.base.record import Record
from graced.base.words import counted
from graced.heal import damage
from graced.heal.playbook import RESTORE_CONFIG
from graced.heal.profile import VALIDATE_TRIAL_START

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.actuator.configs import Examined
    from graced.actuator.host import Host
    from graced.actuator.units import UnitState
    from graced.actuator.warrant import Warrant
    from graced.base.json import JsonDict
    from graced.heal.playbook import Playbook, Step
    from graced.heal.profile import Profile


class ActFailed(HostError):
    """An act ended early. `act` is its record, `step` the verb that failed."""

    code = "act-failed"

    def __init__(self, step: str, detail: str, act: JsonDict) -> None:
        super().__init__(f"{step}: {detail}")
        self.step = step
        self.detail = detail
        self.act = act


class Rejected(Record):
    """A file that was replaced: where it was, where it is kept, whose it was."""

    path: str
    kept: str
    uid: int
    reason: str


def recipe_of(profile: Profile) -> Recipe:
    """The profile's [validate] section as a trial wants it."""
    validate = profile.validate
    return Recipe(
        validate.method,
        validate.command,
        validate.as_unit,
        float(validate.timeout_seconds),
        float(validate.settle_ms),
        profile.config_paths[0] if profile.config_paths else "",
        validate.ready,
    )


class Act:
    """A running act."""

    def __init__(self, host: Host, warrant: Warrant, profile: Profile, playbook: Playbook, state: UnitState) -> None:
        self._host = host
        self._warrant = warrant
        self._profile = profile
        self._playbook = playbook
        self._state = state
        self._owners = ROOT_ONLY
        self._rejected: list[Rejected] = []
        self._restored = False
        self._rubbish = False
        self._record = UndoRecord(
            host.new_act_id(),
            warrant.unit,
            BEGUN,
            self._owners,
            (),
            warrant.to_json(),
            {"unit_state": state.active_state},
        )
        self.json: JsonDict = {
            "act_id": self._record.act_id,
            "unit": warrant.unit,
            "playbook": warrant.playbook,
            "task_id": warrant.task_id,
            "started_monotonic_us": host.clock.monotonic_us(),
            "finished_monotonic_us": 0,
            "steps": [],
            "undo": False,
            "rejected": [],
        }

    async def run(self) -> JsonDict:
        """Do every step; the act. Raises ActFailed, or Refused/Held when the first step may not begin."""
        for position, index in enumerate(self._warrant.steps):
            step = self._playbook.steps[index]
            try:
                await self._step(index, step)
            except (Refused, Held, Stopped) as error:
                if position == 0 and not self._restored:
                    self._close(FAILED)
                    raise
                self._fail(step.verb, error)
            except GracedError as error:
                self._fail(step.verb, error)
            except OSError as error:
                self._fail(step.verb, HostError(f"{error.filename or self._warrant.unit}: {error.strerror}"))
        self._close(DONE)
        self._tell()
        return self.json

    async def _step(self, index: int, step: Step) -> None:
        started_us = self._host.clock.monotonic_us()
        if not self.json["steps"]:
            self._host.undo.begin(self._record, {})
        detail, ok = "", False
        try:
            if step.verb == RESTORE_CONFIG:
                detail = await self._restore()
            else:
                await self._still_wanted()
                detail = await self._host.verbs.run(
                    step.verb, self._warrant.unit, step.timeout_seconds, rubbish=self._rubbish
                )
            ok = True
        except GracedError as error:
            detail = error.message
            raise
        finally:
            duration_ms = (self._host.clock.monotonic_us() - started_us) / 1000
            entry = {"index": index, "verb": step.verb, "ok": ok, "detail": detail, "duration_ms": duration_ms}
            self.json["steps"].append(entry)

    async def _still_wanted(self) -> None:
        state = await self._host.units.state(self._warrant.unit)
        if state.load_state == "masked":
            raise Stopped(f"{self._warrant.unit} was masked meanwhile", code="masked")
        if state.job_kind == "stop":
            raise Stopped(f"{self._warrant.unit} is being stopped by somebody", code="admin-stopped")
        if not self.json["steps"]:
            check_state(state, self._warrant.unit, self._playbook.preconditions.unit_states)

    async def _restore(self) -> str:
        host, unit = self._host, self._warrant.unit
        manifest = host.good.manifest(unit)
        if manifest is None:
            raise Refused("no-last-known-good", f"there is no copy of {unit}'s config: gracectl adopt {unit}")
        self._owners = await host.owners(unit)
        examined = examine(self._profile.config_paths, self._owners, manifest, host.good)
        if all(one.finding.state == damage.SAME for one in examined):
            return "the config is the last known good one already"
        recipe = recipe_of(self._profile)
        failed = self._state.active_state != "active"
        before = Outcome(None, "", 0.0)
        if restore.depends_on_validator(examined, unit_failed=failed):
            before = await host.trial(unit, recipe, examined)
        chosen = restore.choose(examined, valid=before.valid, unit_failed=failed)
        if not chosen:
            raise Refused("config-valid", f"{unit}'s config was edited and its validator accepts it")
        host.edits.check(unit, chosen, host.clock.boottime_us())
        self._put_back(chosen, before)
        self._rubbish = not failed and any(one.finding.harmful for one in chosen)
        examined = examine(self._profile.config_paths, self._owners, manifest, host.good)
        whole = all(one.finding.state == damage.SAME for one in examined)
        # The whole set passed when it was taken; where asking again means starting a second daemon and waiting,
        # the real start that follows is the better question.
        if not (whole and recipe.method == VALIDATE_TRIAL_START):
            after = await host.trial(unit, recipe, examined)
            if after.valid is False:
                raise StepFailed(f"the last known good config is refused too: {after.output}", code="lkg-invalid")
        self._restored = True
        return f"{counted(len(chosen), 'file')} put back, {len(self.json['rejected'])} kept"

    def _put_back(self, chosen: list[Examined], before: Outcome) -> None:
        host, unit = self._host, self._warrant.unit
        now_us = host.clock.wall_us()
        changes, contents = restore.changes_for(unit, chosen, host.good, host.rejected_dir, restore.stamp_of(now_us))
        self._record = self._record.replace(owners=self._owners, changes=tuple(changes))
        host.undo.begin(self._record, contents)
        self.json["undo"] = True
        self.json["rejected"] = restore.keep_rejected(changes, contents)
        restore.apply(changes, chosen, contents, self._owners)
        host.edits.note(unit, changes, host.clock.boottime_us())
        for one, change in zip(chosen, changes, strict=True):
            if change.rejected is not None and one.image is not None:
                reason = one.finding.reason if is_damaged(one) else before.output or one.finding.reason
                self._rejected.append(Rejected(one.path, change.rejected, one.image.uid, reason))

    def _fail(self, verb: str, error: GracedError) -> None:
        problems: list[str] = []
        if self._record.changes and not self._restored:
            problems = self._host.undo.undo_files(self._record)
        self._close(FAILED)
        if self._restored:
            self._tell()
        detail = "; ".join([error.message, *problems])
        raise ActFailed(verb, detail, self.json) from error

    def _close(self, state: str) -> None:
        self.json["finished_monotonic_us"] = self._host.clock.monotonic_us()
        self._host.undo.close(self._record, state, self.json)

    def _tell(self) -> None:
        unit = self._warrant.unit
        report.acted(unit, self.json)
        for one in self._rejected:
            report.rejected(unit, self.json, one.path, one.kept, one.reason)
            report.tell_editor(one.uid, f"graced: {one.path} was not accepted by {unit}; your file is {one.kept}")


def unsafe(error: UnsafePathError) -> Refused:
    """An unsafe path as the caller is told."""
    return Refused(f"unsafe-{error.fields['reason']}", error.message)
