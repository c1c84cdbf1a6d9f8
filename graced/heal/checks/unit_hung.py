"""unit.hung: systemd says running, yet the unit's own probe failed several times in a row."""

from __future__ import annotations

from graced.heal.checks.facts import CLEAR, FOUND, UNKNOWN, Judgement, UnitFacts
from graced.model.finding import UNIT_HUNG, Finding


def judge(facts: UnitFacts) -> Judgement:
    """See graced.heal.checks.facts. A unit that is not up cannot hang: then it is another check's matter."""
    state, probe = facts.state, facts.probe
    if state.active is not True:
        # A hang is cured by killing: being down right after it is a step of that.
        undecided = state.active is None or (facts.hung_open and facts.changed_lately)
        return Judgement(UNIT_HUNG, UNKNOWN if undecided else CLEAR, f"the unit is {state.active_state or 'unknown'}")
    if probe is None or probe.get("ok") is None:
        return Judgement(UNIT_HUNG, UNKNOWN, "not probed" if probe is None else f"cannot probe: {probe.get('error')}")
    if probe["ok"]:
        return Judgement(UNIT_HUNG, CLEAR, "the probe was answered")
    if facts.probe_failures < facts.probe_limit:
        return Judgement(UNIT_HUNG, UNKNOWN, f"{facts.probe_failures} of {facts.probe_limit} probes failed")
    if facts.state_is_old:
        # It may have failed or been stopped meanwhile: killing it is a cure for neither.
        return Judgement(UNIT_HUNG, UNKNOWN, "systemd cannot be heard now")
    if facts.host_leaving or state.job:
        return Judgement(UNIT_HUNG, UNKNOWN, "systemd is about to change it")
    return Judgement(
        UNIT_HUNG,
        FOUND,
        finding=Finding(
            unit=state.unit,
            kind=UNIT_HUNG,
            severity="high" if facts.adopted else "medium",
            value=str(probe.get("error")),
            threshold="answered",
            profile=facts.profile,
            healable=facts.adopted,
            # A hang leaves no stamp of its own: when it began is not known, only since when probes fail.
            fault_monotonic_us=None,
            detected_monotonic_us=facts.now_us,
            evidence={
                "probe": probe,
                "failing_since_monotonic_us": facts.hung_since_us,
                "failures": facts.probe_failures,
                "main_pid": state.main_pid,
                "sub_state": state.sub_state,
            },
        ),
    )
