"""Held plans: the same answer is no news, a changed one wakes the task, and what is gone is forgotten."""

from __future__ import annotations

import pytest

from graced.policy.decide import Plan
from graced.runtime.waiting import LOOK_SECONDS, LOST_SECONDS, MAX_PLANS, TELL_AGAIN_SECONDS, Waiting

PLAN = Plan("task_1", "a.service", "a", "pd", "restart", "bd", (0, 1), "low", 2, "unit.failed", "brain", "intent_1")
HOLD = ("hold", "site.night", 0, False)
ALLOW = ("allow", "default.safe", 0, False)


class Kernel:
    """A loop with a clock that is turned by hand, and a bus."""

    def __init__(self):
        self.loop, self.s, self.timers, self.published = self, 100.0, [], []
        self.answers = {}
        self.waiting = Waiting(self, self.look)

    def now_s(self):
        return self.s

    def call_later(self, delay_s, function):
        self.timers.append((self.s + delay_s, function))

    def spawn(self, coroutine):
        with pytest.raises(StopIteration):
            coroutine.send(None)

    def publish(self, topic, data, subject=None, intent_id=None):
        self.published.append((topic, data["task_id"]))

    async def look(self):
        return lambda plan: self.answers.get(plan, HOLD)

    def run(self, seconds):
        until_s = self.s + seconds
        while due := [one for one in self.timers if one[0] <= until_s]:
            self.timers.remove(due[0])
            self.s = due[0][0]
            due[0][1]()
        self.s = until_s

    def hold(self, plan=PLAN, answer=HOLD, number=None):
        self.waiting.note(plan, answer, number, held=answer[0] == "hold")


@pytest.fixture
def kernel():
    return Kernel()


def test_news_is_another_answer_or_another_request(kernel):
    assert kernel.waiting.is_news(PLAN, HOLD, None)
    kernel.hold()
    assert not kernel.waiting.is_news(PLAN, HOLD, None)
    assert kernel.waiting.is_news(PLAN, HOLD, "approval_1")
    assert kernel.waiting.is_news(PLAN, ALLOW, None)
    assert kernel.waiting.is_news(PLAN.replace(steps=(0,)), HOLD, None)
    kernel.waiting.forget(PLAN)
    assert kernel.waiting.is_news(PLAN, HOLD, None)


def test_who_waits_is_told_when_the_answer_changes_and_again_until_he_asks(kernel):
    kernel.hold()
    kernel.run(10 * LOOK_SECONDS)
    assert kernel.published == []
    kernel.answers[PLAN] = ALLOW
    kernel.run(LOOK_SECONDS)
    assert kernel.published == [("governance.decision", "task_1")]
    kernel.run(TELL_AGAIN_SECONDS - LOOK_SECONDS)
    assert len(kernel.published) == 1
    kernel.run(LOOK_SECONDS)
    assert len(kernel.published) == 2
    kernel.waiting.forget(PLAN)
    kernel.run(10 * TELL_AGAIN_SECONDS)
    assert len(kernel.published) == 2


def test_with_nobody_waiting_nothing_is_looked_at(kernel):
    kernel.hold(answer=("deny", "breaker", 0, False))
    assert (kernel.timers, kernel.waiting.held) == ([], [])
    kernel.hold()
    assert len(kernel.timers) == 1
    kernel.hold(PLAN.replace(task_id="task_2"))
    assert len(kernel.timers) == 1


def test_a_task_that_is_gone_is_forgotten_and_there_are_never_too_many(kernel):
    kernel.hold()
    kernel.answers[PLAN] = ALLOW
    kernel.run(LOST_SECONDS + 2 * LOOK_SECONDS)
    assert (kernel.waiting.held, kernel.timers) == ([], [])
    for number in range(MAX_PLANS + 5):
        kernel.hold(PLAN.replace(task_id=f"task_{number}"))
    assert len(kernel.waiting.held) == MAX_PLANS
    assert kernel.waiting.is_news(PLAN.replace(task_id="task_0"), HOLD, None)


def test_after_a_start_all_are_told(kernel):
    kernel.waiting.tell_all()
    assert kernel.published == [("governance.decision", None)]
