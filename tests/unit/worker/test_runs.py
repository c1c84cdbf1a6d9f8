"""What ends mean, whose a lease is after a lost connection, and how long to wait for the supervisor."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import FormatError, WireError
from graced.varlink.wire import VarlinkError
from graced.worker.link import BACKOFF_MAX_SECONDS, backoff_seconds
from graced.worker.outcome import MAX_ERROR_CHARS, last_line, of_exception, of_return
from graced.worker.runs import Run, Runs, adopts, verdict
from graced.worker.task import Defer, Fail, Retry, Task, WaitForChildren

from .test_executable import lease


def failed(outcome):
    assert outcome.verb == "Fail"
    return outcome.parameters["error"], outcome.parameters["retry"]


def test_what_a_function_returns():
    assert of_return(None).parameters == {"result": {}}
    assert of_return({"a": 1}).verb == "Complete"
    assert failed(of_return([1])) == ("the function returned a list; a dict or None is needed", False)
    assert failed(of_return({"a": "x" * 70_000}))[1] is False
    assert failed(of_return({"a": {1, 2}}))[1] is False
    assert failed(of_return({"a": float("nan")}))[1] is False


def test_what_a_function_raises():
    assert failed(of_exception(ValueError("no\nluck"))) == ("ValueError: no luck", True)
    assert failed(of_exception(SystemExit(3))) == ("SystemExit: 3", True)
    assert failed(of_exception(Retry())) == ("to be tried again", True)
    assert failed(of_exception(Fail("no"))) == ("no", False)
    assert failed(of_exception(Retry("\ud800" + "x" * 9000)))[0] == "x" * MAX_ERROR_CHARS
    assert failed(of_exception(Fail("\ud800"))) == ("?", False)
    assert of_exception(WaitForChildren()).verb == "Wait"
    deferred = of_exception(Defer(3))
    assert (deferred.verb, deferred.parameters["delay_seconds"]) == ("Defer", 3.0)


def test_a_stopped_function_is_not_blamed_and_not_believed():
    assert of_return(None, stopped="why").parameters == {"delay_seconds": 0.0, "reason": "why"}
    assert of_return({}, stopped="why").verb == "Complete"
    assert of_exception(ValueError(), stopped="why").verb == "Defer"
    assert of_exception(Retry(), stopped="why").verb == "Defer"
    assert of_exception(Fail("x"), stopped="why").verb == "Fail"
    assert of_exception(WaitForChildren(), stopped="why").verb == "Wait"


@given(st.text())
def test_an_error_is_one_line(text):
    assert "\n" not in last_line(ValueError(text))


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_bounded(failures, draw):
    assert 0 <= backoff_seconds(failures, draw) <= BACKOFF_MAX_SECONDS


def a_run(attempt=2, lost=True):
    run = Run(Task(lease(attempt=attempt), lambda verb, parameters: {}))
    run.lost = lost
    return run


def test_only_the_very_next_lease_belongs_to_a_lost_run():
    assert adopts(a_run(), 3)
    assert not adopts(a_run(), 4)
    assert not adopts(a_run(lost=False), 3)
    run = a_run()
    run.task.cancel("x")
    assert not adopts(run, 3)


@pytest.mark.parametrize(
    ("state", "attempts", "worker", "over"),
    [
        ("queued", 2, None, False),
        ("waiting", 2, None, False),
        ("leased", 2, "me", False),
        ("leased", 3, "me", False),
        ("leased", 3, "you", True),
        ("leased", 4, "me", True),
        ("queued", 3, None, True),
        ("done", 2, None, True),
        ("cancelled", 2, None, True),
        ("dead", 3, None, True),
    ],
)
def test_when_a_lost_run_is_over(state, attempts, worker, over):
    assert bool(verdict(a_run(), {"state": state, "attempts": attempts, "worker": worker}, "me")) is over


class Control:
    """Answers in turn with what it was given: a reply, or an error to raise."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.said = []

    def call(self, verb, parameters):
        self.said.append((verb, parameters))
        answer = self.answers.pop(0) if self.answers else {}
        if isinstance(answer, Exception):
            raise answer
        return answer


def runs(control, function=lambda task: {}, limit=1):
    changed = threading.Semaphore(0)
    made = Runs(function, limit, "me", control, changed.release)
    return made, lambda: changed.acquire(timeout=60)


def error(name):
    return VarlinkError(f"io.graced.HTM.{name}", {})


@pytest.mark.parametrize("answer", [WireError("gone"), error("Unavailable"), error("Busy")])
def test_a_result_that_was_not_taken_is_said_again(answer):
    control = Control(answer, {})
    table, wait = runs(control)
    table.lease(lease())
    assert wait()
    while table.unsettled:
        table.settle_all()
    assert [verb for verb, _ in control.said] == ["Complete", "Complete"]
    assert (table.leased, table.running, table.ended) == (0, 0, 1)


def test_a_result_nobody_waits_for_is_dropped():
    control = Control(error("NotLeased"))
    table, wait = runs(control)
    table.lease(lease())
    assert wait()
    assert not table.unsettled
    assert table.leased == 0


def test_an_answer_that_is_refused_becomes_a_failure():
    control = Control(error("InvalidRequest"))
    table, wait = runs(control)
    table.lease(lease())
    assert wait()
    assert [verb for verb, _ in control.said] == ["Complete", "Fail"]
    assert control.said[1][1]["retry"] is False


def test_a_lease_that_is_none_is_refused():
    table, _ = runs(Control())
    with pytest.raises(FormatError, match=r"lease\.task_id"):
        table.lease({"attempt": 1})


def test_no_more_is_begun_after_refusal():
    control = Control()
    table, _ = runs(control)
    table.refuse("stopping")
    table.lease(lease())
    assert [verb for verb, _ in control.said] == ["Defer"]
    assert table.running == 0


def test_what_would_wait_for_a_lost_run_is_passed_on():
    finish = threading.Event()
    control = Control()
    table, wait = runs(control, lambda task: finish.wait(60) and {})
    table.lease(lease())
    table.lose()
    table.lease(lease(task_id="task_8"))
    assert table.leased == 1
    table.settle_all()
    assert [(verb, parameters["task_id"]) for verb, parameters in control.said] == [
        ("Get", "task_7"),
        ("Defer", "task_8"),
    ]
    assert (table.leased, table.running) == (0, 1)
    # its own comes back as the next attempt, and is taken up
    table.lease(lease(attempt=3))
    finish.set()
    assert wait()
    assert control.said[2] == ("Complete", {"task_id": "task_7", "attempt": 3, "result": {}})


def test_reports_of_a_lost_run_are_kept_back_and_cancel_is_heard_through_them():
    control = Control(WireError("gone"), error("NotLeased"))
    seen = []

    def function(task):
        task.progress(1)
        seen.append(task.cancelled)
        task.progress(2)
        seen.append(task.cancelled)
        return {}

    table, wait = runs(control, function)
    table.lease(lease())
    assert wait()
    assert seen == [False, True]
