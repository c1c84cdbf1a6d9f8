"""The checks of a unit, in the order they are asked. A new check is one file and one line here.

host_pressure (of the host) and config_damaged (of the actuator's digest) have other inputs and are called by name.
"""

from __future__ import annotations

from graced.heal.checks import start_slow, unit_failed, unit_hung

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.heal.checks.facts import Check

UNIT_CHECKS: tuple[Check, ...] = (unit_failed.judge, unit_hung.judge, start_slow.judge)
