"""start.slow: the last start took clearly longer than the unit's learned starts. A warning: nothing is healed."""

from __future__ import annotations

from graced.heal.checks.facts import CLEAR, FOUND, UNKNOWN, Judgement, UnitFacts
from graced.model.finding import START_SLOW, Finding


def judge(facts: UnitFacts) -> Judgement:
    """See graced.heal.checks.facts. The limit must be of the starts before this one."""
    start_ms, limit_ms = facts.state.start_ms, facts.start_limit_ms
    if start_ms is None:
        return Judgement(START_SLOW, UNKNOWN, "not up")
    if limit_ms is None:
        return Judgement(START_SLOW, UNKNOWN, "too few starts to know what is normal")
    if start_ms <= limit_ms:
        return Judgement(START_SLOW, CLEAR, f"started in {start_ms:.0f} ms, normal is up to {limit_ms:.0f} ms")
    return Judgement(
        START_SLOW,
        FOUND,
        finding=Finding(
            unit=facts.state.unit,
            kind=START_SLOW,
            severity="low",
            value=round(start_ms, 3),
            threshold=round(limit_ms, 3),
            profile=facts.profile,
            healable=False,
            fault_monotonic_us=facts.state.active_enter_us or None,
            detected_monotonic_us=facts.now_us,
            evidence={"start_ms": round(start_ms, 3), "median_ms": facts.start_median_ms},
        ),
    )
