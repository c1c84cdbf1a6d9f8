"""Approvals: so many different people, one use, an end; whatever changes in plan or policy needs a new one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import FormatError, PolicyError
from graced.policy.approval import Request, current, digest_of, grant, number_of, refuse, use
from graced.policy.decide import Plan

PLAN = Plan("task_1", "a.service", "a", "pd", "restart", "bd", (0, 1), "low", 2, "unit.failed", "brain", "intent_1")
REQUEST = Request(7, "d", "p", {}, "ask", "why", 2, "2026-11-22T20:00:00Z", 1000, "boot")


def test_two_different_people_then_one_use():
    one = grant(REQUEST, 1000)
    assert (one.state, one.sanction.uids) == ("open", (1000,))
    with pytest.raises(PolicyError) as caught:
        grant(one, 1000)
    assert caught.value.code == "same-person"
    both = grant(one, 1001)
    assert both.state == "granted"
    used = use(both)
    for again in (use, lambda request: grant(request, 1002), lambda request: refuse(request, 1002, "late")):
        with pytest.raises(PolicyError):
            again(used)


def test_a_denial_ends_it_also_after_an_approval():
    denied = refuse(grant(REQUEST, 1000), 1001, "no")
    assert (denied.state, denied.sanction.denied_by, denied.sanction.reason) == ("denied", 1001, "no")
    with pytest.raises(PolicyError):
        grant(denied, 1002)
    assert refuse(grant(grant(REQUEST, 1), 2), 3, "").state == "denied"


def test_it_ends_with_its_time_and_with_the_boot():
    granted = grant(grant(REQUEST, 1), 2)
    assert current(granted, 999, "boot") == granted
    assert current(granted, 1000, "boot").state == "expired"
    assert current(granted, 0, "other").state == "expired"
    assert current(use(granted), 5000, "other").state == "used"
    with pytest.raises(PolicyError):
        use(current(granted, 1000, "boot"))


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": "task_2"},
        {"unit": "b.service"},
        {"profile_digest": "x"},
        {"playbook": "x"},
        {"playbook_digest": "x"},
        {"steps": (0,)},
        {"tier": 3},
        {"origin": "human"},
        {"finding": "unit.hung"},
    ],
)
def test_a_changed_plan_or_policy_is_another(change):
    assert digest_of(PLAN, "p") == digest_of(PLAN.replace(), "p")
    assert digest_of(PLAN.replace(**change), "p") != digest_of(PLAN, "p")
    assert digest_of(PLAN, "q") != digest_of(PLAN, "p")


acts = st.lists(st.tuples(st.sampled_from(["grant", "refuse", "use"]), st.integers(1, 4)), max_size=12)


@given(acts, st.integers(1, 3))
def test_no_order_of_acts_uses_it_without_enough_people_or_after_a_denial(steps, needed):
    request, people, uses = REQUEST.replace(needed=needed), set(), 0
    for act, uid in steps:
        try:
            if act == "grant":
                request = grant(request, uid)
                people.add(uid)
            elif act == "refuse":
                request = refuse(request, uid, "")
            else:
                request = use(request)
                uses += 1
                assert len(people) >= needed
                assert request.denied_by is None
        except PolicyError:
            continue
    assert uses <= 1
    assert set(request.grants) == people and len(request.grants) == len(people)


def test_ids():
    assert (number_of("approval_7"), number_of("7"), REQUEST.id) == (7, 7, "approval_7")
    for wrong in ("", "approval_", "task_7", "-1", "7x", "9" * 16):
        with pytest.raises(FormatError):
            number_of(wrong)


def test_it_survives_its_own_json():
    request = grant(REQUEST, 5)
    assert Request.from_json(request.to_json()) == request
