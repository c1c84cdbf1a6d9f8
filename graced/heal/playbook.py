"""What a playbook is: triggers, preconditions, steps from a fixed vocabulary, limits.

A playbook is data (one TOML file), never a command: each step is a verb that the actuator knows. The parser
reports every problem with its line and never raises anything but ConfigError. Pure; used by Code, Healing,
Governance and the actuator.
"""

from __future__ import annotations

from graced.base.record import Record
from graced.base.schema import Problems, Table, no_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.base.schema import LineOf

RESTART = "restart"
START = "start"
RELOAD = "reload"
RESET_FAILED = "reset-failed"
KILL = "kill"
RESTORE_CONFIG = "restore-config"
DIAGNOSE = "diagnose"
VERBS = (RESTART, START, RELOAD, RESET_FAILED, KILL, RESTORE_CONFIG, DIAGNOSE)
"""Every step there is."""

VERB_TIER = {RESTART: 2, START: 2, RELOAD: 2, RESET_FAILED: 2, KILL: 2, RESTORE_CONFIG: 3, DIAGNOSE: 0}
"""The lowest autonomy tier a playbook with this verb can have."""

UNIT_FAILED = "unit.failed"
UNIT_HUNG = "unit.hung"
CONFIG_DAMAGED = "config.damaged"
CONFIG_INVALID = "config.invalid"
START_SLOW = "start.slow"
HOST_PRESSURE = "host.pressure"
TRIGGERS = (UNIT_FAILED, UNIT_HUNG, CONFIG_DAMAGED, CONFIG_INVALID, START_SLOW, HOST_PRESSURE)
"""Every finding there is."""

RISKS = ("low", "medium", "high")
MAX_TIER = 4

ACTIVE_STATES = ("active", "reloading", "inactive", "failed", "activating", "deactivating")
"""systemd's ActiveState."""

CONFIG_SAME = "same"
CONFIG_EDITED = "edited"
CONFIG_IS_INVALID = "invalid"
CONFIG_IS_DAMAGED = "damaged"
CONFIG_UNKNOWN = "unknown"
CONFIG_STATES = (CONFIG_SAME, CONFIG_EDITED, CONFIG_IS_INVALID, CONFIG_IS_DAMAGED, CONFIG_UNKNOWN)
"""The config against the last-known-good copy: the same; edited and accepted by the validator; edited and refused
by it; damaged (missing, unreadable, not text, wrong owner or mode); or unknown
(no copy to compare with, or the validator could not decide)."""

NAME = r"[a-z0-9][a-z0-9-]{0,62}"


class Step(Record):
    """One verb of the vocabulary and how long it may take."""

    verb: str
    timeout_seconds: float = 10.0


class Preconditions(Record):
    """What must hold before the playbook is even planned. Empty means any."""

    unit_states: tuple[str, ...] = ()
    config: tuple[str, ...] = ()


class PlaybookLimits(Record):
    """Bounds for one unit, on top of the policy's own. 0 means no bound from the playbook.

    A unit that fails again by itself within `lasting_seconds` was not repaired; 0 when that says nothing about it.
    """

    per_unit_per_hour: int = 0
    cooldown_seconds: float = 0.0
    lasting_seconds: float = 60.0


class Playbook(Record):
    """A checked playbook. `digest` is the SHA-256 (hex) of the file it came from."""

    name: str
    description: str
    risk: str
    tier: int
    triggers: tuple[str, ...]
    preconditions: Preconditions
    steps: tuple[Step, ...]
    undo: bool
    limits: PlaybookLimits
    digest: str = ""
    path: str = ""

    def acts(self) -> bool:
        """Whether any step changes the host."""
        return any(step.verb != DIAGNOSE for step in self.steps)


def parse_playbook(
    name: str, data: JsonDict, line_of: LineOf = no_lines, *, digest: str = "", path: str = ""
) -> Playbook:
    """Check a parsed TOML file and build the Playbook. ConfigError lists every problem with dotted key and line."""
    problems = Problems(path or f"{name}.toml", line_of)
    check_name(name, problems)
    top = Table(problems, data)
    playbook = Playbook(
        name=name,
        description=top.text("description", required=True),
        risk=top.text("risk", "high", required=True, choices=RISKS),
        tier=top.whole("tier", MAX_TIER, 0, MAX_TIER, required=True),
        triggers=top.texts("triggers", required=True, choices=TRIGGERS),
        preconditions=_preconditions(top.table("preconditions")),
        steps=_steps(top),
        undo=top.flag("undo", default=False),
        limits=_limits(top.table("limits")),
        digest=digest,
        path=path,
    )
    top.done()
    _check_sense(playbook, problems)
    problems.raise_if_any()
    return playbook


def check_name(name: str, problems: Problems) -> None:
    """A file's base name is the name of what is in it: lower case, digits and dashes."""
    import re

    if not re.fullmatch(NAME, name):
        problems.add("", f"the file name {name!r} is no name: lower-case letters, digits and dashes")


def _preconditions(table: Table) -> Preconditions:
    states = table.texts("unit_state", choices=ACTIVE_STATES, bare=True)
    config = table.texts("config", choices=(*CONFIG_STATES, "any"), bare=True)
    table.done()
    return Preconditions(unit_states=states, config=() if "any" in config else config)


def _steps(top: Table) -> tuple[Step, ...]:
    steps = []
    for table in top.tables("step", required=True, most=16):
        verb = table.text("verb", required=True, choices=VERBS)
        seconds = table.number("timeout_seconds", 10.0, 0.1, 600.0)
        table.done()
        steps.append(Step(verb=verb, timeout_seconds=seconds))
    return tuple(steps)


def _limits(table: Table) -> PlaybookLimits:
    limits = PlaybookLimits(
        per_unit_per_hour=table.whole("per_unit_per_hour", 0, 0, 1000),
        cooldown_seconds=table.number("cooldown_seconds", 0.0, 0.0, 86400.0),
        lasting_seconds=table.number("lasting_seconds", 60.0, 0.0, 86400.0),
    )
    table.done()
    return limits


def _check_sense(playbook: Playbook, problems: Problems) -> None:
    if not playbook.steps and not problems.found:
        problems.add("step", "at least one step is needed")
    for index, step in enumerate(playbook.steps):
        least = VERB_TIER.get(step.verb, 0)
        if playbook.tier < least:
            problems.add(f"step[{index}].verb", f"{step.verb} needs tier {least}, the playbook has {playbook.tier}")
    if any(step.verb == RESTORE_CONFIG for step in playbook.steps) and not playbook.undo:
        problems.add("undo", f"a playbook with {RESTORE_CONFIG} must set undo = true")
