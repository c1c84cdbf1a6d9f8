"""How heals of each unit went, and the tier that leaves it; a person who mended the cause may say so.

Used by the Governance kernel only.
"""

from __future__ import annotations

from graced.base.errors import FormatError, PolicyError
from graced.base.log import NOTICE, WARNING
from graced.base.messages import UNIT_RESET
from graced.model import event
from graced.policy.limits import SECOND_US, effective_tier, forgiven, with_outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.policy.limits import UnitHistory
    from graced.runtime.kernel import Kernel
    from graced.runtime.policies import Policies
    from graced.runtime.scribe import Scribe
    from graced.runtime.standing import Standing

OUTCOMES = {"healed": True, "success": True, "failed": False, "held": None, "refused": None, "observed": None}


class Conduct:
    """Joins the units' histories to the watches, the ledger, the bus and the journal."""

    def __init__(self, kernel: Kernel, standing: Standing, policies: Policies, scribe: Scribe) -> None:
        self._kernel = kernel
        self._standing = standing
        self._policies = policies
        self._scribe = scribe

    def outcome(self, task_id: str, unit: str, playbook: str, outcome: str) -> int:
        """Note what became of a warranted plan; the unit's tier now. Raises FormatError for an unknown word."""
        if outcome not in OUTCOMES:
            raise FormatError(f"outcome: {outcome!r} is not one of {', '.join(OUTCOMES)}", path="outcome")
        history = self._standing.history(unit)
        if history.open_task != task_id:
            # A playbook that only looks, or an answer that came twice: it says nothing about the unit.
            return self._tier(history)
        limits, now_us = self._policies.rules.limits, self._standing.age_us()
        before = self._tier(history)
        history = with_outcome(history, playbook, helped=OUTCOMES[outcome], limits=limits, now_us=now_us)
        self._standing.put(history)
        tier = self._tier(history)
        if tier < before:
            text = f"{history.failures} futile heals of {unit}: its tier is {tier} now"
            self._kernel.log(WARNING, text, GRACED_UNIT=unit)
        return tier

    async def reset(self, unit: str, uid: int, reason: str) -> JsonDict:
        """Forget the futile heals of an adopted unit, in the ledger before it counts.

        What it has had in the last hour still counts: those bounds keep the host, not the unit. Raises PolicyError for
        a unit that is not adopted, GracedError when it cannot be recorded.
        """
        if all(unit != adopted for adopted, _profile, _tier in self._policies.adopted()):
            raise PolicyError(f"{unit} is not adopted", code="not-adopted")
        before = self._standing.history(unit)
        data: JsonDict = {"reset": unit, "by_uid": uid, "reason": reason, "failures": before.failures}
        data["tier"] = self._tier(before)
        await self._scribe.append("decision", data, {"unit": unit})
        # What was decided meanwhile stays.
        history = forgiven(self._standing.history(unit))
        self._standing.put(history)
        self._kernel.publish(event.DECISION, data, subject=unit)
        tier = self._tier(history)
        self._kernel.log(
            NOTICE,
            f"{before.failures} futile heals of {unit} are forgotten, its tier is {tier}, by uid {uid}: "
            f"{reason or 'no reason given'}",
            UNIT_RESET,
            UNIT=unit,
            GRACED_UID=uid,
        )
        return {"tier": tier, "failures": before.failures}

    def listed(self) -> list[JsonDict]:
        """Every adopted unit with its tier, what failures took of it, and its heals in the last hour."""
        hour_ago_us = self._standing.age_us() - 3600 * SECOND_US
        units: list[JsonDict] = []
        for unit, profile, tier in self._policies.adopted():
            history = self._standing.history(unit)
            units.append(
                {
                    "unit": unit,
                    "profile": profile,
                    "tier": self._tier(history),
                    "adopted_tier": tier,
                    "failures": history.failures,
                    "breaker": history.failures >= self._policies.rules.limits.breaker_failures,
                    "heals_last_hour": sum(at_us > hour_ago_us for at_us, _name in history.acts),
                }
            )
        return units

    def _tier(self, history: UnitHistory) -> int:
        for unit, _profile, tier in self._policies.adopted():
            if unit == history.unit:
                return effective_tier(history, tier, self._policies.rules.limits, self._standing.age_us())
        return 0
