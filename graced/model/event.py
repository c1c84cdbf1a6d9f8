"""Events on the bus: CloudEvents 1.0 attributes, the specification's JSON as `data`."""

from __future__ import annotations

from graced.base.json import get_dict, get_str, opt_str
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

TELEMETRY_HTM = "layer2.telemetry.stream"
TELEMETRY_BRAIN = "layer3.telemetry.stream"
ANOMALY = "hunter.anomaly.detected"
INTENT = "layer3.intent.task"
TASK_EXECUTE = "task.execute"
TASK_COMPLETED = "task.completed"
KERNEL_STATUS = "kernel.status"
DECISION = "governance.decision"
VERDICT = "verification.verdict"
INCIDENT_OPENED = "incident.opened"
INCIDENT_CLOSED = "incident.closed"
CHECKPOINT = "ledger.checkpoint"
CONFIG_CHANGED = "config.changed"


class Event(Record):
    """One event. `type` is the topic, `source` the daemon that published it, `time` RFC 3339 UTC."""

    id: str
    source: str
    type: str
    time: str
    data: JsonDict
    subject: str | None = None
    intentid: str | None = None
    traceparent: str | None = None

    def envelope(self) -> JsonDict:
        """As it goes over the bus; absent attributes are left out."""
        envelope: JsonDict = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "time": self.time,
            "datacontenttype": "application/json",
            "data": self.data,
        }
        for name in ("subject", "intentid", "traceparent"):
            value = getattr(self, name)
            if value is not None:
                envelope[name] = value
        return envelope

    @classmethod
    def parse(cls, envelope: JsonDict) -> Event:
        """Take an envelope apart; FormatError names what is wrong with it."""
        return cls(
            id=get_str(envelope, "id"),
            source=get_str(envelope, "source"),
            type=get_str(envelope, "type"),
            time=get_str(envelope, "time"),
            data=get_dict(envelope, "data"),
            subject=opt_str(envelope, "subject"),
            intentid=opt_str(envelope, "intentid"),
            traceparent=opt_str(envelope, "traceparent"),
        )
