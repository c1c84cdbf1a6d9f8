"""One heal under way: what the task asked for, what was tried, the plan for Governance and the result for the brain.

Pure; used by Healing.
"""

from __future__ import annotations

from graced.base.json import get_dict, get_int, get_str, get_strs, opt_dict, opt_int, opt_str

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.heal.playbook import Playbook
    from graced.heal.profile import Profile


class Heal:
    """One heal under way: what the task asked for, what was seen before, what was tried."""

    def __init__(self, lease: JsonDict, boot_id: str = "") -> None:
        """`boot_id`: of this boot. Raises FormatError."""
        context = get_dict(lease, "context", "lease")
        self.task_id = get_str(lease, "task_id", "lease")
        self.attempt = get_int(lease, "attempt", "lease")
        self.intent_id = opt_str(lease, "intent_id", "lease") or self.task_id
        self.unit = get_str(context, "unit", "context")
        self.finding = get_str(context, "finding", "context")
        self.profile_name = opt_str(context, "profile", "context") or ""
        self.proven = get_strs(context, "playbooks", "context") if "playbooks" in context else []
        self.origin = opt_str(context, "origin", "context") or "brain"
        anomaly = opt_dict(context, "anomaly", "context") or {}
        self.detect_ms = _ms(
            opt_int(anomaly, "fault_monotonic_us", "anomaly"), opt_int(anomaly, "detected_monotonic_us", "anomaly")
        )
        # Another boot's clock is another clock.
        same_boot = (opt_str(context, "boot_id", "context") or boot_id) == boot_id
        self.fault_us = opt_int(anomaly, "fault_monotonic_us", "anomaly") if same_boot else None
        self.before: JsonDict = {}
        self.tried: list[JsonDict] = []
        self.step = "reading the catalogue"
        self.again: JsonDict | None = None  # a newer lease of the same task

    def tell(self, playbook: str, *, helped: bool | None, reason: str, act_id: str | None = None) -> None:
        """Note a try; `helped` null means that it was not allowed to act."""
        self.tried.append({"playbook": playbook, "helped": helped, "reason": reason, "act_id": act_id})

    def result(self, status: str, *, verdict: JsonDict | None = None, **fields: object) -> JsonDict:
        """The result of topic task.completed."""
        decided_us = opt_int(verdict or {}, "decided_monotonic_us")
        return {
            "status": status,
            "issue_resolved": status == "success",
            "unit": self.unit,
            "finding": self.finding,
            "tried": self.tried,
            "verdict": verdict,
            "detect_ms": self.detect_ms,
            "heal_ms": _ms(self.fault_us, decided_us) if status == "success" else None,
            **fields,
        }


def _ms(since_us: int | None, until_us: int | None) -> float | None:
    return None if since_us is None or until_us is None else round((until_us - since_us) / 1000, 3)


def plan(heal: Heal, profile: Profile, playbook: Playbook) -> JsonDict:
    """The plan Governance decides on: names and digests, never commands."""
    return {
        "task_id": heal.task_id,
        "intent_id": heal.intent_id,
        "unit": heal.unit,
        "profile": profile.name,
        "profile_digest": profile.digest,
        "playbook": playbook.name,
        "playbook_digest": playbook.digest,
        "steps": list(range(len(playbook.steps))),
        "risk": playbook.risk,
        "tier": playbook.tier,
        "finding": heal.finding,
        "origin": heal.origin,
    }


def serves(observation: JsonDict) -> bool:
    """Whether an observation shows a unit that is active and answers its probe."""
    probe = opt_dict(observation, "probe") or {}
    return observation.get("active_state") == "active" and probe.get("ok") is True
