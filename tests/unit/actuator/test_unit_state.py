"""What systemd says of a unit, as the actuator reads it; what it does not say is never taken for good."""

from __future__ import annotations

import pytest

from graced.actuator import units
from graced.base.errors import HostError
from graced.runtime.loop import Loop

NAME = "redis-server.service"
SAID = {
    "ListUnitsByNames": (NAME, "Redis", "loaded", "failed", "failed", "", "/unit/r", 12, "restart", "/job/12"),
    "Names": ("as", [NAME, "redis.service"]),
    "Result": ("s", "exit-code"),
    "ControlGroup": ("s", "/system.slice/redis-server.service"),
    "StateChangeTimestampMonotonic": ("t", 99),
    "CanReload": ("b", False),
    "MainPID": ("u", 7),
}


def said(**changes):
    """All of it, with no job and these changes; `active` is the second state of ListUnitsByNames."""
    name, text, load, active, sub, follows, path, _job, _kind, _job_path = SAID["ListUnitsByNames"]
    job = changes.pop("job", 0)
    listed = (name, text, load, changes.pop("active", active), sub, follows, path, job, "", "/")
    return {**SAID, "ListUnitsByNames": listed, **{key: (SAID[key][0], value) for key, value in changes.items()}}


class Bus:
    """A system bus that is lost when the test says so; systemd takes each job, and says `said` of the unit."""

    def __init__(self, said):
        self.said = said
        self.closed = False
        self.jobs = []
        self.queued = []
        self.asked = 0
        self.on_lost = None

    def read_only(self, names):
        pass

    def attach(self, loop):
        pass

    def match(self, rule, callback):
        pass

    def flush(self):
        for answer in self.queued:
            answer()
        self.queued.clear()

    def call(
        self, destination, path, interface, member, signature="", body=(), callback=None, timeout=5.0, later=False
    ):
        if later:
            self.queued.append(lambda: self.answer(member, body, callback))
        else:
            self.answer(member, body, callback)

    def answer(self, member, body, callback):
        name = body[1] if member == "Get" else member
        if isinstance(self.said.get(name), HostError):
            callback(None, self.said[name])
        elif member == "ListUnitsByNames":
            self.asked += 1
            callback(([self.said[name]] if self.said[name] else [],), None)
        elif member == "Get":
            callback((self.said[name],) if self.said[name] else (), None)
        elif member.endswith("Unit"):
            self.jobs.append((member, body))
            callback(("/org/freedesktop/systemd1/job/7",), None)
        else:
            callback((), None)

    def lose(self):
        self.closed = True
        self.on_lost(HostError("system bus closed the connection"))


@pytest.fixture
def ask(monkeypatch):
    """What the actuator knows of a unit of which systemd says this."""

    def asked(found, what):
        monkeypatch.setattr(units.SystemBus, "connect", lambda: Bus(found))
        loop = Loop()
        return loop.run_until(loop.spawn(what(units.Units(loop))), 5.0)

    return asked


def known(of):
    return of.known("redis.service", of.ask("redis.service"))


def test_what_is_said_is_read_and_every_name_of_the_unit_is_known(ask):
    found = ask(SAID, known)
    assert found.names == ("redis.service", NAME)
    assert found.result == "exit-code"
    assert found.state == units.UnitState(NAME, "loaded", "failed", "failed", 12, "restart")
    assert ask(SAID, lambda of: of.state("redis.service")) == found.state
    assert ask(SAID, lambda of: of.values("redis.service", "MainPID", "CanReload", "ControlGroup")) == [
        7,
        False,
        "/system.slice/redis-server.service",
    ]


@pytest.mark.parametrize("name", ["ListUnitsByNames", "Names", "Result"])
def test_what_systemd_does_not_say_is_no_state(ask, name):
    with pytest.raises(HostError, match="no answer"):
        ask({**SAID, name: HostError("no answer in time")}, known)


@pytest.mark.parametrize("name", ["ListUnitsByNames", "Names", "Result"])
def test_a_unit_of_which_systemd_says_nothing_may_not_be_touched(ask, name):
    with pytest.raises(HostError, match="does not say what"):
        ask({**SAID, name: None}, known)


def test_a_bus_that_was_lost_between_question_and_answer_is_asked_anew(monkeypatch):
    class Lost(Bus):
        def flush(self):
            self.closed = True
            super().flush()

    buses = [Lost({name: HostError("lost") for name in SAID}), Bus(SAID)]
    monkeypatch.setattr(units.SystemBus, "connect", lambda: buses.pop(0))
    loop = Loop()
    of = units.Units(loop)
    assert loop.run_until(loop.spawn(known(of)), 5.0).result == "exit-code"
    assert not buses


@pytest.fixture
def restart(monkeypatch):
    """A RestartUnit under way, its bus, and what the next bus says."""
    buses = []
    later = [said(active="active", StateChangeTimestampMonotonic=100)]
    monkeypatch.setattr(
        units.SystemBus, "connect", lambda: buses.append(Bus(later[0] if buses else said())) or buses[-1]
    )
    monkeypatch.setattr(units, "_LOST_BUS_POLL_S", 0.001)
    loop = Loop()
    job = loop.spawn(units.Units(loop).job("RestartUnit", "redis.service", 5.0))
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
    later[0] = said(active="activating", StateChangeTimestampMonotonic=100, job=7)
    buses[0].lose()
    while len(buses) < 2 or buses[1].asked < 3:
        assert not job.done()
        loop.run_once(1.0)
    buses[1].said = said(active="failed", StateChangeTimestampMonotonic=101)
    assert loop.run_until(job, 5.0) == "failed after a lost bus"


def test_a_unit_that_is_as_it_was_was_not_restarted(restart):
    loop, job, buses, later = restart
    later[0] = said(active="active")
    buses[0].lose()
    assert loop.run_until(job, 5.0) == "active after a lost bus"
