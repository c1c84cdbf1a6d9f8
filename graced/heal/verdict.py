"""Did the repair help? Compares how a unit serves after a repair with how it served before. Pure.

Unknown is never healthy: a probe that could not be asked or a journal that did not answer fails the verdict and is
named as the reason. Used by the Verification kernel.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict


def problems(observation: JsonDict, *, has_probe: bool, errors: list[str] | None = None) -> list[str]:
    """What keeps an observed unit from being healthy; empty = healthy.

    `errors` are the journal messages of priority err or worse that the unit's new run wrote; None when nobody
    looked (then observation["errors"] decides: a number, or null where it was not asked for).
    """
    found = []
    state = observation.get("active_state") or "unknown"
    if state != "active":
        result = observation.get("result")
        found.append(f"the unit is {state}" + (f" ({result})" if result not in {None, "", "success"} else ""))
    probe = observation.get("probe") or {}
    if has_probe and probe.get("ok") is not True:
        what = "cannot be asked" if probe.get("ok") is None else "failed"
        found.append(f"the probe {what}: {probe.get('error') or 'no result'}")
    count = len(errors) if errors is not None else observation.get("errors")
    if count:
        first = f": {errors[0][:200]}" if errors else ""
        found.append(f"{count} new errors in the journal{first}")
    return found


def compare(
    before: JsonDict, after: JsonDict, *, has_probe: bool, errors: list[str] | None
) -> tuple[bool, bool, list[str]]:
    """(healthy, better, reasons). better: healthy now and not before, or strictly fewer problems than before.

    `errors` None means that the journal did not answer. An empty `before` is unknown: better only if healthy now.
    """
    now = problems(after, has_probe=has_probe, errors=errors)
    if errors is None:
        now.append("the journal did not answer")
    earlier = problems(before, has_probe=has_probe) if before else ["not observed before"]
    healthy = not now
    better = (healthy and bool(earlier)) or (bool(before) and len(now) < len(earlier))
    return healthy, better, now or [f"it serves; before: {'; '.join(earlier) or 'it served too'}"]
