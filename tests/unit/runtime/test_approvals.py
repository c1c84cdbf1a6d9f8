"""Requests for approval on disk: found again by the exact plan, used once, over a restart, and never too many."""

from __future__ import annotations

import pytest

from graced.base.clock import ManualClock
from graced.base.errors import PolicyError
from graced.policy.decide import Decision, Plan
from graced.runtime.approvals import MAX_OPEN, Approvals
from graced.store.governance import MAX_APPROVALS, GovernanceStore

PLAN = Plan("task_1", "a.service", "a", "pd", "restart", "bd", (0, 1), "low", 2, "unit.failed", "brain", "intent_1")
HELD = Decision("hold", "ask", "why", 60.0, 2)


class Desk:
    def __init__(self, path):
        self.path = str(path / "governance.db")
        self.clock = ManualClock(1_000_000)
        self.store = None
        self.start()

    def start(self, boot="boot"):
        if self.store is not None:
            self.store.close()
        self.store = GovernanceStore(self.path)
        self.all = Approvals(self.store, self.clock, self.clock.boottime_us, boot)

    def states(self):
        return [one["state"] for one in self.all.listed("p", everything=True)]


@pytest.fixture
def desk(tmp_path):
    one = Desk(tmp_path)
    yield one
    one.store.close()


def test_the_same_plan_has_one_request_and_a_changed_one_another(desk):
    assert desk.all.open(PLAN, "p", HELD, 60)[1] is True
    assert desk.all.open(PLAN, "p", HELD, 60)[1] is False
    assert desk.all.open(PLAN.replace(task_id="task_2"), "p", HELD, 60)[0].number == 2
    assert desk.all.open(PLAN, "q", HELD, 60)[0].number == 3
    desk.all.put_word(1, 1000, None, "p")
    assert desk.all.sanction(PLAN, "p").uids == (1000,)
    assert desk.all.sanction(PLAN, "q").uids == ()


def test_words_survive_a_restart_and_end_with_the_boot(desk):
    desk.all.open(PLAN, "p", HELD, 60)
    desk.all.put_word(1, 1000, None, "p")
    desk.start()
    assert desk.all.sanction(PLAN, "p").uids == (1000,)
    with pytest.raises(PolicyError):
        desk.all.put_word(1, 1000, None, "p")
    desk.start("another boot")
    assert desk.all.sanction(PLAN, "p").uids == ()
    assert desk.states() == ["expired"]
    assert desk.all.open(PLAN, "p", HELD, 60)[0].number == 2


def test_it_ends_with_its_time(desk):
    desk.all.open(PLAN, "p", HELD, 60)
    desk.clock.advance_us(59_999_999)
    assert desk.states() == ["open"]
    desk.clock.advance_us(1)
    with pytest.raises(PolicyError):
        desk.all.put_word(1, 1000, None, "p")
    assert desk.all.listed("p", everything=False) == []


def test_a_granted_one_is_spent_once_and_can_be_given_back(desk):
    desk.all.open(PLAN, "p", HELD, 60)
    for uid in (1000, 1001):
        desk.all.put_word(1, uid, None, "p")
    spent = desk.all.spend(PLAN, "p")
    assert desk.states() == ["used"] and desk.all.spend(PLAN, "p") is None
    desk.all.give_back(spent)
    desk.start()
    assert desk.all.sanction(PLAN, "p").uids == (1000, 1001)
    desk.all.spend(PLAN, "p")
    desk.start()
    assert desk.all.sanction(PLAN, "p").uids == ()


def test_when_the_rules_ask_more_or_less_than_at_first_no_word_is_lost_or_used_twice(desk):
    desk.all.open(PLAN, "p", HELD.replace(approvals=1), 60)
    assert desk.all.put_word(1, 1000, None, "p").state == "granted"
    asked, new = desk.all.open(PLAN, "p", HELD, 60)
    assert (asked.state, asked.needed, new) == ("open", 2, False)
    assert desk.all.put_word(1, 1001, None, "p").state == "granted"
    other = PLAN.replace(task_id="task_2")
    desk.all.open(other, "p", HELD, 60)
    desk.all.put_word(2, 1000, None, "p")
    # The plan was allowed after all, with the one word there was.
    desk.all.spend(other, "p")
    assert desk.all.sanction(other, "p").uids == ()
    third = PLAN.replace(task_id="task_3")
    desk.all.open(third, "p", HELD, 60)
    desk.all.spend(third, "p")
    assert desk.states() == ["granted", "used", "expired"]


def test_the_oldest_go_and_numbers_are_never_used_again(desk):
    for number in range(MAX_APPROVALS + 3):
        desk.all.open(PLAN.replace(task_id=f"task_{number}"), "p", HELD, 60)
    assert len(desk.states()) == MAX_APPROVALS
    assert desk.all.sanction(PLAN.replace(task_id="task_0"), "p").uids == ()
    desk.start()
    assert len(desk.states()) == MAX_APPROVALS
    assert desk.all.open(PLAN, "p", HELD, 60)[0].number == MAX_APPROVALS + 4
    with pytest.raises(PolicyError):
        desk.all.get(1)


def test_whoever_asks_for_too_many_pushes_none_out(desk):
    for number in range(MAX_OPEN):
        plan = PLAN.replace(task_id=f"task_{number}")
        assert not desk.all.is_full(plan, "p")
        desk.all.open(plan, "p", HELD, 60)
    more = PLAN.replace(task_id="task_more")
    assert desk.all.is_full(more, "p")
    assert not desk.all.is_full(PLAN, "p")
    desk.all.put_word(7, 1000, "no", "p")
    assert not desk.all.is_full(more, "p")
    desk.all.open(more, "p", HELD, 60)
    desk.clock.advance_us(60_000_000)
    assert not desk.all.is_full(PLAN.replace(task_id="task_0b"), "p")


def test_under_another_policy_it_waits_for_nobody_and_comes_back_with_the_former(desk):
    desk.all.open(PLAN, "p", HELD, 60)
    desk.all.put_word(1, 1000, None, "p")
    assert desk.all.listed("q", everything=False) == []
    assert [one["state"] for one in desk.all.listed("q", everything=True)] == ["expired"]
    for denied in (None, "no"):
        with pytest.raises(PolicyError) as caught:
            desk.all.put_word(1, 1001, denied, "q")
        assert caught.value.code == "not-open"
    assert desk.all.put_word(1, 1001, None, "p").state == "granted"
