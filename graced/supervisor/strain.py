"""What the host's telemetry means for the queue: under pressure it takes in no more work that can wait.

Only what comes in is held off. What is queued keeps its place and its bound, and children of a live task are taken.
"""

from __future__ import annotations

from graced.base.log import NOTICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.json import JsonDict
    from graced.htm.engine import Engine


def hear_host(engine: Engine, data: JsonDict, now_us: int, log: Callable[[int, str], object]) -> None:
    """Take over an event layer2.telemetry.stream. What could not be measured changes nothing."""
    # first use: not on the way to READY
    from graced.heal.checks import host_pressure
    from graced.heal.checks.facts import UNKNOWN

    sample = data.get("host")
    if not isinstance(sample, dict):
        return
    judgement = host_pressure.judge(sample, now_us, is_open=bool(engine.strain))
    if judgement.state == UNKNOWN:
        return
    over = judgement.finding.evidence["over"] if judgement.finding is not None else {}
    strain = ", ".join(f"{name} at {value:.0f} %" for name, value in over.items())
    if strain and not engine.strain:
        log(NOTICE, f"the host is under pressure ({strain}): tasks of low priority are refused for now")
    elif engine.strain and not strain:
        log(NOTICE, "the pressure on the host is over: tasks of low priority are taken in again")
    engine.strain = strain
