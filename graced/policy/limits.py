"""What a unit's past allows: rates, cooldown, breaker, and the tier that failures have cost it.

All state is one Record per unit, so the owner can keep it on disk; time is an age in µs that never goes back, not
even over a reboot (the owner sees to that). Pure; used by Governance.
"""

from __future__ import annotations

from graced.base.errors import FormatError
from graced.base.json import get_list
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from graced.base.json import JsonDict
    from graced.policy.rules import Bound, Limits

HOUR_US = 3_600_000_000
SECOND_US = 1_000_000
MIN_DEMOTED_TIER = 2
"""Failures never take away the safe playbooks: a unit is tried again for ever, at a bounded rate."""
MAX_COOLDOWN_SECONDS = 3600.0
# How long an allowed plan without an outcome counts as being under repair (its warrant ended long before).
ABANDONED_US = 300 * SECOND_US


class UnitHistory(Record):
    """What Governance remembers of one unit. Times are ages in µs; `acts` are (when, playbook) of the last hour.

    `failures` counts futile heals in a row, `demotions` the tiers they have cost, `open_task` the task whose plan was
    allowed at `tried_at_us` and has no outcome yet (empty: none).
    """

    unit: str
    acts: tuple[tuple[int, str], ...] = ()
    failures: int = 0
    failed_at_us: int = 0
    failed_playbooks: dict[str, int] = {}
    demotions: int = 0
    demoted_at_us: int = 0
    tried_at_us: int = 0
    open_task: str = ""


class Refusal(Record):
    """Why not now. `effect` is hold or deny, `rule` a stable word; `retry_after_seconds` None means no time helps."""

    effect: str
    rule: str
    reason: str
    retry_after_seconds: float | None = None


def history_from_json(obj: JsonDict) -> UnitHistory:
    """The UnitHistory that `to_json` wrote. Raises FormatError."""
    acts = []
    for index, act in enumerate(get_list(obj, "acts", "history")):
        if not (isinstance(act, list) and len(act) == 2 and type(act[0]) is int and isinstance(act[1], str)):
            raise FormatError(f"history.acts[{index}] is not [when, playbook]", path=f"history.acts[{index}]")
        acts.append((act[0], act[1]))
    return UnitHistory.from_json({**obj, "acts": []}, "history").replace(acts=tuple(acts))


def effective_tier(history: UnitHistory, watch_tier: int, limits: Limits, now_us: int) -> int:
    """The tier after what failures took away and quiet time gave back."""
    taken = _demotions_left(history, limits, now_us)
    if watch_tier <= MIN_DEMOTED_TIER:
        return watch_tier
    return max(MIN_DEMOTED_TIER, watch_tier - taken)


def _demotions_left(history: UnitHistory, limits: Limits, now_us: int) -> int:
    quiet_us = now_us - max(history.demoted_at_us, history.failed_at_us)
    given_back = int(quiet_us // (limits.promote_after_seconds * SECOND_US))
    return max(0, history.demotions - given_back)


def check(
    history: UnitHistory,
    others: Sequence[UnitHistory],
    playbook: str,
    playbook_limits: tuple[int, float],
    limits: Limits,
    now_us: int,
    *,
    acts: bool = True,
    groups: Sequence[Bound] = (),
) -> list[Refusal]:
    """Everything that speaks against one more run now; a playbook that only looks (not `acts`) is only counted.

    `playbook_limits` is the playbook's own (per unit and hour, cooldown in s), 0 for none; `others` are the
    histories of all other units of the host, `groups` the bounds that units share.
    """
    if not acts:
        rate = _rate(history, playbook, playbook_limits[0], limits, now_us)
        return [] if rate is None else [rate]
    return [
        refusal
        for refusal in (
            _breaker(history, limits, now_us),
            _rate(history, playbook, playbook_limits[0], limits, now_us),
            *(_group(history, others, bound, now_us) for bound in groups if bound.holds(history.unit)),
            _host_rate(history, others, limits, now_us),
            _cooldown(history, playbook, max(limits.cooldown_seconds, playbook_limits[1]), now_us),
        )
        if refusal is not None
    ]


def _breaker(history: UnitHistory, limits: Limits, now_us: int) -> Refusal | None:
    if history.failures < limits.breaker_failures:
        return None
    # One try per retry time: both a failed and an unanswered try start the time again.
    wait_us = max(history.failed_at_us, history.tried_at_us) + int(limits.breaker_retry_seconds * SECOND_US) - now_us
    if wait_us <= 0:
        return None
    return Refusal(
        "deny",
        "breaker",
        f"breaker: {history.failures} heals of {history.unit} in a row did not help; "
        f"the next try is allowed in {_seconds(wait_us):.0f} s",
        _seconds(wait_us),
    )


def _rate(history: UnitHistory, playbook: str, own: int, limits: Limits, now_us: int) -> Refusal | None:
    if len(history.acts) < min(limits.per_unit_per_hour, own or limits.per_unit_per_hour):
        return None
    recent = [(at_us, name) for at_us, name in history.acts if at_us > now_us - HOUR_US]
    mine = [at_us for at_us, name in recent if name == playbook]
    for times, most, what in (
        ([at_us for at_us, _name in recent], limits.per_unit_per_hour, history.unit),
        (mine, own or limits.per_unit_per_hour, f"{playbook} on {history.unit}"),
    ):
        if len(times) >= most:
            wait_us = sorted(times)[len(times) - most] + HOUR_US - now_us
            return Refusal(
                "deny",
                "rate.unit",
                f"{what}: {len(times)} heals in the last hour, {most} are allowed",
                _seconds(wait_us),
            )
    return None


def _group(history: UnitHistory, others: Sequence[UnitHistory], bound: Bound, now_us: int) -> Refusal | None:
    group = bound.group
    members = [history, *(one for one in others if bound.holds(one.unit))]
    times = sorted(at_us for one in members for at_us, _name in one.acts if at_us > now_us - HOUR_US)
    if group.per_hour and len(times) >= group.per_hour:
        wait_us = times[len(times) - group.per_hour] + HOUR_US - now_us
        return Refusal(
            "deny",
            "rate.group",
            f"{len(times)} heals in the group {group.id} in the last hour, {group.per_hour} are allowed",
            _seconds(wait_us),
        )
    busy = [one.unit for one in members if one.unit != history.unit and _under_repair(one, now_us)]
    if group.units_at_once and len(busy) >= group.units_at_once:
        names = ", ".join(busy[:3])
        return Refusal(
            "hold", "group-at-once", f"{len(busy)} other units of the group {group.id} are under repair: {names}", 5.0
        )
    return None


def _host_rate(history: UnitHistory, others: Sequence[UnitHistory], limits: Limits, now_us: int) -> Refusal | None:
    everyone = [history, *others]
    times: list[int] = []
    if sum([len(one.acts) for one in everyone]) >= limits.per_host_per_hour:
        times = sorted(at_us for one in everyone for at_us, _name in one.acts if at_us > now_us - HOUR_US)
    if len(times) >= limits.per_host_per_hour:
        wait_us = times[len(times) - limits.per_host_per_hour] + HOUR_US - now_us
        return Refusal(
            "deny",
            "rate.host",
            f"{len(times)} heals on this host in the last hour, {limits.per_host_per_hour} are allowed",
            _seconds(wait_us),
        )
    busy = [one.unit for one in everyone if one.unit != history.unit and _under_repair(one, now_us)]
    if len(busy) >= limits.units_at_once:
        return Refusal("hold", "units-at-once", f"{len(busy)} other units are under repair: {', '.join(busy[:3])}", 5.0)
    return None


def _under_repair(history: UnitHistory, now_us: int) -> bool:
    return bool(history.open_task) and now_us - history.tried_at_us < ABANDONED_US


def _cooldown(history: UnitHistory, playbook: str, seconds: float, now_us: int) -> Refusal | None:
    # Only after this playbook failed here: what helped may be used again at once, and another playbook may follow.
    failed_at_us = history.failed_playbooks.get(playbook)
    if failed_at_us is None or history.failures == 0:
        return None
    cooldown_s = min(seconds * 2 ** (history.failures - 1), max(seconds, MAX_COOLDOWN_SECONDS))
    wait_us = failed_at_us + int(cooldown_s * SECOND_US) - now_us
    if wait_us <= 0:
        return None
    return Refusal(
        "hold",
        "cooldown",
        f"{playbook} did not help {history.unit} just now; it may be tried again in {_seconds(wait_us):.1f} s",
        _seconds(wait_us),
    )


def allowed(history: UnitHistory, playbook: str, task_id: str, now_us: int, *, acts: bool = True) -> UnitHistory:
    """The history after a plan was allowed."""
    recent = tuple(act for act in history.acts if act[0] > now_us - HOUR_US)
    counted = history.replace(acts=(*recent, (now_us, playbook)))
    return counted.replace(open_task=task_id, tried_at_us=now_us) if acts else counted


def with_outcome(
    history: UnitHistory, playbook: str, *, helped: bool | None, limits: Limits, now_us: int
) -> UnitHistory:
    """The history after an act; `helped` None: it was not carried out, so it says nothing about the playbook."""
    if helped is None:
        return history.replace(open_task="")
    if helped:
        return history.replace(failures=0, failed_playbooks={}, open_task="")
    # What quiet time has given back stays given back.
    left = _demotions_left(history, limits, now_us)
    failures = history.failures + 1
    tripped = failures >= limits.breaker_failures
    return history.replace(
        failures=failures,
        failed_at_us=now_us,
        failed_playbooks={**history.failed_playbooks, playbook: now_us},
        demotions=left + 1 if tripped else left,
        demoted_at_us=now_us if tripped else history.demoted_at_us,
        open_task="",
    )


def forgiven(history: UnitHistory) -> UnitHistory:
    """The history as if no heal had been futile; what was done in the last hour, and is being done, stays."""
    return history.replace(failures=0, failed_at_us=0, failed_playbooks={}, demotions=0, demoted_at_us=0)


def _seconds(us: int) -> float:
    return max(0.0, us / SECOND_US)
