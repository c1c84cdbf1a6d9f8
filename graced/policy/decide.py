"""May this plan run? Rules, the unit's tier, its past, and whether people asked for quiet: one answer with reasons.

Deny beats hold, hold beats allow, and without a reason to allow the answer is deny. Pure; used by Governance.
"""

from __future__ import annotations

from graced.base.record import Record
from graced.policy.approval import Sanction
from graced.policy.limits import Refusal, UnitHistory, check, effective_tier
from graced.policy.match import Facts
from graced.policy.rules import ALLOW, DENY, HOLD, NO_RULE, Rule, Ruling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from graced.policy.rules import RuleSet

APPROVAL_TIER = 4
TIER_APPROVAL = "tier.approval"
APPROVAL_DENIED = "approval.denied"
SHADOW = "shadow"
HOLD_RETRY_SECONDS = 600.0
"""Until a person, a rule or a window lets it go on; whoever waits is told when that happens, so this only bounds it."""


class Plan(Record):
    """What Healing wants to do. It names things and never carries commands."""

    task_id: str
    unit: str
    profile: str
    profile_digest: str
    playbook: str
    playbook_digest: str
    steps: tuple[int, ...]
    risk: str
    tier: int
    finding: str
    origin: str
    intent_id: str | None = None


class Pause(Record):
    """Somebody asked for quiet. `left_seconds` None means until resumed."""

    by_uid: int
    reason: str
    left_seconds: float | None


class Known(Record):
    """What Governance itself knows about the plan's names, read from root's files; None where there is nothing.

    `watch_tier` and `watch_profile` are the admin's, `profile_digest` and `profile_playbooks` of the profile in
    use, and the `playbook_*` fields of the playbook in use.
    """

    watch_tier: int | None = None
    watch_profile: str = ""
    profile_digest: str = ""
    profile_playbooks: tuple[str, ...] = ()
    playbook_digest: str = ""
    playbook_tier: int = APPROVAL_TIER
    playbook_risk: str = "high"
    playbook_triggers: tuple[str, ...] = ()
    playbook_step_count: int = 0
    playbook_limits: tuple[float, float] = (0, 0.0)
    playbook_verbs: tuple[str, ...] = ()


class Moment(Record):
    """What is true now, apart from the plan. `now_us` is the age clock of limits.py, `minute` that of the UTC day;
    `host` and the windows as in Facts.
    """

    now_us: int
    minute: int
    host: tuple[str, ...] = ()
    open_windows: tuple[str, ...] = ()
    unclear_windows: tuple[str, ...] = ()


class Decision(Record):
    """The answer. `rule` is the id of the rule, or the word of the built-in check, that decided.

    `approvals` is how many people's approval would lift this hold, 0 when that is not what it waits for.
    """

    effect: str
    rule: str
    reason: str
    retry_after_seconds: float | None = None
    approvals: int = 0


NOBODY = Sanction()


def decide(
    plan: Plan,
    known: Known,
    rules: RuleSet,
    history: UnitHistory,
    others: Sequence[UnitHistory],
    pause: Pause | None,
    moment: Moment,
    sanction: Sanction = NOBODY,
) -> Decision:
    """The decision on a plan; `sanction` is what people have said about exactly this one."""
    now_us = moment.now_us
    against = facts_against(plan, known)
    if known.watch_tier is not None and not against:
        against += _tier_against(
            plan, known.watch_tier, effective_tier(history, known.watch_tier, rules.limits, now_us)
        )
    ruling = rules.rule_on(facts_of(plan, known, moment))
    needed = approvals_needed(plan, ruling)
    if ruling.rule is None:
        against.append(Refusal(DENY, NO_RULE, f"no rule allows {plan.playbook} on {plan.unit}"))
    elif ruling.effect != ALLOW and ruling.asked_by is None:
        retry = HOLD_RETRY_SECONDS if ruling.effect == HOLD else None
        against.append(Refusal(ruling.effect, ruling.rule.id, ruling.rule.reason, retry))
    if needed:
        against += _approval_against(plan, ruling.asked_by, needed, sanction)
    if pause is not None:
        against.append(_paused(pause))
    limits = int(known.playbook_limits[0]), known.playbook_limits[1]
    against += check(history, others, plan.playbook, limits, rules.limits, now_us, acts=acts(plan), groups=rules.groups)
    if against:
        decision = _strongest(against)
        waits = needed if decision.effect == HOLD and len(sanction.uids) < needed else 0
        return decision.replace(approvals=waits) if waits else decision
    assert ruling.rule is not None
    by = f"; approved by {_people(sanction.uids)}" if needed else ""
    return Decision(ALLOW, ruling.rule.id, ruling.rule.reason + by)


def facts_of(plan: Plan, known: Known, moment: Moment) -> Facts:
    """What the rules look at. A step that the playbook does not have is denied elsewhere and has no verb here."""
    verbs = known.playbook_verbs
    return Facts(
        plan.unit,
        plan.playbook,
        plan.finding,
        plan.risk,
        plan.origin,
        plan.tier,
        moment.minute,
        tuple([verbs[step] for step in plan.steps if 0 <= step < len(verbs)]),
        moment.host,
        moment.open_windows,
        moment.unclear_windows,
    )


def approvals_needed(plan: Plan, ruling: Ruling) -> int:
    """How many different people have to approve: what the rules ask, and at least one from tier 4 up."""
    own = 1 if plan.tier >= APPROVAL_TIER and ruling.rule is not None and ruling.rule.effect == ALLOW else 0
    return max(ruling.approvals, own)


def _approval_against(plan: Plan, asked_by: Rule | None, needed: int, sanction: Sanction) -> list[Refusal]:
    if sanction.denied_by is not None:
        why = f": {sanction.reason}" if sanction.reason else ""
        return [Refusal(DENY, APPROVAL_DENIED, f"uid {sanction.denied_by} denied {plan.playbook}{why}")]
    given = len(sanction.uids)
    if given >= needed:
        return []
    rule, reason = TIER_APPROVAL, f"{plan.playbook} has tier {plan.tier}"
    if asked_by is not None:
        rule, reason = asked_by.id, asked_by.reason
    return [Refusal(HOLD, rule, f"{reason}: {given} of {needed} approvals are there", HOLD_RETRY_SECONDS)]


def _people(uids: Sequence[int]) -> str:
    return ", ".join(f"uid {uid}" for uid in uids)


def acts(plan: Plan) -> bool:
    """Whether the plan may change the host: from tier 2 up."""
    return plan.tier > 1


def facts_against(plan: Plan, known: Known) -> list[Refusal]:
    """What is wrong with the plan by itself: names, digests, steps and claims that do not hold."""
    if known.watch_tier is None:
        return [Refusal(DENY, "not-adopted", f"{plan.unit} is not adopted: it is observed only")]
    found = []
    if plan.profile != known.watch_profile:
        found.append(f"{plan.unit} was adopted with profile {known.watch_profile}, not {plan.profile}")
    elif not known.profile_digest or plan.profile_digest != known.profile_digest:
        found.append(f"the profile {plan.profile} is not the one in use")
    elif plan.playbook not in known.profile_playbooks:
        found.append(f"the profile {plan.profile} does not name the playbook {plan.playbook}")
    if not known.playbook_digest or plan.playbook_digest != known.playbook_digest:
        found.append(f"the playbook {plan.playbook} is not the one in use")
    elif (plan.tier, plan.risk) != (known.playbook_tier, known.playbook_risk):
        found.append(f"{plan.playbook} has tier {known.playbook_tier} and risk {known.playbook_risk}")
    elif not _are_steps(plan.steps, known.playbook_step_count):
        found.append(f"{plan.playbook} has steps 0 to {known.playbook_step_count - 1}")
    elif plan.finding not in known.playbook_triggers and plan.origin == "brain":
        found.append(f"{plan.playbook} is not for {plan.finding}")
    return [Refusal(DENY, "plan", reason) for reason in found]


def _are_steps(steps: Sequence[int], count: int) -> bool:
    return bool(steps) and list(steps) == sorted(set(steps)) and steps[0] >= 0 and steps[-1] < count


def _tier_against(plan: Plan, watch_tier: int, tier: int) -> list[Refusal]:
    if plan.tier > watch_tier:
        return [
            Refusal(DENY, "tier", f"{plan.playbook} needs tier {plan.tier}, {plan.unit} is adopted with {watch_tier}")
        ]
    if plan.tier > tier:
        return [
            Refusal(
                DENY, "tier.lowered", f"{plan.playbook} needs tier {plan.tier}; failures lowered {plan.unit} to {tier}"
            )
        ]
    return []


def _paused(pause: Pause) -> Refusal:
    left = pause.left_seconds
    until = "until gracectl resume" if left is None else f"for another {left:.0f} s"
    why = f": {pause.reason}" if pause.reason else ""
    retry = HOLD_RETRY_SECONDS if left is None else min(max(left, 1.0), HOLD_RETRY_SECONDS)
    return Refusal(HOLD, "paused", f"paused by uid {pause.by_uid} {until}{why}", retry)


def _strongest(against: Sequence[Refusal]) -> Decision:
    denials = [one for one in against if one.effect == DENY]
    chosen = denials or list(against)
    waits = [one.retry_after_seconds for one in chosen if one.retry_after_seconds is not None]
    retry = max(waits) if len(waits) == len(chosen) else None
    return Decision(chosen[0].effect, chosen[0].rule, "; ".join(one.reason for one in chosen), retry)
