"""Programs run on the loop: their output, their end, and the end of what does not end."""

from __future__ import annotations

import gc
import os
import signal

import pytest

from graced.base.errors import HostError
from graced.runtime.loop import Future, Loop
from graced.runtime.process import run_process


def run(argv, **options):
    loop = Loop()
    options.setdefault("timeout_s", 60.0)
    return loop.run_until(loop.spawn(run_process(loop, argv, **options)), 90.0)


def test_output_input_and_exit_code():
    done = run(["/bin/sh", "-c", "cat; echo oops >&2; exit 3"], input=b"hello")
    assert (done.returncode, done.stdout, done.stderr, done.timed_out) == (3, "hello", "oops\n", False)


def test_a_signal_is_a_negative_code():
    assert run(["/bin/sh", "-c", "kill -TERM $$"]).returncode == -15


def test_the_environment_is_minimal_and_no_descriptor_leaks():
    # what tests before this one left to the collector must not go meanwhile
    gc.collect()
    done = run(["/bin/sh", "-c", "env; ls /proc/$$/fd"])
    names = {line.partition("=")[0] for line in done.stdout.splitlines() if "=" in line}
    assert names <= {"PATH", "LC_ALL", "PWD", "_"}
    mine = {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}
    inheritable = {name for name in mine if os.get_inheritable(int(name))}
    assert {line for line in done.stdout.splitlines() if line.isdigit()} <= {"0", "1", "2"} | inheritable
    assert run(["/usr/bin/env"], env={"A": "b"}).stdout == "A=b\n"


def test_a_timeout_kills_the_whole_group():
    # The child's child holds the write end of a pipe: its end is the end of the group, without looking for pids.
    read_fd, write_fd = os.pipe()
    os.set_inheritable(write_fd, True)
    try:
        done = run(["/bin/sh", "-c", "sleep 600 & sleep 600"], timeout_s=0.2)
        os.close(write_fd)
        write_fd = -1
        loop, ended = Loop(), Future()
        loop.add_reader(read_fd, ended.set_result)
        loop.run_until(ended, 60.0)
        assert os.read(read_fd, 1) == b""
    finally:
        os.close(read_fd)
        if write_fd >= 0:
            os.close(write_fd)
    assert (done.timed_out, done.returncode) == (True, -9)
    assert 150 < done.duration_ms < 300_000


def test_output_is_cut_at_the_limit_and_the_program_still_ends():
    done = run(["/bin/sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x; echo end >&2"], max_output_bytes=1000)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x" * 1000, "end\n")


def test_bytes_that_are_no_text_do_not_hurt():
    assert run(["/usr/bin/printf", r"\377\376ok"]).stdout == "\ufffd\ufffdok"


def test_a_grandchild_that_keeps_the_pipe_does_not_hold_the_result_up():
    done = run(["/bin/sh", "-c", "sleep 600 & echo $!"])
    os.kill(int(done.stdout), signal.SIGKILL)
    assert done.returncode == 0
    assert done.duration_ms < 300_000


def test_a_program_that_is_not_there():
    loop = Loop()
    # what tests before this one left to the collector must not go meanwhile
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HostError, match=r"/no/such/program could not be started") as caught:
        loop.run_until(loop.spawn(run_process(loop, ["/no/such/program"], 60.0)))
    assert "installed" in caught.value.hint
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_together_on_one_loop():
    loop = Loop()
    parts = [run_process(loop, ["/bin/echo", str(number)], 60.0) for number in range(20)]
    results = loop.run_until(loop.spawn(loop.gather(*parts)), 90.0)
    assert [one.stdout for one in results] == [f"{number}\n" for number in range(20)]
