"""unit.failed: systemd gave up on a unit, and no person asked for it to be down.

The admin wins: a stop job, a mask, a host on its way down, and every doubt about them make it no finding. A unit
that ended by itself with success is down by intent of its own.
"""

from __future__ import annotations

from graced.heal.checks.facts import BY_ADMIN, BY_FAULT, CLEAR, FOUND, UNKNOWN, Judgement, UnitFacts
from graced.model.finding import UNIT_FAILED, Finding

# CLD_EXITED, CLD_KILLED, CLD_DUMPED of waitid(2), as systemd reports ExecMainCode.
_ENDS = {1: "exited", 2: "killed", 3: "dumped"}


def judge(facts: UnitFacts) -> Judgement:
    """See graced.heal.checks.facts."""
    state = facts.state
    if state.load_state in {"masked", "not-found"}:
        return Judgement(UNIT_FAILED, CLEAR, f"the unit is {state.load_state}")
    if state.active_state != "failed":
        active = state.active
        if active is None:
            return Judgement(UNIT_FAILED, UNKNOWN, f"the unit is {state.active_state or 'in an unknown state'}")
        if not active and facts.down_by == BY_FAULT and facts.changed_lately:
            return Judgement(UNIT_FAILED, UNKNOWN, "its failure was just reset")
        return Judgement(UNIT_FAILED, CLEAR, f"the unit is {state.active_state}")
    if facts.down_by == BY_ADMIN:
        return Judgement(UNIT_FAILED, CLEAR, "a stop job took it down: an admin's will")
    not_yet = _not_yet(facts)
    if not_yet:
        return Judgement(UNIT_FAILED, UNKNOWN, not_yet)
    return Judgement(
        UNIT_FAILED,
        FOUND,
        finding=Finding(
            unit=state.unit,
            kind=UNIT_FAILED,
            severity="high" if facts.adopted else "medium",
            value=state.result,
            threshold="active",
            profile=facts.profile,
            healable=facts.adopted,
            fault_monotonic_us=state.fault_us,
            detected_monotonic_us=facts.now_us,
            evidence={
                "result": state.result,
                "sub_state": state.sub_state,
                "restarts": state.n_restarts,
                "main_process": _ENDS.get(state.exec_main_code),
                "main_status": state.exec_main_status,
                "invocation_id": state.invocation_id or None,
            },
        ),
    )


def _not_yet(facts: UnitFacts) -> str:
    """Why a failed unit is not judged now; empty when it can be."""
    if facts.hung_open and facts.changed_lately:
        return "it hung and was killed: the open finding covers that"
    if facts.host_leaving:
        return "the host is going down"
    if facts.state.job:
        return "systemd has a job queued for it"
    if facts.down_by != BY_FAULT:
        return "cannot be told from an admin's stop yet"
    return "systemd may restart it by itself" if facts.restart_is_due else ""
