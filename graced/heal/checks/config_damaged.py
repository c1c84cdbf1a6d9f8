"""config.damaged and config.invalid: config files against their last-known-good copies, judged from the digest.

Damaged *and* started since: the unit lives (or died) with a file nobody can have meant, restoring it heals. Damaged or
refused by the validator but not started since: the running daemon is fine, so only a warning before the next restart.
"""

from __future__ import annotations

from graced.heal.checks.facts import CLEAR, FOUND, UNKNOWN, Judgement
from graced.model.finding import CONFIG_DAMAGED, CONFIG_INVALID, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

MAX_OUTPUT_CHARS = 2000


def judge(
    digest: JsonDict,
    *,
    valid: bool | None,
    output: str,
    started_since: bool | None,
    profile: str,
    now_us: int,
    started_us: int = 0,
) -> tuple[Judgement, Judgement]:
    """(config.damaged, config.invalid) of one unit.

    `digest` is the actuator's; `valid` and `output` are the trial's (None = could not be decided);
    `started_since` says whether the unit was started after the change (None = unknown, treated as not), `started_us`
    is systemd's stamp of that start (0 = unknown): with it the damage took effect.
    """
    unit = str(digest["unit"])
    if digest.get("lkg") is None:
        unknown = "no last-known-good copy to compare with"
        return Judgement(CONFIG_DAMAGED, UNKNOWN, unknown), Judgement(CONFIG_INVALID, UNKNOWN, unknown)
    files = [file for file in digest.get("files", []) if file.get("state") != "same"]
    evidence = {
        "files": [
            {"path": file.get("path"), "state": file.get("state"), "reason": file.get("reason")} for file in files[:20]
        ],
        "valid": valid,
        "output": output[:MAX_OUTPUT_CHARS],
    }
    damaged = bool(digest.get("damaged"))
    if damaged and started_since:
        return (
            _found(unit, CONFIG_DAMAGED, "high", evidence, profile, now_us, fault_us=started_us or None),
            Judgement(CONFIG_INVALID, CLEAR, "it is damaged: the other finding"),
        )
    if damaged or valid is False:
        return (
            Judgement(CONFIG_DAMAGED, CLEAR, "the running daemon has not read it"),
            _found(unit, CONFIG_INVALID, "low", evidence, profile, now_us),
        )
    if valid is None and digest.get("changed"):
        return (
            Judgement(CONFIG_DAMAGED, CLEAR, "not damaged"),
            Judgement(CONFIG_INVALID, UNKNOWN, "the validator could not decide"),
        )
    return (Judgement(CONFIG_DAMAGED, CLEAR, "not damaged"), Judgement(CONFIG_INVALID, CLEAR, "valid"))


def _found(
    unit: str,
    kind: str,
    severity: str,
    evidence: JsonDict,
    profile: str,
    now_us: int,
    *,
    fault_us: int | None = None,
) -> Judgement:
    paths = [str(file["path"]) for file in evidence["files"]]
    return Judgement(
        kind,
        FOUND,
        finding=Finding(
            unit=unit,
            kind=kind,
            severity=severity,
            value=", ".join(paths) or "config",
            threshold="last-known-good",
            profile=profile,
            healable=kind == CONFIG_DAMAGED,
            fault_monotonic_us=fault_us,
            detected_monotonic_us=now_us,
            evidence=evidence,
        ),
    )
