"""A host under pressure: low tasks stay outside, until it is over."""

from __future__ import annotations

import pytest

from graced.supervisor.strain import hear_host
from graced.varlink.wire import VarlinkError
from tests.unit.supervisor.htm_desk import Desk


def host(memory_full_percent):
    psi = {"some_avg60": 0.0, "full_avg60": memory_full_percent}
    return {"host": {"pressure": {"memory": psi}, "disks": []}}


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path / "q.db")
    yield made
    made.queue.close()


def test_low_tasks_are_refused_while_the_host_is_under_pressure(desk):
    said = []

    def hear(data):
        hear_host(desk.queue.engine, data, 0, lambda _level, text: said.append(text))

    parent = desk.submit(priority="low")
    hear(host(50.0))
    hear(host(20.0))
    hear({"host": {}})
    assert desk.call("Stats")["stats"]["strain"] == "memory at 20 %", "between the limits, and unknown: as before"
    with pytest.raises(VarlinkError, match="under pressure: memory") as caught:
        desk.submit(priority="low")
    assert caught.value.name == "Busy"
    assert caught.value.parameters["retry_after_ms"] == 10_000
    desk.submit(priority="normal")
    desk.submit(priority="low", parent=parent)
    hear(host(1.0))
    desk.submit(priority="low")
    assert len(said) == 2


@pytest.mark.parametrize("data", [{}, {"host": None}, {"host": {"pressure": {}, "disks": []}}])
def test_what_is_not_measured_changes_nothing(desk, data):
    hear_host(desk.queue.engine, data, 0, lambda *_: pytest.fail("nothing to say"))
    assert desk.queue.engine.strain == ""
