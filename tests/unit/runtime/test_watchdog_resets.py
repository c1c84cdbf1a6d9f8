"""When Infrastructure asks the journal about watchdog resets: at first, and one look after a restart."""

from __future__ import annotations

from types import SimpleNamespace

from graced.runtime.inventory import WatchdogResets


def test_asked_at_first_and_again_one_look_after_a_restart():
    trackers = [SimpleNamespace(state=SimpleNamespace(n_restarts=0)) for _ in range(2)]
    resets = WatchdogResets()
    assert [resets.due(trackers) for _ in range(3)] == [True, False, False]
    trackers[1].state.n_restarts = 1
    assert [resets.due(trackers) for _ in range(3)] == [False, True, False]
