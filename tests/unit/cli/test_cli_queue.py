"""Tasks as text, files of tasks, and what the verbs of the queue ask for."""

from __future__ import annotations

import json

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.clock import iso
from graced.cli import output, tasktext
from graced.cli.app import Failure
from graced.cli.follow import exit_code
from graced.cli.taskfile import MAX_BATCH_BYTES, MAX_BATCH_TASKS, batches, context_of
from graced.varlink.wire import VarlinkError

NOW_S = 1_763_823_845.0


def stamp(seconds: float) -> str:
    return iso(int((NOW_S + seconds) * 1e6))


def node(number: int, state: str = "queued", *children: dict, **fields: object) -> dict:
    row = {"id": f"task_{number}", "state": state, "handler": "backup", "task_type": "dump"}
    return {**row, "created_at": stamp(-20.0), "children": list(children), **fields}


def test_a_tree_is_drawn_with_state_and_time() -> None:
    done = node(2, "done", started_at=stamp(-15.0), finished_at=stamp(-3.0))
    running = node(3, "leased", started_at=stamp(-5.0), worker="w1", progress={"percent": 40.0, "message": "copying"})
    late = node(4, "waiting", node(5, "dead", error="no\ntape"), open_children=0, deadline_at=stamp(-7.0))
    root = node(1, "waiting", done, late, running, open_children=2, deadline_at=stamp(240.0))
    assert [f"{name}  {rest}" for name, rest in tasktext.draw(root, NOW_S)] == [
        "task_1  backup/dump  waiting  for 20s  2 open below  due in 4m",
        "├─ task_2  backup/dump  done  in 12s",
        "├─ task_4  backup/dump  waiting  for 20s  late 7.0s",
        "│  └─ task_5  backup/dump  dead  no\N{REPLACEMENT CHARACTER}tape",
        "└─ task_3  backup/dump  leased  for 5.0s  by w1  40 % copying",
    ]
    assert all((name + rest).isascii() for name, rest in tasktext.draw(node(1, "queued", done), NOW_S, unicode=False))


def test_a_deep_tree_is_drawn() -> None:
    root = node(0)
    for number in range(1, 3000):
        root = node(number, "waiting", root)
    assert len(list(tasktext.draw(root, NOW_S))) == 3000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("id", "state", "handler", "created_at", "started_at", "finished_at", "deadline_at", "progress", "context")
KEYS += ("error", "worker", "open_children", "attempts")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON)))
def test_any_task_becomes_one_line(task: dict) -> None:
    [(name, rest)] = tasktext.draw(task, NOW_S)
    assert name.isprintable()
    assert rest.isprintable()
    assert len(tasktext.row(task, NOW_S)) == len(tasktext.HEADINGS)


def test_the_table_fits_the_terminal_and_is_whole_in_a_pipe() -> None:
    rows = [("task_1", "x" * 64, "y" * 64, 7), ("task_2", "short", "", 123456)]
    narrow = output.table_lines(("task", "handler", "about", "tries"), rows, right=("tries",), columns=60)
    assert max(map(len, narrow)) <= 60
    assert narrow[1].endswith("      7")
    assert "123456" in narrow[2]
    assert "\N{HORIZONTAL ELLIPSIS}" in narrow[1]
    assert "x" * 64 in output.table(("task", "handler", "about", "tries"), rows)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *[(-1.0, "0.0s"), (0.42, "0.4s"), (9.96, "9s"), (99.9, "99s"), (100.0, "1m"), (5999.0, "99m"), (6000.0, "1h")],
        *[(172_799.0, "47h"), (172_800.0, "2d"), (86400.0 * 365, "365d")],
    ],
)
def test_brief(seconds: float, words: str) -> None:
    assert output.brief(seconds) == words


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["done", "done"], 0),
        ([], 0),
        (["done", "failed", "queued"], 5),
        (["dead", "cancelled"], 5),
        (["cancelled", "done"], 6),
        (["cancelled", "leased"], 7),
    ],
)
def test_the_worst_outcome_is_the_exit_code(states: list[str], code: int) -> None:
    assert exit_code(states) == code


def test_contexts_are_put_together(tmp_path) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"a": 1, "b": 1}')
    assert context_of([f"@{file}", '{"b": 2, "x": {"y": 1}}', "c=1=2", "d:=[1, null]", "e="]) == {
        "a": 1,
        "b": 2,
        "x": {"y": 1},
        "c": "1=2",
        "d": [1, None],
        "e": "",
    }
    assert context_of([]) is None


@pytest.mark.parametrize("text", ["[1]", "nonsense", "=x", "a:=nonsense", 'a:=1,"b":2}', "@/nowhere", '{"a": NaN}'])
def test_what_is_no_context_says_what_would_be(text: str) -> None:
    with pytest.raises(Failure) as caught:
        context_of([text])
    assert "key=text" in caught.value.hint


SPECS = st.recursive(
    st.fixed_dictionaries({"handler": st.text(max_size=20)}),
    lambda inner: st.fixed_dictionaries({"handler": st.just("h"), "children": st.lists(inner, max_size=4)}),
    max_leaves=20,
)


def tasks_in(spec: dict) -> int:
    return 1 + sum(map(tasks_in, spec.get("children") or []))


@given(st.lists(SPECS, min_size=1, max_size=40), st.integers(1, 30))
def test_batches_are_in_order_and_within_the_limits(specs: list[dict], copies: int) -> None:
    lines = list(enumerate(specs * copies, 1))
    made = list(batches(lines))
    assert [pair for batch in made for pair in zip(batch.lines, batch.tasks, strict=True)] == lines
    for batch in made:
        assert len(batch.tasks) == 1 or sum(map(tasks_in, batch.tasks)) <= MAX_BATCH_TASKS
    assert all(batch.tasks for batch in made)


def test_a_batch_ends_before_the_wire_does() -> None:
    big = [(number, {"context": {"x": "y" * 200_000}}) for number in range(9)]
    assert [len(batch.tasks) for batch in batches(big)] == [4, 4, 1]
    assert MAX_BATCH_BYTES < 1 << 20


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"handler":"a","task_type":"t"}\nnonsense\n', ":2: not JSON"),
        (b'{"handler":"a","task_type":"t"}\n\n[1]\n', ":3: "),
        (b'{"handler":"a"}\n', ':1: it has no "task_type"'),
        (b"\xff\n", ":1: not JSON"),
        (b"\n \n", "no task in it"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_submitted(ctl, graced, tmp_path, content: bytes, words: str) -> None:
    file = tmp_path / "tasks"
    file.write_bytes(content)
    refused = ctl("submit", "--file", str(file))
    assert (refused.exit_code, refused.stdout, graced.calls) == (1, "", [])
    assert str(file) in refused.stderr
    assert words in refused.stderr


def test_an_error_in_a_later_batch_says_what_was_accepted(ctl, graced, tmp_path) -> None:
    def answer(parameters: dict) -> dict | VarlinkError:
        if "bad" in json.dumps(parameters):
            return VarlinkError("io.graced.HTM.InvalidRequest", {"reason": "$.tasks[2].handler: no"})
        count = len(parameters["tasks"])
        return {"task_ids": [f"task_{number}" for number in range(count)], "deduplicated": [False] * count}

    graced.answers["HTM.SubmitBatch"] = answer
    file = tmp_path / "tasks"
    file.write_text('{"priority":"low"}\n' * MAX_BATCH_TASKS + '{}\n{}\n{"reasoning":"bad"}\n')
    refused = ctl("submit", "job", "t", "--file", str(file), "--priority", "high")
    assert refused.exit_code == 1
    assert f"{file}:{MAX_BATCH_TASKS + 3}: " in refused.stderr
    assert f"the {MAX_BATCH_TASKS} tasks above it were accepted" in refused.stderr
    first, second = (parameters["tasks"] for _, parameters in graced.calls)
    assert first[0] == {"handler": "job", "task_type": "t", "priority": "low"}
    assert second[0] == {"handler": "job", "task_type": "t", "priority": "high"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "job"],
        ["submit", "job", "t", "--timeout", "3s"],
        ["submit", "--file", "-", "--key", "k"],
        ["pause", "1h", "--handler", "job"],
        ["drain"],
        ["cancel"],
        ["requeue"],
        ["requeue", "task_1", "--all-dead"],
        ["requeue", "task_1", "--handler", "job"],
        ["top", "--interval", "0"],
    ],
)
def test_what_makes_no_sense_is_wrong_usage(ctl, graced, arguments: list[str]) -> None:
    assert ctl(*arguments).exit_code == click.UsageError.exit_code
    assert graced.calls == []


def test_pause_of_a_handler_is_not_a_pause_of_repairs(ctl, graced) -> None:
    graced.answers |= {"HTM.Pause": {}, "HTM.Resume": {}, "HTM.Drain": {}}
    assert "resume --handler job" in ctl("pause", "--handler", "job", "--reason", "full").stderr
    assert "any handler" in ctl("drain", "--handler", "*").stderr
    assert ctl("resume", "--handler", "job").exit_code == 0
    assert graced.calls == [
        ("io.graced.HTM.Pause", {"handler": "job", "reason": "full"}),
        ("io.graced.HTM.Drain", {"handler": "*", "reason": "no reason given"}),
        ("io.graced.HTM.Resume", {"handler": "job"}),
    ]


def test_a_drained_handler_says_how_to_end_that(ctl, graced) -> None:
    refusal = {"retry_after_ms": 60000, "reason": "drained: it moves"}
    graced.answers["HTM.Submit"] = VarlinkError("io.graced.HTM.Busy", refusal)
    refused = ctl("submit", "job", "t")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "drained: it moves" in refused.stderr
    assert "gracectl resume --handler" in refused.stderr


def test_why_and_tree(ctl, graced) -> None:
    graced.answers["HTM.Why"] = {"sentences": ["It waits.", "No\x1bworker."], "facts": {"state": "queued"}}
    graced.answers["HTM.Tree"] = {"root": node(1, "waiting", node(2)), "truncated": True}
    assert ctl("why", "task_1").stdout == "It waits.\nNo\N{REPLACEMENT CHARACTER}worker.\n"
    assert ctl("why", "task_1", "--json=short").json["facts"] == {"state": "queued"}
    drawn = ctl("tree", "task_2")
    assert [line.split()[:1] for line in drawn.stdout.splitlines()] in ([["task_1"], ["└─"]], [["task_1"], ["`-"]])
    assert "larger" in drawn.stderr
    assert ctl("tree", "task_2", "--json=short").json == graced.answers["HTM.Tree"]


def test_a_missed_change_is_asked_for(ctl, graced) -> None:
    """Watch tells of a gap; what was missed is found with Get."""
    graced.answers["HTM.Submit"] = {"task_id": "task_1", "deduplicated": False}
    graced.answers["HTM.Watch"] = [{"change": None, "dropped": 0}, {"change": None, "dropped": 3}]
    states = iter(["queued", "dead"])
    graced.answers["HTM.Get"] = lambda _: {"task": {"state": next(states)}}
    waited = ctl("submit", "job", "t", "--wait")
    assert (waited.exit_code, waited.stdout) == (5, "task_1\ntask_1 dead\n")


def test_too_many_watchers_mean_a_look_now_and_then(ctl, graced) -> None:
    graced.answers["HTM.Submit"] = {"task_id": "task_1", "deduplicated": False}
    graced.answers["HTM.Watch"] = VarlinkError("io.graced.HTM.Busy", {"retry_after_ms": 1000, "reason": "64 watchers"})
    graced.answers["HTM.Get"] = {"task": {"state": "cancelled"}}
    assert ctl("submit", "job", "t", "--wait").exit_code == 6


def test_a_wait_that_is_refused_says_that_the_task_is_there(ctl, graced) -> None:
    graced.answers["HTM.Submit"] = {"task_id": "task_1", "deduplicated": False}
    graced.answers["HTM.Watch"] = VarlinkError("io.graced.HTM.PermissionDenied", {"method": "Watch"})
    refused = ctl("submit", "job", "t", "--wait")
    assert (refused.exit_code, refused.stdout) == (1, "task_1\n")
    assert "submitted, but" in refused.stderr
    assert "gracectl task task_1 --follow" in refused.stderr
