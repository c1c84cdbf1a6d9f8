"""What systemd says of a unit, as the actuator reads it; what it does not say is never taken for good."""

from __future__ import annotations

import pytest

from graced.actuator import holds
from graced.actuator.units import _state

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
