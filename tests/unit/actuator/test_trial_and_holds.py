"""Trials: the command line and its judgement. Holds: who has a lock, and what an admin wants."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.actuator import holds, trial
from graced.actuator.report import tell_editor
from graced.actuator.trial import COPIED, Recipe, argv_for, judge_command, judge_start, properties_of
from graced.actuator.units import UnitState
from graced.base.clock import ManualClock
from graced.runtime.loop import Loop
from graced.runtime.process import Completed

COMMAND = Recipe("command", ("/usr/sbin/nginx", "-t", "-c", "{config}"), config="/etc/nginx/nginx.conf")
START = Recipe("trial-start", ("/usr/bin/redis-server", "{config}", "--dir", "{tmp}"), config="/etc/redis/redis.conf")
LOADED = UnitState("x.service", "loaded", "failed", "failed", 0, "")


def ended(returncode, stderr="", *, timed_out=False):
    return Completed(returncode, "", stderr, timed_out, 1.0)


def test_placeholders_are_filled_in():
    assert argv_for(COMMAND, "graced-trial-1", [])[-4:] == ["/usr/sbin/nginx", "-t", "-c", "/etc/nginx/nginx.conf"]
    assert argv_for(START, "graced-trial-1", [])[-3:] == ["/etc/redis/redis.conf", "--dir", "/run/graced-trial-1"]


def test_a_trial_start_reaches_neither_network_nor_data():
    argv = argv_for(START, "t", ["-p", "PrivateNetwork=no"])
    assert argv.index("PrivateNetwork=yes") > argv.index("PrivateNetwork=no")
    assert "ProtectSystem=strict" in argv
    assert "PrivateNetwork=yes" not in argv_for(COMMAND, "t", [])


def test_the_units_own_rights_are_copied_and_its_directories_are_not():
    shown = "User=redis\nReadWritePaths=-/var/lib/redis\nRuntimeDirectory=redis\nUMask=\nExecStart={ path=/x }\n"
    assert properties_of(shown) == ["-p", "User=redis", "-p", "ReadWritePaths=-/var/lib/redis"]
    assert not [name for name in COPIED if name.endswith("Directory") and name.startswith(("Runtime", "State"))]


@given(st.text(max_size=300))
def test_any_show_output_gives_pairs_of_known_properties(text):
    arguments = properties_of(text)
    assert arguments[::2] == ["-p"] * (len(arguments) // 2)
    assert all(argument.partition("=")[0] in COPIED for argument in arguments[1::2])


@pytest.mark.parametrize(
    ("done", "alive", "command", "start"),
    [
        (ended(0), False, True, None),
        (ended(1, "unknown directive"), False, False, False),
        (ended(255, "parser failed somehow near here"), False, False, False),
        (ended(0), True, None, True),
        (ended(137), True, None, True),
        (ended(203, "exec failed"), False, None, None),
        (ended(-9), False, None, None),
        (ended(1, "Failed to start transient service unit: x"), False, None, None),
    ],
)
def test_judgement(done, alive, command, start):
    assert judge_command(done, alive=alive)[0] is command
    assert judge_start(done, alive=alive)[0] is start


def test_an_undecided_trial_says_why():
    assert "203" in judge_command(ended(203), alive=False)[1]
    assert "time" in judge_command(ended(-9), alive=True)[1]
    assert trial.Outcome(None, "", 0.0).to_json() == {"valid": None, "output": "", "duration_ms": 0.0}


LOCKER = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_the_holder_of_a_lock_is_named_and_no_lock_is_taken(tmp_path):
    lock = tmp_path / "lock"
    lock.touch()
    locks = [str(tmp_path / "none"), str(lock)]
    holds.check_package_manager(locks)
    process = subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(holds.Held) as error:
            holds.check_package_manager(locks)
        assert f"(pid {process.pid})" in error.value.holder
        assert str(lock) in error.value.holder
        assert holds.comm(process.pid) in error.value.holder
    finally:
        process.communicate("")
    holds.check_package_manager(locks)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"load_state": "masked"}, "masked"),
        ({"load_state": "not-found"}, "no-such-unit"),
        ({"load_state": ""}, "no-such-unit"),
        ({"active_state": "inactive", "result": "success"}, "admin-stopped"),
        ({}, None),
        ({"active_state": "inactive", "result": "signal"}, None),
        ({"active_state": "active", "result": "success"}, None),
    ],
)
def test_what_an_admin_wants(changes, code):
    changes = dict(changes)
    result = changes.pop("result", "exit-code")
    state = LOADED.replace(**changes)
    if code is None:
        holds.check_wanted(state, result, "x.service")
    else:
        with pytest.raises(holds.Stopped) as error:
            holds.check_wanted(state, result, "x.service")
        assert error.value.code == code


def test_a_unit_in_the_middle_of_a_restart_is_not_stopped():
    between = LOADED.replace(active_state="inactive", job=7, job_kind="restart")
    with pytest.raises(holds.Held) as error:
        holds.check_wanted(between, "success", "x.service")
    assert error.value.retry_after_s < 1


class Changed:
    """Units of which one changed at this time, in µs of the test's clock."""

    def __init__(self, changed_us):
        self.changed_us = changed_us

    async def values(self, unit, *names):
        assert (unit, names) == ("x.service", ("StateChangeTimestampMonotonic",))
        return [self.changed_us]


@pytest.mark.parametrize(
    ("kind", "may_kill", "since_us", "held"),
    [
        ("", True, 0, False),
        ("restart", False, 60_000_000, True),
        ("restart", True, 1_000_000, True),
        ("restart", True, 4_000_000, False),
        ("stop", True, 60_000_000, True),
    ],
)
def test_only_a_hung_daemons_job_gives_way_to_a_kill(kind, may_kill, since_us, held):
    clock = ManualClock(100_000_000)
    state = LOADED.replace(job=7 if kind else 0, job_kind=kind)
    changed = Changed(clock.monotonic_us() - since_us)
    loop = Loop()
    checked = loop.spawn(holds.check_jobs(changed, state, "x.service", clock, may_kill=may_kill))
    if held:
        with pytest.raises(holds.Held, match=f"a {kind} job of x"):
            loop.run_until(checked, 5.0)
    else:
        loop.run_until(checked, 5.0)


def test_only_terminals_of_the_editor_that_take_messages_are_told(tmp_path):
    main, side = os.openpty()
    terminal = os.ttyname(side)
    (tmp_path / "file").touch(mode=0o666)
    try:
        os.fchmod(side, 0o600)
        assert tell_editor(os.getuid(), "hello", [terminal]) == 0
        os.fchmod(side, 0o620)
        assert tell_editor(12345, "hello", [terminal]) == 0
        others = [str(tmp_path / "file"), str(tmp_path / "none")]
        assert tell_editor(os.getuid(), "hello", [*others, terminal]) == 1
        assert b"hello" in os.read(main, 100)
        assert (tmp_path / "file").read_bytes() == b""
    finally:
        os.close(main)
        os.close(side)


def test_a_playbook_that_comes_late_looks_again():
    holds.check_state(LOADED, "x.service", ("failed", "inactive"))
    holds.check_state(LOADED.replace(active_state="active"), "x.service", ())
    with pytest.raises(holds.Held) as caught:
        holds.check_state(LOADED.replace(active_state="active"), "x.service", ("failed", "inactive"))
    assert caught.value.code == "state-changed"
    assert "x.service is active now" in str(caught.value)
