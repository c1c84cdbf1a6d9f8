from __future__ import annotations

import pytest

from graced.heal.verdict import compare

GOOD = {"active_state": "active", "result": "success", "probe": {"ok": True}, "errors": None}
DOWN = {"active_state": "failed", "result": "signal", "probe": {"ok": None, "error": "not asked"}, "errors": None}
HUNG = {"active_state": "active", "result": "success", "probe": {"ok": False, "error": "silent"}, "errors": None}


@pytest.mark.parametrize(
    ("before", "after", "errors", "healthy", "better"),
    [
        (DOWN, GOOD, [], True, True),
        (HUNG, GOOD, [], True, True),
        (GOOD, GOOD, [], True, False),
        (DOWN, DOWN, [], False, False),
        (DOWN, HUNG, [], False, True),
        (DOWN, GOOD, ["boom"], False, True),
        (HUNG, GOOD, ["boom"], False, False),
        (DOWN, GOOD, None, False, True),
        (GOOD, GOOD, None, False, False),
        ({}, GOOD, [], True, True),
        ({}, HUNG, [], False, False),
    ],
)
def test_verdicts(before, after, errors, healthy, better):
    found = compare(before, after, has_probe=True, errors=errors)
    assert found[:2] == (healthy, better)
    assert found[2], "a verdict always has a reason"


def test_a_probe_that_cannot_be_asked_is_not_health():
    unknown = {**GOOD, "probe": {"ok": None, "error": "no rights"}}
    healthy, _, reasons = compare(DOWN, unknown, has_probe=True, errors=[])
    assert not healthy
    assert "no rights" in reasons[0]


def test_without_a_probe_the_state_decides():
    assert compare(DOWN, {**GOOD, "probe": {"ok": None}}, has_probe=False, errors=[])[0] is True


@pytest.mark.parametrize("state", ["", None, "activating", "reloading", "inactive"])
def test_only_active_is_up(state):
    assert compare({}, {**GOOD, "active_state": state}, has_probe=True, errors=[])[0] is False
