"""Whatever a caller sends is either refused with its place or fits the engine."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import FormatError
from graced.supervisor import taskparse as parse
from graced.supervisor.taskparse import submission, submission_tree, submissions

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def mixed(good):
    return good | junk


FIELDS = {
    "priority": mixed(st.sampled_from(("critical", "low"))),
    "sla_seconds": mixed(st.integers(1, 100)),
    "context": mixed(st.dictionaries(st.text(max_size=5), junk, max_size=3)),
    "reasoning": mixed(st.text(max_size=20)),
    "intent_id": junk,
    "parent": mixed(st.just("task_3")),
    "idempotency_key": junk,
    "delay_seconds": mixed(st.floats(0, 100)),
    "max_attempts": mixed(st.integers(1, 9)),
    "on_child_failure": mixed(st.sampled_from(("fail", "ignore"))),
}
NEEDED = {"handler": mixed(st.just("heal")), "task_type": mixed(st.just("remediate"))}
flat = st.fixed_dictionaries(NEEDED, optional=FIELDS)
trees = st.recursive(
    flat,
    lambda inner: st.fixed_dictionaries(
        {**NEEDED, "children": mixed(st.lists(mixed(inner), max_size=3))}, optional=FIELDS
    ),
    max_leaves=6,
)


def checked(taken):
    assert taken["handler"]
    assert taken.get("priority", 0) in range(4)
    assert isinstance(json.loads(taken.get("context", "{}")), dict)
    assert 0 <= taken.get("delay_us", 0) <= 31 * 86_400_000_000
    assert taken.get("sla_seconds", 1) > 0
    assert taken.get("parent", 1) > 0
    assert taken.get("max_attempts", 1) in range(1, 101)
    assert taken.get("on_child_failure", 0) in range(3)
    for child in taken.get("children", []):
        assert "parent" not in child
        checked(child)


@given(parameters=flat)
def test_submission_is_valid_or_refused_with_its_place(parameters):
    try:
        taken = submission(parameters, 65_536)
    except FormatError as error:
        assert re.match(r"\$(\.\w+)?", error.message)
        error.message.encode()
        return
    assert "children" not in taken
    checked(taken)


@given(parameters=trees)
def test_a_tree_is_valid_or_refused_with_its_place(parameters):
    try:
        taken = submission_tree(parameters, 65_536)
    except FormatError as error:
        assert error.message.startswith(error.fields["path"])
        assert re.fullmatch(r"\$(\.children\[\d+\])*(\.\w+)?", error.fields["path"])
        return
    checked(taken)


@given(tasks=mixed(st.lists(mixed(trees), max_size=3)))
def test_a_batch_is_valid_or_refused_with_its_place(tasks):
    try:
        taken = submissions({"tasks": tasks}, 65_536)
    except FormatError as error:
        assert re.match(r"\$\.tasks(\[\d+\])?", error.fields["path"])
        return
    assert len(taken) == len(tasks) > 0
    for one in taken:
        checked(one)


def task(**more):
    return {"handler": "job", "task_type": "t", **more}


def refusal(function, *arguments):
    with pytest.raises(FormatError) as caught:
        function(*arguments)
    return caught.value.fields["path"], caught.value.message


def test_the_place_of_a_wrong_child_is_named():
    children = [task(), task(), task(handler="No!")]
    assert refusal(submission_tree, task(children=children), 100)[0] == "$.children[2].handler"
    assert refusal(submission_tree, task(children=[task(children=[7])]), 100)[0] == "$.children[0].children[0]"
    assert refusal(submission_tree, task(children={}), 100)[0] == "$.children"
    assert refusal(submission_tree, task(children=[task(parent="task_1")]), 100)[0] == "$.children[0].parent"
    assert refusal(submissions, {"tasks": [task(), task(prio="low")]}, 100) == (
        "$.tasks[1]", "$.tasks[1]: Submit has no parameter 'prio'"
    )  # fmt: skip
    assert refusal(submissions, {"tasks": []}, 100)[0] == "$.tasks"
    assert refusal(submissions, {}, 100)[0] == "$.tasks"
    assert refusal(submissions, {"tasks": [task(context={"x": "\ud800"})]}, 100)[0] == "$.tasks[0].context"


def test_depth_and_number_of_a_tree_are_bounded():
    def chain(depth):
        return task(children=[chain(depth - 1)]) if depth > 1 else task()

    submission_tree(chain(parse.MAX_TREE_DEPTH), 100)
    path, message = refusal(submission_tree, chain(parse.MAX_TREE_DEPTH + 1), 100)
    assert path == "$" + ".children[0]" * (parse.MAX_TREE_DEPTH - 1) + ".children"
    assert "16 levels" in message

    wide = [task() for _ in range(parse.MAX_TREE_TASKS - 1)]
    assert len(submission_tree(task(children=wide), 100)["children"]) == parse.MAX_TREE_TASKS - 1
    assert refusal(submission_tree, task(children=[*wide, task()]), 100)[0] == "$.children[999]"
    assert len(submissions({"tasks": [*wide, task()]}, 100)) == parse.MAX_TREE_TASKS
    path, message = refusal(submissions, {"tasks": [task(children=wide), task()]}, 100)
    assert (path, "1000 tasks" in message) == ("$.tasks[1]", True)


def test_a_parent_belongs_to_the_top_only():
    taken = submission_tree(task(parent="task_7", children=[task(max_attempts=1, on_child_failure="ignore")]), 100)
    assert taken["parent"] == 7
    (child,) = taken["children"]
    assert (child["max_attempts"], child["on_child_failure"]) == (1, 2)
    assert list(parse.handlers_in([taken])) == ["job", "job"]


def test_what_is_left_out_stays_out():
    assert submission_tree(task(children=None), 100) == submission(task(), 100) == submission_tree(task(), 100)
    assert "max_attempts" not in submission(task(), 100)


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        (task(max_attempts=0), "$.max_attempts"),
        (task(max_attempts=101), "$.max_attempts"),
        (task(max_attempts=True), "$.max_attempts"),
        (task(on_child_failure="explode"), "$.on_child_failure"),
        (task(delay_seconds=10**400), "$.delay_seconds"),
        (task(sla_seconds=10**400), "$.sla_seconds"),
    ],
)
def test_bounds(parameters, path):
    assert refusal(submission, parameters, 100)[0] == path


def test_progress_and_extend():
    assert parse.progress_of({"percent": 12, "message": "x" * 5000}) == (12.0, "x" * parse.MAX_MESSAGE_CHARS)
    assert parse.progress_of({}) == (None, None)
    for wrong in ({"percent": -0.1}, {"percent": 100.5}, {"percent": float("nan")}, {"percent": "9"}):
        assert refusal(parse.progress_of, wrong)[0] == "$.percent"
    assert refusal(parse.progress_of, {"message": "\ud800"})[0] == "$.message"
    assert parse.extend_us_of({"seconds": 3600}) == 3_600_000_000
    for wrong in ({}, {"seconds": 3601}, {"seconds": -1}, {"seconds": float("inf")}, {"seconds": None}):
        assert refusal(parse.extend_us_of, wrong)[0] == "$.seconds"


def test_a_handler_may_be_all_of_them_where_that_makes_sense():
    assert parse.handlers_of({"handler": "*"}) == "*"
    assert parse.handlers_of({"handler": "job"}) == "job"
    assert refusal(parse.handlers_of, {"handler": "j*"})[0] == "$.handler"
    assert refusal(submission, task(handler="*"), 100)[0] == "$.handler"
