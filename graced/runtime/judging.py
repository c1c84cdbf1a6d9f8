"""A plan against everything Governance knows: files, histories, pause, people's words, the moment. Nothing is changed.

Used by the Governance kernel only.
"""

from __future__ import annotations

from graced.policy.decide import Decision, decide, facts_of
from graced.policy.recorded import inputs
from graced.policy.rules import DENY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.policy.decide import Moment, Plan
    from graced.runtime.approvals import Approvals
    from graced.runtime.policies import Policies
    from graced.runtime.standing import Standing


class Judging:
    """Joins the policy engine to what it asks for."""

    def __init__(self, standing: Standing, policies: Policies, approvals: Approvals) -> None:
        self._standing = standing
        self._policies = policies
        self._approvals = approvals

    def judge(self, plan: Plan, moment: Moment) -> Decision:
        """The decision, nothing counted or recorded. The files are those of `moment`, which was taken just now."""
        policies, standing = self._policies, self._standing
        if policies.unusable:
            return Decision(DENY, "policy-unusable", f"a policy file cannot be used: {policies.unusable}")
        known, history = policies.known(plan), standing.history(plan.unit)
        sanction = self._approvals.sanction(plan, policies.rules.digest)
        others = standing.others(plan.unit)
        return decide(plan, known, policies.rules, history, others, standing.pause, moment, sanction)

    def seen(self, plan: Plan, moment: Moment) -> JsonDict:
        """What the rules looked at and said, for the record and for replay."""
        policies = self._policies
        facts = facts_of(plan, policies.known(plan), moment)
        ruling = policies.rules.rule_on(facts)
        asked = ruling.asked_by or ruling.rule
        rules = {"effect": ruling.effect, "rule": asked.id if asked else None, "approvals": ruling.approvals}
        return {"facts": facts.to_json(), "rules": rules}

    def inputs(self, plan: Plan, moment: Moment) -> JsonDict:
        """All that `judge` looks at, for replay; empty when that is too much for the record."""
        standing, sanction = self._standing, self._approvals.sanction(plan, self._policies.rules.digest)
        known, history = self._policies.known(plan), standing.history(plan.unit)
        found = inputs(known, history, standing.others(plan.unit), standing.pause, moment, sanction)
        return {} if found is None else {"inputs": found}
