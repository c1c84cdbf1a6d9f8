"""A heal that was held goes on when people, a rule or a window let it; what others say about it changes nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from graced.base.errors import TaskError
from graced.brain.brain import Change
from graced.model.event import DECISION, Event
from graced.supervisor.loops import Loops


class Store:
    def lessons(self):
        return []

    incidents = lessons

    def next_number(self):
        return 1


class Kernel:
    def __init__(self):
        self.htm = self
        self.clock, self.boot_id = None, "boot"
        self.hurried, self.logged, self.counted, self.reset = [], [], [], []

    def hurry(self, task_id, reason):
        if task_id == "task_404":
            raise TaskError("there is no task_404", code="no-such-task")
        self.hurried.append((task_id, reason))

    def log(self, _priority, message, *_more, **_fields):
        self.logged.append(message)

    def count(self, name):
        self.counted.append(name)


def tell(incidents=(), **data):
    kernel = Kernel()
    loops = Loops(kernel, Store())
    loops.brain = SimpleNamespace(open_incidents=incidents, on_reset=lambda unit: kernel.reset.append(unit) or Change())
    loops.on_event(Event("1", "/graced/governance", DECISION, "2026-11-22T15:04:05Z", data))
    return kernel


@pytest.mark.parametrize("state", ["granted", "denied"])
def test_the_task_goes_on(state):
    kernel = tell(approval="approval_7", state=state, task_id="task_9")
    assert kernel.hurried == [("task_9", f"approval_7 is {state}")]


def test_one_of_two_people_is_not_enough():
    assert tell(approval="approval_7", state="open", task_id="task_9").hurried == []


def test_a_task_that_is_gone_is_said_and_malformed_data_is_counted():
    assert tell(approval="approval_7", state="granted", task_id="task_404").logged
    assert tell(approval="approval_7", state="granted").counted == ["graced_malformed_events_total"]


def test_one_that_may_ask_again_does_and_after_a_start_all_that_are_held():
    assert tell(ask_again=True, task_id="task_9").hurried == [("task_9", "what held it has changed")]
    held, running, new = (
        SimpleNamespace(outcome=outcome, task_id=task_id, unit="nginx.service")
        for outcome, task_id in (("held", "task_1"), ("open", "task_2"), ("held", None))
    )
    assert tell([held, running, new], ask_again=True, task_id=None).hurried == [("task_1", "Governance has started")]
    assert tell([held], paused=False).hurried == [("task_1", "resumed")]
    assert tell([held], paused=True).hurried == []
    assert tell([held], effect="hold", rule="x").hurried == []


def test_a_reset_is_for_one_unit():
    one, other = (SimpleNamespace(outcome="held", task_id=f"task_{unit}", unit=unit) for unit in ("a", "b"))
    kernel = tell([one, other], reset="a", by_uid=0)
    assert (kernel.reset, kernel.hurried) == (["a"], [("task_a", "a was reset")])
    assert tell([one], reset=7).counted == ["graced_malformed_events_total"]
