"""The truth behind `gracectl status`: what systemd, Infrastructure and the supervisor say, put together.

Pure. Unknown is never healthy: a kernel that nobody can vouch for makes the whole degraded, with the reason.
"""

from __future__ import annotations

from graced.base.record import Record
from graced.base.words import counted
from graced.cli.units import UnitState
from graced.model.daemons import KERNELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from graced.base.json import JsonDict

HEALTHY = "healthy"
DEGRADED = "degraded"
NOT_RUNNING = "not-running"
MOST_FILES = 3


class Answers(Record):
    """What was learned from each side. A reply that did not come is null, and `silent` has one reason per source.

    `units` is systemd's view by unit name; `kernels` the rows of Infrastructure.Kernels; `supervisor` the reply of
    Supervisor.Status; `governance` that of Governance.State; `incidents` the open ones in Memory; `held` the handlers
    of the queue that are paused or drained (HTM.Stats); `adopted` the watch files; `refused` what Code refuses.
    """

    units: dict[str, UnitState]
    kernels: list[JsonDict] | None = None
    supervisor: JsonDict | None = None
    governance: JsonDict | None = None
    incidents: list[JsonDict] | None = None
    held: list[JsonDict] | None = None
    adopted: list[JsonDict] | None = None
    refused: list[JsonDict] | None = None
    silent: tuple[str, ...] = ()


def kernel_row(name: str, unit: UnitState | None, seen: Mapping[str, object]) -> JsonDict:
    """One line of the kernel table. State comes from systemd, resets and the last error from Infrastructure."""
    resets = seen.get("watchdog_resets")
    error = seen.get("last_error")
    return {
        "name": name,
        "state": unit.state if unit else "unknown",
        "pid": unit.pid if unit else None,
        "ready_ms": unit.ready_ms if unit else None,
        "restarts": unit.restarts if unit else None,
        "watchdog_resets": resets if isinstance(resets, int) else None,
        "last_error": error if isinstance(error, str) and error else None,
    }


def kernel_rows(answers: Answers) -> list[JsonDict]:
    """All eight daemons, always, in fixed order."""
    seen = {str(row.get("name")): row for row in answers.kernels or []}
    return [kernel_row(name, answers.units.get(f"graced-{name}.service"), seen.get(name, {})) for name in KERNELS]


def summarise(answers: Answers) -> JsonDict:
    """The whole status as `gracectl status --json` prints it."""
    kernels = kernel_rows(answers)
    reasons = _reasons(answers, kernels)
    running = [row for row in kernels if row["state"] in {"active", "reloading", "activating", "deactivating"}]
    failed = [row for row in kernels if row["state"] == "failed"]
    overall = NOT_RUNNING if not running and not failed else DEGRADED if reasons else HEALTHY
    return {
        "overall": overall,
        "reasons": reasons,
        "kernels": kernels,
        "paused": _paused(answers),
        "shadow": (answers.governance or {}).get("shadow"),
        "approvals_open": (answers.governance or {}).get("approvals_open"),
        "refused_files": None if answers.refused is None else [str(one.get("path")) for one in answers.refused],
        "held": answers.held,
        "open_incidents": None if answers.incidents is None else len(answers.incidents),
        "adopted": _adopted(answers),
    }


def _paused(answers: Answers) -> bool | None:
    if answers.governance is not None and isinstance(answers.governance.get("paused"), bool):
        return bool(answers.governance["paused"])
    if answers.supervisor is not None:
        return bool(answers.supervisor.get("state") == "paused")
    return None


def _reasons(answers: Answers, kernels: Sequence[JsonDict]) -> list[str]:
    seen = {str(row.get("name")) for row in answers.kernels or []}
    reasons = []
    for row in kernels:
        if row["state"] != "active":
            reasons.append(f"graced-{row['name']} is {row['state']}")
        elif answers.kernels is not None and row["name"] not in seen:
            reasons.append(f"Infrastructure knows nothing about graced-{row['name']}")
        elif answers.kernels is not None and row["watchdog_resets"] is None:
            reasons.append(f"the watchdog resets of graced-{row['name']} are not known")
    supervisor = answers.supervisor or {}
    if supervisor.get("state") not in {None, "running"}:
        said = [str(reason) for reason in supervisor.get("reasons") or []]
        reasons += said or [f"the supervisor says it is {supervisor['state']}"]
    if supervisor.get("keys") == "development-file":
        reasons.append("the signing keys are plain 0600 files, not sealed (no systemd): for development only")
    reasons += _troubles(answers)
    if _paused(answers) and supervisor.get("state") != "paused":
        reasons.append("heals are paused")
    if (answers.governance or {}).get("shadow") is True:
        reasons.append("the host is in shadow: repairs are decided and recorded, and nothing acts")
    reasons += _held(answers)
    reasons += _refused(answers)
    reasons += answers.silent
    return list(dict.fromkeys(reasons))


def _held(answers: Answers) -> list[str]:
    """What holds repairs in the queue. A handler of the admin's own jobs is his business."""
    reasons = []
    for mode in answers.held or []:
        if mode.get("handler") in {"heal", "*"}:
            whose = "repairs" if mode["handler"] == "heal" else "all tasks, also repairs,"
            reasons.append(f"{whose} are {mode.get('mode')} in the queue: {mode.get('reason')}")
    return reasons


def _refused(answers: Answers) -> list[str]:
    """Files of the admin that do not count, and what that leads to."""
    reasons = []
    for one in (answers.refused or [])[:MOST_FILES]:
        first: JsonDict = next(iter(one.get("errors") or []), {})
        instead = "the version that passed counts" if one.get("running_digest") else "nothing counts in its place"
        reasons.append(f"{one.get('path')}:{first.get('line')}: {first.get('message')}; {instead}")
    if len(answers.refused or []) > MOST_FILES:
        reasons.append(f"{len(answers.refused or [])} files are refused: gracectl config check")
    unusable = (answers.governance or {}).get("unusable")
    return [*reasons, f"every repair is denied: {unusable}"] if unusable else reasons


def _troubles(answers: Answers) -> list[str]:
    """What is wrong with what graced watches: failed units, and incidents that are more than an observation."""
    states = {row["unit"]: row["state"] for row in _adopted(answers) or []}
    reasons = [f"{unit} is {state}" for unit, state in states.items() if state in {"failed", "unknown"}]
    for incident in answers.incidents or []:
        if incident.get("outcome") != "observed":
            what = f"{incident.get('finding')} on {incident.get('unit')}"
            reasons.append(f"{incident.get('id')} is open ({incident.get('outcome')}): {what}")
    return reasons


def _adopted(answers: Answers) -> list[JsonDict] | None:
    if answers.adopted is None:
        return None
    seen = {str(row.get("unit")): row for row in (answers.governance or {}).get("units") or []}
    rows = []
    for watch in answers.adopted:
        name = str(watch.get("unit"))
        unit, known = answers.units.get(name), seen.get(name, {})
        state = unit.state if unit else "unknown"
        rows.append({**watch, "state": state, "tier_now": known.get("tier"), "failures": known.get("failures")})
    return rows


def sentence(status: JsonDict) -> str:
    """One sentence that says how graced is."""
    running = sum(1 for row in status["kernels"] if row["state"] == "active")
    adopted = status["adopted"]
    open_incidents = status["open_incidents"]
    waiting = status["approvals_open"]
    asked = (
        f" {_count(waiting, 'repair')} wait{'s' if waiting == 1 else ''} for a person: gracectl approvals."
        if waiting
        else ""
    )
    watches = "an unknown number of units" if adopted is None else _count(len(adopted), "adopted unit")
    incidents = "open incidents unknown" if open_incidents is None else _count(open_incidents, "open incident")
    if status["overall"] == NOT_RUNNING:
        return "graced is not running: nothing on this host is watched."
    if status["overall"] == HEALTHY:
        return f"graced is healthy: all {running} daemons run, {watches}, {incidents}.{asked}"
    paused = " Heals are paused." if status["paused"] else ""
    return f"graced is degraded: {running} of {len(KERNELS)} daemons run, {watches}, {incidents}.{paused}{asked}"


def _count(number: int, noun: str) -> str:
    return counted(number, noun) if number else f"no {noun}s"
