"""The journal says who held a handler and when it was free again."""

from __future__ import annotations

from types import SimpleNamespace

from graced.base.log import NOTICE
from graced.htm.mode import DRAINED, PAUSED, Mode
from graced.supervisor.main import SupervisorKernel


def test_each_change_is_one_line():
    said = []
    kernel = SimpleNamespace(_modes={}, log=lambda priority, text: said.append((priority, text)))
    paused = Mode("job", PAUSED, "disk swap", "uid1000", 1)
    SupervisorKernel._on_modes(kernel, [paused])
    SupervisorKernel._on_modes(kernel, [Mode("*", DRAINED, "", "root", 2), paused])
    SupervisorKernel._on_modes(kernel, [Mode("job", DRAINED, "retired", "root", 3)])
    assert said == [
        (NOTICE, "the handler job is paused by uid1000: disk swap"),
        (NOTICE, "all handlers are drained by root: no reason given"),
        (NOTICE, "the handler job is drained by root: retired"),
        (NOTICE, "all handlers are no longer drained"),
    ]
