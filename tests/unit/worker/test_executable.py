"""What an executable's end means, and what it may say on the way."""

import gc
import json
import os
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.clock import SystemClock
from graced.worker.executable import MAX_OUTPUT_BYTES, Ended, outcome_of, parse_progress, run_executable
from graced.worker.task import Fail, Retry, Task


def ended(status=0, output=b"", tail=b"", killed=""):
    return Ended(status, output, tail, killed)


def lease(**more):
    return {
        "task_id": "task_7", "attempt": 2, "handler": "job", "task_type": "t", "priority": "high", "context": {},
        "sla_boottime_us": SystemClock().boottime_us() + 60_000_000, **more,
    }  # fmt: skip


@pytest.fixture
def said():
    return []


@pytest.fixture
def task(said):
    return lambda **more: Task(lease(**more), lambda verb, parameters: said.append((verb, parameters)) or {})


@pytest.mark.parametrize(("status", "error"), [(64, Fail), (65, Fail), (66, Fail), (78, Fail), (75, Retry), (1, Retry)])
def test_exit_status(status, error):
    with pytest.raises(error, match=f"^exit {status}: why$"):
        outcome_of(ended(status, tail=b" why\n"))


def test_signals_and_limits_are_tried_again():
    with pytest.raises(Retry, match=r"^killed by SIGKILL$"):
        outcome_of(ended(-9))
    with pytest.raises(Retry, match=r"^killed by SIGRTMIN$|^exit -34$"):
        outcome_of(ended(-34))
    with pytest.raises(Retry, match=r"^it ran longer than 1 s: last words$"):
        outcome_of(ended(0, b"{}", b"last words", "it ran longer than 1 s"))


def test_result_is_the_object_or_the_text():
    assert outcome_of(ended(output=b' {"a": 1}\n')) == {"a": 1}
    assert outcome_of(ended(output=b"[1]")) == {"output": "[1]"}
    assert outcome_of(ended()) == {"output": ""}
    assert outcome_of(ended(output=b"x" * 40_000))["truncated"] is True


@given(st.binary(max_size=200) | st.binary(max_size=50).map(lambda part: part * 2000))
def test_any_output_is_a_result_that_fits(output):
    result = outcome_of(ended(output=output[: MAX_OUTPUT_BYTES + 1]))
    assert len(json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()) <= MAX_OUTPUT_BYTES


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"40 half of it", (40.0, "half of it")),
        (b" 40% ", (40.0, None)),
        (b"half of it", (None, "half of it")),
        (b"1e9 x", (100.0, "x")),
        (b"-3", (0.0, None)),
        (b"nan x", (None, None)),
        (b"", (None, None)),
    ],
)
def test_progress_lines(line, said):
    assert parse_progress(line) == said


@given(st.binary(max_size=100))
def test_any_progress_line_is_taken(line):
    percent, message = parse_progress(line)
    assert percent is None or 0.0 <= percent <= 100.0
    assert message is None or isinstance(message, str)


def run(task, script, **options):
    return run_executable([sys.executable, "-c", script], task, **options)


def test_context_environment_and_progress(task, said, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    script = (
        "import json, os, sys\n"
        "open(os.environ['GRACED_PROGRESS'], 'w').write('5 begun\\n')\n"
        "names = [name for name in os.environ if name.startswith('GRACED_T') or name == 'NOTIFY_SOCKET']\n"
        "print(json.dumps({'context': len(json.load(sys.stdin)['x']), 'names': sorted(names), 'sid': os.getsid(0)}))\n"
    )
    result = run(task(context={"x": "\u00fc" * 20_000}), script)
    assert result["context"] == 20_000
    assert result["names"] == ["GRACED_TASK_ID", "GRACED_TASK_TYPE"]
    assert result["sid"] != os.getsid(0)
    assert said == [("Progress", {"task_id": "task_7", "attempt": 2, "percent": 5.0, "message": "begun"})]


def test_one_that_does_not_read_and_says_too_much(task):
    result = run(task(context={"x": "y" * 60_000}), "import os\nos.close(0)\nos.write(1, b'z' * 500_000)\n")
    assert result["truncated"] is True


def test_stderr_is_kept_at_its_end(task, capfd):
    with pytest.raises(Retry) as caught:
        run(task(), "import sys\nfor n in range(9000): print('line', n, file=sys.stderr)\nsys.exit(3)")
    assert str(caught.value).startswith("exit 3: ")
    assert str(caught.value).endswith("line 8999")
    assert capfd.readouterr().err.splitlines()[0] == "line 0"


def test_a_program_that_is_not_there(task):
    with pytest.raises(Retry, match=r"^/no/such: No such file"):
        run_executable(["/no/such"], task())


def test_cancelled_before_and_while_it_runs(task):
    early = task()
    early.cancel("too late")
    with pytest.raises(Retry, match=r"^too late"):
        run(early, "import time; time.sleep(60)")
    late = task()
    threading.Timer(0.2, late.cancel, ["enough"]).start()
    with pytest.raises(Retry, match=r"^enough"):
        run(late, "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)", grace_s=0.1)


def test_the_time_limit_holds_for_one_that_never_stops_talking(task, capfd):
    with pytest.raises(Retry, match=r"^it ran longer than 0.3 s"):
        run(task(), "import sys\nwhile True: print('y', file=sys.stderr)", timeout_s=0.3, grace_s=0.1)
    capfd.readouterr()


def test_no_descriptor_is_left_open(task):
    run(task(), "pass")
    # what tests before this one left to the collector must not go meanwhile
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run(task(), "pass")
    with pytest.raises(Retry):
        run_executable(["/no/such"], task())
    assert sorted(os.listdir("/proc/self/fd")) == before
