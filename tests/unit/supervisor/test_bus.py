from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.clock import ManualClock
from graced.supervisor.bus import MAX_BACKLOG_BYTES, BusInterface, matches, publishers_of
from graced.varlink.wire import VarlinkError


@pytest.mark.parametrize(
    "pattern, topic, expected",
    [
        ("stress.*.completed", "stress.boot.completed", True),
        ("stress.*.completed", "stress.completed", False),
        ("stress.*.completed", "stress.a.b.completed", False),
        ("task.>", "task.execute.heal", True),
        ("task.>", "task", False),
        (">", "a", True),
        ("task.execute.heal", "task.execute.heal", True),
        ("task.execute", "task.execute.heal", False),
        (">.a", "x.a", False),
    ],
)
def test_patterns(pattern, topic, expected):
    assert matches(pattern, topic) is expected


tokens = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4)


@given(tokens, st.lists(st.sampled_from(["a", "b", "*", ">"]), min_size=1, max_size=4))
def test_agrees_with_a_regular_expression(topic, pattern):
    import re

    if ">" in pattern[:-1]:
        return
    parts = ["[^.]+" if part == "*" else r"[^.]+(\.[^.]+)*" if part == ">" else part for part in pattern]
    assert matches(".".join(pattern), ".".join(topic)) == bool(re.fullmatch(r"\.".join(parts), ".".join(topic)))


class Call:
    def __init__(self, roles, more=False, **parameters):
        self.peer = SimpleNamespace(roles=frozenset(roles), name=sorted(roles)[0], uid=1)
        self.parameters = parameters
        self.more = more
        self.backlog_bytes = 0
        self.replies = []
        self.closers = []

    def reply(self, parameters, *, continues=False):
        self.replies.append(parameters)

    def on_close(self, callback):
        self.closers.append(callback)


@pytest.fixture
def seen():
    return []


@pytest.fixture
def bus(seen):
    return BusInterface(ManualClock(), seen.append)


def test_only_the_owner_of_a_topic_publishes_it(bus, seen):
    data = {"type": "hunter.anomaly.detected", "data": {}}
    for roles in (["infrastructure"], ["verification"], ["root"]):
        bus.Publish(Call(roles, **data))
    for roles in (["memory"], ["admin"], ["healing"]):
        with pytest.raises(VarlinkError) as caught:
            bus.Publish(Call(roles, **data))
        assert caught.value.name == "PermissionDenied"
    for topic in ("layer3.intent.task", "task.completed", "incident.closed", "made.up"):
        assert publishers_of(topic) == frozenset()
        with pytest.raises(VarlinkError):
            bus.Publish(Call(["root"], type=topic, data={}))
    assert len(seen) == 3


def test_a_slow_subscriber_loses_events_and_is_told(bus):
    slow, quick = Call(["read"], more=True, patterns=["task.*"]), Call(["read"], more=True, patterns=[">"])
    bus.Subscribe(slow)
    bus.Subscribe(quick)
    slow.backlog_bytes = MAX_BACKLOG_BYTES + 1
    for _ in range(3):
        bus.emit("task.completed", {})
    slow.backlog_bytes = 0
    bus.emit("task.completed", {})
    assert [reply["dropped"] for reply in slow.replies] == [0, 3]
    assert len(quick.replies) == 1 + 4
    assert bus.dropped == 3
    slow.closers[0]()
    bus.emit("task.completed", {})
    assert len(slow.replies) == 2


def test_subscribe_is_bounded(bus):
    for call in (
        Call(["read"], patterns=["a"]),
        Call(["read"], more=True, patterns=[]),
        Call(["read"], more=True, patterns=["a"] * 33),
    ):
        with pytest.raises(VarlinkError):
            bus.Subscribe(call)
