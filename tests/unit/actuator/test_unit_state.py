"""What systemd says of a unit, as the actuator reads it; what it does not say is never taken for good."""

from __future__ import annotations

import pytest

from graced.actuator import holds, units
from graced.actuator.units import _state
from graced.base.errors import HostError
from graced.runtime.loop import Loop

SAID = {
    "Id": ("s", "redis-server.service"),
    "Names": ("as", ["redis-server.service", "redis.service"]),
    "LoadState": ("s", "loaded"),
    "ActiveState": ("s", "failed"),
    "SubState": ("s", "failed"),
    "Result": ("s", "exit-code"),
    "UnitFileState": ("s", "enabled"),
    "MainPID": ("u", 7),
    "ControlGroup": ("s", "/system.slice/redis-server.service"),
    "Job": ("(uo)", (12, "/org/freedesktop/systemd1/job/12")),
    "StateChangeTimestampMonotonic": ("t", 99),
    "User": ("s", "redis"),
    "Group": ("s", "redis"),
    "CanReload": ("b", False),
    "CanStart": ("b", True),
}


def test_what_is_said_is_read_and_every_name_of_the_unit_is_known():
    state = _state("redis.service", SAID)
    assert state.names == ("redis.service", "redis-server.service")
    assert (state.load_state, state.active_state, state.result, state.job) == ("loaded", "failed", "exit-code", 12)
    assert (state.user, state.can_reload, state.can_start, state.main_pid) == ("redis", False, True, 7)
    assert state.failed


def test_what_is_not_said_is_no_unit_that_may_be_touched():
    with pytest.raises(holds.Stopped, match="unknown"):
        holds.check_wanted(_state("redis.service", {}), "redis.service")


class Bus:
    """A system bus that is lost when the test says so; systemd takes each job, and says `said` of the unit."""

    def __init__(self, said):
        self.said = said
        self.closed = False
        self.jobs = []
        self.asked = 0
        self.on_lost = None

    def read_only(self, names):
        pass

    def attach(self, loop):
        pass

    def match(self, rule, callback):
        pass

    def call(self, destination, path, interface, member, signature="", body=(), callback=None, timeout=5.0):
        if member == "GetAll":
            self.asked += 1
            callback((self.said,), None)
        elif member.endswith("Unit"):
            self.jobs.append((member, body))
            callback(("/org/freedesktop/systemd1/job/7",), None)
        else:
            callback((), None)

    def lose(self):
        self.closed = True
        self.on_lost(HostError("system bus closed the connection"))


def said(**changes):
    return {**SAID, "Job": ("(uo)", (0, "/")), **{name: (SAID[name][0], value) for name, value in changes.items()}}


@pytest.fixture
def restart(monkeypatch):
    """A RestartUnit under way, its bus, and what the next bus says."""
    buses = []
    later = [said(ActiveState="active", StateChangeTimestampMonotonic=100)]
    monkeypatch.setattr(units.SystemBus, "connect", lambda: buses.append(Bus(later[0])) or buses[-1])
    monkeypatch.setattr(units, "_LOST_BUS_POLL_S", 0.001)
    loop = Loop()
    before = _state("redis.service", said())
    job = loop.spawn(units.Units(loop).job("RestartUnit", "redis.service", 5.0, before))
    job.when_done(lambda _job: None)
    loop.run_once(0)
    loop.run_once(0)
    assert buses[0].jobs == [("RestartUnit", ("redis.service", "replace"))]
    return loop, job, buses, later


def test_a_job_that_ends_while_the_bus_is_lost_is_done_when_the_unit_is_active_anew(restart):
    loop, job, buses, _later = restart
    buses[0].lose()
    assert loop.run_until(job, 5.0) == "done"
    assert len(buses) == 2
    assert buses[1].jobs == [], "it is not begun twice"


def test_a_job_that_goes_on_when_the_bus_is_lost_is_waited_for(restart):
    loop, job, buses, later = restart
    later[0] = said(ActiveState="activating", StateChangeTimestampMonotonic=100, Job=(7, "/job/7"))
    buses[0].lose()
    while len(buses) < 2 or buses[1].asked < 3:
        assert not job.done()
        loop.run_once(1.0)
    buses[1].said = said(ActiveState="failed", StateChangeTimestampMonotonic=101)
    assert loop.run_until(job, 5.0) == "failed after a lost bus"


def test_a_unit_that_is_as_it_was_was_not_restarted(restart):
    loop, job, buses, later = restart
    later[0] = said(ActiveState="active")
    buses[0].lose()
    assert loop.run_until(job, 5.0) == "active after a lost bus"
