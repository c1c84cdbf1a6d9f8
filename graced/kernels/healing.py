"""Self-Healing: finding → playbook → warrant → actuator → verdict → result, with undo when it is not better.

Takes leases of handler "heal" from the HTM and runs each heal as its own coroutine, so one unit's slow repair never
holds up another's. It holds no right of its own: Governance decides, the actuator acts, Verification judges.
"""

from __future__ import annotations

from graced.base.clock import boot_id
from graced.base.config import Option
from graced.base.errors import FormatError, GracedError, WireError
from graced.base.json import (
    get_dict,
    get_int,
    get_str,
    opt_bool,
    opt_float,
    opt_list,
    opt_str,
)
from graced.base.log import NOTICE, WARNING
from graced.base.messages import HEAL_HELD
from graced.base.words import counted
from graced.heal.attempt import Heal, plan, serves
from graced.runtime.kernel import Kernel, kernel_main
from graced.runtime.links import Stream
from graced.runtime.peer import READ
from graced.runtime.service import Call, Interface
from graced.varlink.wire import VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.config import Config
    from graced.base.json import JsonDict
    from graced.heal.playbook import Playbook
    from graced.heal.profile import Profile
    from graced.heal.select import Candidate

OPTIONS = (
    Option("healing", "concurrent_heals", "int", 4, "Heals of different units that may run at once", low=1, high=64),
    Option("healing", "act_timeout_seconds", "duration_s", 60.0, "Longest time one playbook may take", low=5, high=900),
)
HEARTBEAT_SECONDS = 10.0
DEFER_SECONDS = 5.0
MAX_HELD = 256
UNHEALABLE = frozenset({"admin-stopped", "not-adopted", "masked", "denied-unit", "same-edit-again"})


class _Held(Exception):  # not an error: the heal waits
    def __init__(self, reason: str, retry_after_seconds: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class HealingInterface(Interface):
    """io.graced.Healing."""

    name = "io.graced.Healing"
    acl = {"Active": READ, "Plan": READ}

    def __init__(self, kernel: HealingKernel) -> None:
        self._kernel = kernel

    def Active(self, _call: Call) -> JsonDict:
        return {
            "heals": [
                {"task_id": heal.task_id, "unit": heal.unit, "finding": heal.finding, "step": heal.step}
                for heal in self._kernel.heals.values()
            ]
        }

    async def Plan(self, call: Call) -> JsonDict:
        lease: JsonDict = {
            "task_id": "task_0",
            "attempt": 0,
            "context": {"unit": get_str(call.parameters, "unit"), "finding": get_str(call.parameters, "finding")},
        }
        candidates, rejected = await self._kernel.candidates(Heal(lease))
        fits = [{"playbook": one.playbook.name, "fits": True, "reason": one.reason} for one in candidates]
        others = [{"playbook": name, "fits": False, "reason": reason} for name, reason in rejected.items()]
        return {"candidates": fits + others}


class HealingKernel(Kernel):
    """Wires the HTM, Code, Governance, the actuator and Verification together."""

    name = "healing"
    options = OPTIONS

    def __init__(self) -> None:
        super().__init__()
        self.heals: dict[str, Heal] = {}
        self._healed = 0
        self._boot_id = boot_id()
        self._worker = f"healing-{self.clock.boottime_us():x}"
        self._work: Stream | None = None
        self._last = ""
        self._held: dict[str, str] = {}

    def interfaces(self) -> list[Interface]:
        return [HealingInterface(self)]

    def started(self) -> None:
        self._work = Stream(
            self.loop,
            self.paths.socket("io.graced.HTM"),
            "io.graced.HTM.Work",
            lambda: {"handler": "heal", "worker": self._worker, "credits": self.config["concurrent_heals"]},
            self._on_lease,
        )
        self._work.start()
        self.every(HEARTBEAT_SECONDS, self._heartbeat)

    def reload(self, config: Config) -> None:
        """Options apply from the next heal on."""

    def drain(self) -> None:
        # The lease follows the stream: it stays open until the heals under way have reported.
        return

    def drained(self) -> bool:
        return not self.heals

    def status(self) -> str:
        if self.heals:
            return "Healing " + ", ".join(f"{heal.unit} ({heal.step})" for heal in self.heals.values())
        if self._work is None or not self._work.connected:
            return "Waiting for the task manager" + (f": {self._work.last_error}" if self._work else "")
        return f"Ready, {self._healed} healed since start{self._last}"

    def _heartbeat(self) -> None:
        if self.heals:
            self.loop.spawn(self._beat())

    async def _beat(self) -> None:
        try:
            await self.call("io.graced.HTM.Heartbeat", {"worker": self._worker})
        except GracedError as error:
            self.log(WARNING, f"heartbeat failed: {error}")

    def _on_lease(self, item: JsonDict) -> None:
        lease = item.get("lease")
        if not isinstance(lease, dict):
            return
        running = self.heals.get(str(lease.get("task_id")))
        if running is not None:
            # The first lease ended with its stream, and the heal goes on: two at once would be in each other's way.
            running.again = lease
        elif not self.stopping:
            self.loop.spawn(self._run(lease))

    async def _run(self, lease: JsonDict) -> None:
        try:
            heal = Heal(lease, self._boot_id)
        except FormatError as error:
            task = {"task_id": get_str(lease, "task_id", "lease"), "attempt": get_int(lease, "attempt", "lease")}
            await self._tell("Fail", {**task, "error": error.message, "retry": False})
            return
        self.heals[heal.task_id] = heal
        try:
            await self._report(heal, *await self._ended(heal))
        finally:
            del self.heals[heal.task_id]
        if heal.again is not None:
            self._on_lease({"lease": heal.again})

    async def _ended(self, heal: Heal) -> tuple[str, JsonDict]:
        """How the heal ended: a verb of the task manager, and what to tell it."""
        try:
            result = await self._heal(heal)
        except _Held as held:
            self.count("graced_heals_held_total")
            self._say_held(heal, held.reason)
            return "Defer", {"delay_seconds": held.retry_after_seconds, "reason": held.reason}
        except GracedError as error:
            self.log(WARNING, f"heal of {heal.unit} failed at {heal.step}: {error}", GRACED_TASK_ID=heal.task_id)
            return "Fail", {"error": f"{heal.step}: {error}", "retry": True}
        self._note(heal, result)
        return "Complete", {"result": result}

    async def _report(self, heal: Heal, verb: str, ended: JsonDict) -> None:
        """What was done for a lease that is lost is the answer to the next one of the same task, too."""
        attempt = heal.attempt
        while not await self._tell(verb, {"task_id": heal.task_id, "attempt": attempt, **ended}):
            if heal.again is None:
                return
            attempt, heal.again = get_int(heal.again, "attempt", "lease"), None

    def _say_held(self, heal: Heal, reason: str) -> None:
        """Once for each reason; how long something will yet take makes no other one."""
        words = "".join(char for char in reason if not char.isdigit())
        if self._held.pop(heal.task_id, None) != words:
            told = {"UNIT": heal.unit, "GRACED_TASK_ID": heal.task_id}
            self.log(NOTICE, f"heal of {heal.unit} waits: {reason}", HEAL_HELD, **told)
        self._held[heal.task_id] = words
        if len(self._held) > MAX_HELD:
            del self._held[next(iter(self._held))]

    def _note(self, heal: Heal, result: JsonDict) -> None:
        if result["status"] == "success":
            self._healed += 1
            self._last = f", last {heal.unit} by {result.get('playbook') or 'itself'}"

    async def _tell(self, verb: str, parameters: JsonDict) -> bool:
        """Whether the task manager took it."""
        try:
            await self.call(f"io.graced.HTM.{verb}", parameters, timeout_s=5.0)
        except GracedError as error:
            # The task manager gives the task out again when its lease ends: nothing is lost.
            self.log(WARNING, f"{verb} of {parameters['task_id']} was not taken: {error}")
            return False
        return True

    async def candidates(self, heal: Heal) -> tuple[list[Candidate], dict[str, str]]:
        """The playbooks to try in order; those that do not fit, with why. GracedError when facts are missing."""
        from graced.heal.select import candidates, rejected

        playbooks, profile = await self._catalogue(heal)
        heal.step = "observing"
        observed, digest = await self.loop.gather(
            self.call("io.graced.Verification.Observe", {"unit": heal.unit}, timeout_s=5.0),
            self.call("io.graced.Actuator.Digest", {"unit": heal.unit}, timeout_s=5.0),
        )
        heal.before = get_dict(observed, "observation")
        files = get_dict(digest, "digest")
        unit_state = opt_str(heal.before, "active_state") or "unknown"
        restorable = files.get("lkg") is not None
        facts = (heal.finding, unit_state, await self._config_state(heal, files), playbooks, profile)
        return candidates(*facts, heal.proven, restorable=restorable), rejected(*facts, restorable=restorable)

    async def _config_state(self, heal: Heal, digest: JsonDict) -> str:
        """One of playbook.CONFIG_STATES. The validator runs only when the answer hangs on it."""
        from graced.heal.playbook import (
            CONFIG_EDITED,
            CONFIG_IS_DAMAGED,
            CONFIG_IS_INVALID,
            CONFIG_SAME,
            CONFIG_UNKNOWN,
        )

        if digest.get("damaged") is True:
            return CONFIG_IS_DAMAGED
        if digest.get("lkg") is None:
            return CONFIG_UNKNOWN
        if digest.get("changed") is not True:
            return CONFIG_SAME
        heal.step = "trying the configuration"
        trial = await self.call("io.graced.Actuator.Trial", {"unit": heal.unit}, timeout_s=20.0)
        valid = opt_bool(trial, "valid")
        return CONFIG_IS_INVALID if valid is False else CONFIG_EDITED

    async def _catalogue(self, heal: Heal) -> tuple[list[Playbook], Profile]:
        from graced.heal.playbook import parse_playbook
        from graced.heal.profile import parse_profile
        from graced.heal.watch import parse_watch

        files, profiles, watches = await self.loop.gather(
            *(self.call("io.graced.Code.List", {"kind": kind}) for kind in ("playbook", "profile", "watch"))
        )
        if not heal.profile_name:
            for one in watches["files"]:
                watch = parse_watch(one["name"], one["content"])
                if watch.unit == heal.unit:
                    heal.profile_name = watch.profile
        found = [one for one in profiles["files"] if one["name"] == heal.profile_name]
        if not found:
            raise VarlinkError("io.graced.Healing.NoSuchUnit", {"unit": heal.unit}, hint="gracectl adopt it first")
        profile = parse_profile(found[0]["name"], found[0]["content"], digest=found[0]["digest"])
        playbooks = [parse_playbook(one["name"], one["content"], digest=one["digest"]) for one in files["files"]]
        return playbooks, profile

    async def _heal(self, heal: Heal) -> JsonDict:
        candidates, rejected = await self.candidates(heal)
        if heal.finding != "config.damaged" and serves(heal.before):
            verdict = await self._verify(heal, self.clock.monotonic_us())
            if verdict["verdict"].get("healthy") is True:
                return heal.result(
                    "success", verdict=verdict["verdict"], verified_by=_signer(verdict), reason="recovered by itself"
                )
        refused = None
        for candidate in candidates:
            done = await self._try(heal, candidate)
            if done is not None:
                return done
            last = heal.tried[-1]
            if last["helped"] is None:
                refused = last["reason"]
        acted = any(one["helped"] is not None for one in heal.tried)
        if acted:
            return heal.result(
                "failed", reason=f"tried {counted(len(heal.tried), 'playbook')}, none helped: a human is needed"
            )
        return heal.result("refused", reason=refused or f"no playbook fits: {_join(rejected)}")

    async def _try(self, heal: Heal, candidate: Candidate) -> JsonDict | None:
        playbook, why = candidate.playbook, candidate.reason
        heal.step = f"asking for {playbook.name}"
        decision = await self.call(
            "io.graced.Governance.Decide", {"plan": plan(heal, candidate.profile, playbook)}, timeout_s=5.0
        )
        effect, reason = get_str(decision, "effect"), get_str(decision, "reason")
        if effect == "hold":
            raise _Held(reason, opt_float(decision, "retry_after_seconds") or DEFER_SECONDS)
        if get_str(decision, "rule") == "shadow":
            heal.tell(playbook.name, helped=None, reason=reason)
            return heal.result("refused", reason=reason)
        if effect != "allow":
            heal.tell(playbook.name, helped=None, reason=reason)
            return None
        heal.step = f"running {playbook.name}"
        since_us = self.clock.monotonic_us()
        act = await self._execute(heal, playbook, decision)
        if isinstance(act, str):
            if act in UNHEALABLE:
                return heal.result("refused", reason=heal.tried[-1]["reason"])
            return None
        act_id = get_str(act, "act_id")
        heal.step = f"verifying {playbook.name}"
        verdict = await self._verify(heal, since_us)
        if verdict["verdict"].get("healthy") is True:
            heal.tell(playbook.name, helped=True, reason=why, act_id=act_id)
            await self._outcome(heal, playbook.name, "healed")
            return heal.result(
                "success",
                verdict=verdict["verdict"],
                verified_by=_signer(verdict),
                playbook=playbook.name,
                reason=why,
                lasting_seconds=playbook.limits.lasting_seconds,
            )
        reasons = "; ".join(opt_list(verdict["verdict"], "reasons") or []) or "it is not better"
        if playbook.undo and verdict["verdict"].get("better") is not True:
            heal.step = f"undoing {playbook.name}"
            await self.call("io.graced.Actuator.Rollback", {"act_id": act_id, "reason": reasons}, timeout_s=30.0)
            reasons += "; undone"
        heal.tell(playbook.name, helped=False, reason=reasons, act_id=act_id)
        await self._outcome(heal, playbook.name, "failed")
        return None

    async def _execute(self, heal: Heal, playbook: Playbook, decision: JsonDict) -> JsonDict | str:
        """The act, or the word of a refusal that the next playbook may get around."""
        warrant = {key: decision[key] for key in ("warrant", "kid", "signature")}
        try:
            reply = await self.call("io.graced.Actuator.Execute", warrant, self.config["act_timeout_seconds"])
        except VarlinkError as error:
            if error.name == "Held":
                raise _Held(
                    f"{error.parameters.get('reason')}: {error.parameters.get('holder')}",
                    float(error.parameters.get("retry_after_seconds", DEFER_SECONDS)),
                ) from error
            if error.name == "Refused":
                word = str(error.parameters.get("reason"))
                heal.tell(playbook.name, helped=None, reason=f"{word}: {error.parameters.get('detail')}")
                return word
            if error.name == "Failed":
                heal.tell(playbook.name, helped=False, reason=str(error), act_id=error.parameters.get("act_id"))
                await self._outcome(heal, playbook.name, "failed")
                return "failed"
            raise
        return get_dict(reply, "act")

    async def _verify(self, heal: Heal, since_us: int) -> JsonDict:
        parameters = {
            "task_id": heal.task_id,
            "intent_id": heal.intent_id,
            "unit": heal.unit,
            "before": heal.before,
            "since_monotonic_us": since_us,
        }
        return await self.call("io.graced.Verification.Verify", parameters, timeout_s=60.0)

    async def _outcome(self, heal: Heal, playbook: str, outcome: str) -> None:
        parameters = {"task_id": heal.task_id, "unit": heal.unit, "playbook": playbook, "outcome": outcome}
        try:
            await self.call("io.graced.Governance.Outcome", parameters)
        except WireError as error:
            self.log(WARNING, f"Governance did not hear of the outcome: {error}", GRACED_TASK_ID=heal.task_id)


def _join(rejected: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in rejected.items()) or "the profile names none"


def _signer(verdict: JsonDict) -> str:
    return f"verification/{verdict.get('kid')}"


main = kernel_main(HealingKernel)
