"""What is known of a systemd unit: its state as systemd tells it, and an observation of how it serves.

Values are facts, not judgements (those are graced.heal.checks). "" and None mean unknown, never healthy. Times are
µs of CLOCK_MONOTONIC as systemd stamps them, 0 = never. Used by Infrastructure, Verification and the checks.
"""

from __future__ import annotations

from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from graced.base.json import JsonDict

ACTIVE_STATES = frozenset({"active", "reloading"})
MOVING_STATES = frozenset({"activating", "deactivating", "maintenance"})
_FIELDS = {
    "LoadState": "load_state",
    "ActiveState": "active_state",
    "SubState": "sub_state",
    "Result": "result",
    "Restart": "restart",
    "UnitFileState": "unit_file_state",
    "MainPID": "main_pid",
    "NRestarts": "n_restarts",
    "ExecMainCode": "exec_main_code",
    "ExecMainStatus": "exec_main_status",
    "InvocationID": "invocation_id",
    "Job": "job",
    "ControlGroup": "control_group",
    "InactiveExitTimestampMonotonic": "inactive_exit_us",
    "ActiveEnterTimestampMonotonic": "active_enter_us",
    "ActiveExitTimestampMonotonic": "active_exit_us",
    "InactiveEnterTimestampMonotonic": "inactive_enter_us",
    "StateChangeTimestampMonotonic": "state_change_us",
    "ExecMainStartTimestampMonotonic": "main_start_us",
    "ExecMainExitTimestampMonotonic": "main_exit_us",
}


class UnitState(Record):
    """One unit as systemd sees it. `job` is the id of a queued or running job, 0 = none."""

    unit: str
    load_state: str = ""
    active_state: str = ""
    sub_state: str = ""
    result: str = ""
    restart: str = ""
    unit_file_state: str = ""
    main_pid: int = 0
    n_restarts: int = 0
    exec_main_code: int = 0
    exec_main_status: int = 0
    invocation_id: str = ""
    job: int = 0
    control_group: str = ""
    inactive_exit_us: int = 0
    active_enter_us: int = 0
    active_exit_us: int = 0
    inactive_enter_us: int = 0
    state_change_us: int = 0
    main_start_us: int = 0
    main_exit_us: int = 0

    @classmethod
    def from_properties(cls, unit: str, properties: Mapping[str, str | int]) -> UnitState:
        """From the normal form of graced.host.systemd; what is missing stays unknown."""
        return cls(unit=unit).updated(properties)

    def updated(self, properties: Mapping[str, str | int]) -> UnitState:
        """With the properties that changed."""
        changes = {_FIELDS[name]: value for name, value in properties.items() if name in _FIELDS}
        return self.replace(**changes) if changes else self

    @property
    def active(self) -> bool | None:
        """Whether it is up; None while unknown or on its way."""
        if self.active_state in ACTIVE_STATES:
            return True
        return None if not self.active_state or self.active_state in MOVING_STATES else False

    @property
    def start_ms(self) -> float | None:
        """How long the last start took, from leaving inactive to active; None when it never came up since."""
        if self.active_state not in ACTIVE_STATES or not 0 < self.inactive_exit_us <= self.active_enter_us:
            return None
        return (self.active_enter_us - self.inactive_exit_us) / 1000

    @property
    def fault_us(self) -> int | None:
        """systemd's own stamp of the fault of a failed unit; None when it has none.

        The death of the main process when it belongs to the last run, else the moment the unit became failed.
        """
        if self.active_state != "failed":
            return None
        since_us = max(self.inactive_exit_us, self.main_start_us)
        if self.main_exit_us and since_us <= self.main_exit_us <= (self.inactive_enter_us or self.main_exit_us):
            return self.main_exit_us
        return self.inactive_enter_us or self.state_change_us or None


class UnitObservation(Record):
    """How a unit serves at one moment. `errors`: new journal errors, None when the journal did not answer."""

    unit: str
    active_state: str
    sub_state: str
    result: str
    main_pid: int
    n_restarts: int
    probe: JsonDict
    errors: int | None
    monotonic_us: int
