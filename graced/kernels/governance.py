"""Governance: policy rules, autonomy tiers, limits, pauses, and the signature without which nothing acts.

Every decision is in the ledger, and what it costs (rates, breaker, tiers) on disk, before it is answered. Whatever
cannot be read, checked, recorded or signed is never an "allow". Policies and watches are read again when their
files change, so `gracectl adopt` needs no reload.
"""

from __future__ import annotations

from graced.base.clock import boot_id
from graced.base.config import Option
from graced.base.errors import FormatError, GracedError, PolicyError
from graced.base.json import get_bool, get_dict, get_str, opt_bool, opt_int, opt_str
from graced.base.log import NOTICE, WARNING
from graced.base.messages import ACCESS_REFUSED, DECISION
from graced.model import event
from graced.policy.approval import number_of
from graced.policy.decide import SHADOW, Decision, Moment, Plan, acts
from graced.policy.limits import allowed
from graced.policy.rules import ALLOW, DENY, HOLD
from graced.runtime.approvals import Approvals
from graced.runtime.conduct import Conduct
from graced.runtime.desk import Desk
from graced.runtime.judging import Judging
from graced.runtime.kernel import Kernel, kernel_main
from graced.runtime.moments import Moments
from graced.runtime.peer import ADMIN, READ
from graced.runtime.policies import Policies
from graced.runtime.quiet import Quiet
from graced.runtime.scribe import Scribe
from graced.runtime.service import Call, Interface
from graced.runtime.signing import SigningKey, validity_option
from graced.runtime.standing import Standing
from graced.runtime.waiting import Waiting
from graced.trust.keys import GOVERNANCE
from graced.varlink.wire import VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.config import Config
    from graced.base.json import JsonDict
    from graced.policy.rules import RuleSet

OPTIONS = (
    Option("governance", "shadow", "bool", default=False, help="Decide and record, and let nothing act"),
    Option(
        "governance",
        "approval_seconds",
        "duration_s",
        3600.0,
        "How long a request for approval lasts",
        low=60,
        high=604_800,
    ),
)
LEDGER_RETRY_SECONDS = 2.0
FILES_AFTER_SECONDS = 0.4
# After the rush of a boot.
TELL_AFTER_SECONDS = 2.0
MAX_PAUSE_SECONDS = 365 * 86400
_ERRORS = {"no-such-approval": "NoSuchApproval", "not-open": "NotOpen", "same-person": "SamePerson"}


class GovernanceInterface(Interface):
    """io.graced.Governance."""

    name = "io.graced.Governance"
    acl = {
        "Approvals": READ,
        "Approve": frozenset({"admin"}),
        "Decide": frozenset({"healing"}),
        "Deny": frozenset({"admin"}),
        "Explain": READ,
        "Outcome": frozenset({"healing"}),
        "Pause": ADMIN,
        "Resume": ADMIN,
        "Reset": ADMIN,
        "RotateKey": ADMIN,
        "Shadow": ADMIN,
        "State": READ,
    }
    # An approval is a person's: root has no name.
    no_root = frozenset({"Approve", "Deny"})

    def __init__(self, kernel: GovernanceKernel) -> None:
        self._kernel = kernel

    async def Decide(self, call: Call) -> JsonDict:
        return await self._kernel.decide(_plan(call))

    async def Explain(self, call: Call) -> JsonDict:
        plan = _plan(call)
        moment = await self._kernel.moment()
        decision = self._kernel.judging.judge(plan, moment)
        return {
            "effect": decision.effect,
            "rule": decision.rule,
            "reason": decision.reason,
            "policy_digest": self._kernel.rules.digest,
            "approvals": decision.approvals,
            "shadow": self._kernel.shadow,
            **self._kernel.judging.seen(plan, moment),
        }

    def Outcome(self, call: Call) -> JsonDict:
        names = [get_str(call.parameters, name) for name in ("task_id", "unit", "playbook", "outcome")]
        return {"tier": self._kernel.conduct.outcome(*names)}

    async def Pause(self, call: Call) -> JsonDict:
        seconds = opt_int(call.parameters, "duration_seconds")
        if seconds is not None and not 1 <= seconds <= MAX_PAUSE_SECONDS:
            raise FormatError(f"duration_seconds: {seconds} is not within 1..{MAX_PAUSE_SECONDS}")
        return await self._kernel.quiet.pause(call.peer.uid, seconds, _reason(call))

    async def Reset(self, call: Call) -> JsonDict:
        unit = get_str(call.parameters, "unit")
        try:
            return await self._kernel.conduct.reset(unit, call.peer.uid, _reason(call))
        except PolicyError as error:
            raise VarlinkError(f"{self.name}.NotAdopted", {"unit": unit}) from error

    async def Resume(self, call: Call) -> JsonDict:
        return await self._kernel.quiet.resume(call.peer.uid)

    async def RotateKey(self, call: Call) -> JsonDict:
        return await self._kernel.key.rotate(call.peer.name, call.peer.uid, _reason(call))

    async def Shadow(self, call: Call) -> JsonDict:
        return await self._kernel.quiet.set_shadow(
            call.peer.uid, on=get_bool(call.parameters, "on"), reason=_reason(call)
        )

    def Approvals(self, call: Call) -> JsonDict:
        everything = opt_bool(call.parameters, "all") is True
        return {"approvals": self._kernel.approvals.listed(self._kernel.digest_now(), everything=everything)}

    async def Approve(self, call: Call) -> JsonDict:
        return await self._say(call, None)

    async def Deny(self, call: Call) -> JsonDict:
        return await self._say(call, _reason(call))

    async def _say(self, call: Call, denied: str | None) -> JsonDict:
        number = number_of(get_str(call.parameters, "id"))
        try:
            request = await self._kernel.desk.say(number, call.peer.uid, denied, self._kernel.digest_now())
        except PolicyError as error:
            uid, name = call.peer.uid, _ERRORS.get(error.code, "Unavailable")
            self._kernel.log(NOTICE, f"a word of uid {uid} does not count: {error}", ACCESS_REFUSED, GRACED_UID=uid)
            raise VarlinkError(f"{self.name}.{name}", {"reason": error.message}) from error
        return {"state": request.state, "needed": request.needed, "approved_by": list(request.grants)}

    def State(self, _call: Call) -> JsonDict:
        return self._kernel.state()


def _plan(call: Call) -> Plan:
    return Plan.from_json(get_dict(call.parameters, "plan"), "plan")


def _reason(call: Call) -> str:
    return (opt_str(call.parameters, "reason") or "")[:500]


class GovernanceKernel(Kernel):
    """Wires the policy engine to its files, its store, its key and the ledger."""

    name = "governance"
    options = (*OPTIONS, validity_option("governance"))

    def __init__(self) -> None:
        super().__init__()
        self._decisions = 0

    def setup(self) -> None:
        """Open the store and prove that the key signs; the files are read soon after READY."""
        state = self.paths.state(self.name)
        self.key = SigningKey(self, GOVERNANCE)
        boot = boot_id()
        self._scribe = Scribe(self, self.key, boot)
        self._standing = Standing(f"{state}/governance.db", self.clock, boot)
        self.approvals = Approvals(self._standing.store, self.clock, self._standing.age_us, boot)
        self._policies = Policies(self, f"{state}/last-good")
        self._moments = Moments(self)
        self.judging = Judging(self._standing, self._policies, self.approvals)
        self.conduct = Conduct(self, self._standing, self._policies, self._scribe)
        self.desk = Desk(self, self.approvals, self._scribe)
        self.quiet = Quiet(self, self._standing, self._scribe)
        self.waiting = Waiting(self, self._answers_now)

    def interfaces(self) -> list[Interface]:
        return [GovernanceInterface(self)]

    def started(self) -> None:
        self.key.start()
        # Whoever asks before that has them read; the start of the other daemons comes first.
        self.loop.call_later(FILES_AFTER_SECONDS, self._policies.refresh)
        self.loop.call_later(TELL_AFTER_SECONDS, self.waiting.tell_all)

    def reload(self, config: Config) -> None:
        """SIGHUP: read the files again."""
        self._policies.refresh(anyway=True)

    def close(self) -> None:
        self._standing.close()

    def status(self) -> str:
        pause = self._standing.pause
        if pause is not None:
            return f"Paused by uid {pause.by_uid}" + (f": {pause.reason}" if pause.reason else "")
        if self._policies.unusable:
            return f"Denying everything: {self._policies.unusable}"
        shadow = "In shadow: nothing acts. " if self.shadow else ""
        rules, adopted = len(self.rules.rules), len(self._policies.adopted())
        return f"{shadow}Adopted units: {adopted}, rules: {rules}, decisions since start: {self._decisions}"

    @property
    def rules(self) -> RuleSet:
        """The rules in force."""
        return self._policies.rules

    def digest_now(self) -> str:
        """The digest of the policies as they are on disk now."""
        self._policies.refresh()
        return self.rules.digest

    @property
    def shadow(self) -> bool:
        """Whether everything is decided and recorded and nothing acts."""
        return self.quiet.shadow

    async def moment(self) -> Moment:
        """What is true now, as far as the rules ask for it; the files are in force as they are on disk on return."""
        self._policies.refresh()
        rules = self.rules
        moment = await self._moments.now(rules, self._standing.age_us())
        if rules.calendars or rules.asks_host:
            # asking takes time, in which somebody may have written a rule
            self._policies.refresh()
        return moment

    def _answer(self, decision: Decision) -> tuple[object, ...]:
        # People are asked anew under another policy.
        asked_under = self.rules.digest if decision.approvals else ""
        return decision.effect, decision.rule, decision.approvals, self.shadow and decision.effect != DENY, asked_under

    async def _answers_now(self) -> Callable[[Plan], tuple[object, ...]]:
        moment = await self.moment()
        return lambda plan: self._answer(self.judging.judge(plan, moment))

    async def decide(self, plan: Plan) -> JsonDict:
        """The reply to Decide: decision, and for an allowed plan a signed warrant."""
        moment = await self.moment()
        decision = self.judging.judge(plan, moment)
        answer = self._answer(decision)
        data = self.judging.seen(plan, moment) | self.judging.inputs(plan, moment)
        if self.shadow and decision.effect != DENY:
            data["would"] = decision.to_json()
            reason = f"shadow: it would {decision.effect} ({decision.rule}: {decision.reason}); nothing is done"
            decision = Decision(DENY, SHADOW, reason)
        self._decisions += 1
        data |= {"plan": plan.to_json(), "policy_digest": self.rules.digest}
        signed: JsonDict = {}
        if decision.effect == ALLOW:
            self.waiting.forget(plan)
            decision, signed = await self._allow(plan, decision, data)
        else:
            decision = await self._not_allowed(plan, decision, answer, data)
        reply: JsonDict = {
            "effect": decision.effect,
            "rule": decision.rule,
            "reason": decision.reason,
            "policy_digest": data["policy_digest"],
        }
        if decision.retry_after_seconds is not None:
            reply["retry_after_seconds"] = decision.retry_after_seconds
        return reply | signed

    async def _allow(self, plan: Plan, decision: Decision, data: JsonDict) -> tuple[Decision, JsonDict]:
        """Spend what the plan costs and sign its warrant; without a ledger it is given back and the plan held."""
        spent = self.approvals.spend(plan, self.rules.digest)
        history, now_us = self._standing.history(plan.unit), self._standing.age_us()
        # What is judged from now on knows of it; it is on disk before the answer.
        self._standing.note(allowed(history, plan.playbook, plan.task_id, now_us, acts=acts(plan)))
        warrant = self._scribe.warrant(plan, decision, self.rules.digest)
        data |= decision.to_json()
        if spent is not None and spent.grants:
            data["approval"] = spent.id
        signed, problem = await self._record(plan, data, warrant, lambda: self._standing.keep(plan.unit))
        if problem:
            self._standing.give_back(plan.unit)
            if spent is not None:
                self.approvals.give_back(spent)
            decision = Decision(HOLD, "ledger", f"the ledger does not answer: {problem}", LEDGER_RETRY_SECONDS)
        # In the next turn: the answer does not wait for the journal and the bus.
        self.loop.call_soon(lambda: self._announce(plan, decision))
        return decision, signed

    async def _not_allowed(
        self, plan: Plan, decision: Decision, answer: tuple[object, ...], data: JsonDict
    ) -> Decision:
        """Held or denied: on the record when it is news."""
        if decision.approvals:
            asked = self.desk.ask(plan, decision, self.rules.digest, self.config["approval_seconds"])
            data["approval"] = asked.id if asked else None
        data |= decision.to_json()
        request = data.get("approval")
        if self.waiting.is_news(plan, answer, request):
            _signed, problem = await self._record(plan, data, None)
            self._announce(plan, decision)
            if problem:
                return decision
        self.waiting.note(plan, answer, request, held=decision.effect == HOLD)
        return decision

    async def _record(
        self, plan: Plan, data: JsonDict, warrant: JsonDict | None, meanwhile: Callable[[], object] | None = None
    ) -> tuple[JsonDict, str]:
        """What Scribe.record gives, or why it could not be recorded."""
        try:
            return await self._scribe.record(plan, data, warrant, meanwhile), ""
        except GracedError as error:
            self.log(WARNING, f"decision on {plan.unit} could not be recorded: {error}", GRACED_TASK_ID=plan.task_id)
            return {}, str(error)

    def _announce(self, plan: Plan, decision: Decision) -> None:
        data = {
            "task_id": plan.task_id,
            "unit": plan.unit,
            "playbook": plan.playbook,
            "finding": plan.finding,
            "tier": plan.tier,
            **decision.to_json(),
        }
        self.publish(event.DECISION, data, subject=plan.unit, intent_id=plan.intent_id)
        self.log(
            NOTICE,
            f"{decision.effect} {plan.playbook} on {plan.unit}: {decision.reason} ({decision.rule})",
            DECISION,
            GRACED_TASK_ID=plan.task_id,
            GRACED_UNIT=plan.unit,
            GRACED_PLAYBOOK=plan.playbook,
        )

    # State -------------------------------------------------------------------------------------------------

    def state(self) -> JsonDict:
        """The reply to State."""
        self._policies.refresh()
        pause, shadow = self._standing.pause, self._standing.shadow or {}
        return {
            "paused": pause is not None,
            "until_boottime_us": self._standing.paused_until_boottime_us,
            "paused_by": pause.by_uid if pause else None,
            "reason": pause.reason if pause else None,
            "policy_digest": self.rules.digest,
            "units": self.conduct.listed(),
            "shadow": self.shadow,
            "shadow_by": shadow.get("by_uid"),
            "shadow_reason": shadow.get("reason"),
            "approvals_open": len(self.approvals.listed(self.rules.digest, everything=False)),
            "held": len(self.waiting.held),
            "unusable": self._policies.unusable or None,
        }


main = kernel_main(GovernanceKernel)
