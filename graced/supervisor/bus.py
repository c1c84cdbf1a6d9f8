"""The bus: topics, wildcard patterns, who may publish what, bounded subscribers with counted drops.

Delivery is at most once. A subscriber that does not read loses events, is told how many, and never slows the others.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.base.json import get_dict, get_str, get_strs, opt_str
from graced.model import event as topics
from graced.model.daemons import DAEMONS
from graced.model.event import Event
from graced.runtime.peer import READ
from graced.runtime.service import Call, Interface
from graced.varlink.wire import VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.clock import Clock
    from graced.base.json import JsonDict

MAX_BACKLOG_BYTES = 1 << 20
MAX_SUBSCRIBERS = 256
MAX_PATTERNS = 32

_PUBLISHERS: tuple[tuple[str, frozenset[str]], ...] = (
    (topics.TELEMETRY_HTM, frozenset({"infrastructure"})),
    (topics.TELEMETRY_BRAIN, frozenset({"infrastructure", "verification"})),
    (topics.ANOMALY, frozenset({"infrastructure", "verification"})),
    (topics.CONFIG_CHANGED, frozenset({"infrastructure"})),
    (topics.DECISION, frozenset({"governance"})),
    (topics.VERDICT, frozenset({"verification"})),
    (topics.KERNEL_STATUS, frozenset(DAEMONS)),
    ("stress.*.completed", frozenset({"admin"})),
)


def matches(pattern: str, topic: str) -> bool:
    """Whether `topic` is one of `pattern`'s: ``*`` is exactly one token, a last ``>`` one or more."""
    wanted, tokens = pattern.split("."), topic.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return index == len(wanted) - 1 and len(tokens) > index
        if index >= len(tokens) or (part not in {"*", tokens[index]}):
            return False
    return len(wanted) == len(tokens)


def publishers_of(topic: str) -> frozenset[str]:
    """The roles that may publish `topic`; empty for topics that only the supervisor itself makes."""
    for pattern, publishers in _PUBLISHERS:
        if matches(pattern, topic):
            return publishers
    return frozenset()


class _Subscriber:
    __slots__ = ("call", "dropped", "patterns")

    def __init__(self, call: Call, patterns: list[str]) -> None:
        self.call = call
        self.patterns = patterns
        self.dropped = 0


class BusInterface(Interface):
    """io.graced.Bus. `on_event` sees every event first (the brain)."""

    name = "io.graced.Bus"
    acl = {"Publish": frozenset({*DAEMONS, "admin"}), "Subscribe": READ}

    def __init__(self, clock: Clock, on_event: Callable[[Event], None]) -> None:
        self._clock = clock
        self._on_event = on_event
        self._subscribers: list[_Subscriber] = []
        self._matched: dict[str, list[_Subscriber]] = {}
        self._number = 0
        self.dropped = 0
        self._run = f"{clock.wall_us():x}"

    def Publish(self, call: Call) -> JsonDict:
        topic = get_str(call.parameters, "type")
        allowed = publishers_of(topic)
        if not (allowed & call.peer.roles or ("root" in call.peer.roles and allowed)):
            raise VarlinkError(
                f"{self.name}.PermissionDenied", {"method": f"Publish {topic}", "needed": sorted(allowed)}
            )
        event = self.emit(
            topic,
            get_dict(call.parameters, "data"),
            subject=opt_str(call.parameters, "subject"),
            intent_id=opt_str(call.parameters, "intentid"),
            traceparent=opt_str(call.parameters, "traceparent"),
            source=call.peer.name,
        )
        return {"id": event.id}

    def Subscribe(self, call: Call) -> None:
        patterns = get_strs(call.parameters, "patterns")
        if not call.more:
            raise VarlinkError("org.varlink.service.ExpectedMore", {})
        if not 0 < len(patterns) <= MAX_PATTERNS:
            raise VarlinkError(f"{self.name}.InvalidRequest", {"reason": f"1 to {MAX_PATTERNS} patterns are accepted"})
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise VarlinkError(
                f"{self.name}.Busy", {"retry_after_ms": 1000, "reason": f"{MAX_SUBSCRIBERS} subscribers already"}
            )
        subscriber = _Subscriber(call, patterns)
        self._subscribers.append(subscriber)
        self._matched.clear()
        call.on_close(lambda: self._gone(subscriber))
        call.reply({"event": None, "dropped": 0}, continues=True)

    def _gone(self, subscriber: _Subscriber) -> None:
        self._subscribers.remove(subscriber)
        self._matched.clear()

    def emit(
        self,
        topic: str,
        data: JsonDict,
        *,
        subject: str | None = None,
        intent_id: str | None = None,
        traceparent: str | None = None,
        source: str = "supervisor",
    ) -> Event:
        """Make an event and hand it to the brain and to every subscriber of its topic."""
        self._number += 1
        event = Event(
            id=f"{self._run}-{self._number}",
            source=f"/graced/{source}",
            type=topic,
            time=iso(self._clock.wall_us()),
            data=data,
            subject=subject,
            intentid=intent_id,
            traceparent=traceparent,
        )
        subscribers = self._subscribers_of(topic)
        if subscribers:
            envelope = event.envelope()
            for subscriber in subscribers:
                if subscriber.call.backlog_bytes > MAX_BACKLOG_BYTES:
                    subscriber.dropped += 1
                    self.dropped += 1
                else:
                    subscriber.call.reply({"event": envelope, "dropped": subscriber.dropped}, continues=True)
        self._on_event(event)
        return event

    def wanted(self, topic: str) -> bool:
        """Does anybody listen? What only the brain would hear, and it does not care for, need not be made."""
        return bool(self._subscribers_of(topic))

    def _subscribers_of(self, topic: str) -> list[_Subscriber]:
        found = self._matched.get(topic)
        if found is None:
            if len(self._matched) > 1024:
                self._matched.clear()
            found = [one for one in self._subscribers if any(matches(pattern, topic) for pattern in one.patterns)]
            self._matched[topic] = found
        return found
