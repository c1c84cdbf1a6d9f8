"""systemd's manager seen from outside: names, properties, jobs, and the text of `systemctl show`.

Two ways to the same facts: D-Bus (told within milliseconds) and `systemctl show` (one process for many units,
no import, another path than D-Bus for whoever wants a second opinion). Both are brought to one form: a dict of
`PROPERTIES` with str and int values, times in microseconds of CLOCK_MONOTONIC (0 = never).

The parsers are pure. Used by the Infrastructure and Verification kernels and by the actuator.
"""

from __future__ import annotations

from graced.base.errors import HostError
from graced.host.dbus import DBusError, MatchRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from graced.base.json import JsonDict
    from graced.host.dbus import Signal, Subscription, SystemBus

    Properties = dict[str, str | int]
    JobCallback = Callable[[str | None, HostError | None], None]
    DoneCallback = Callable[[HostError | None], None]

SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
UNIT_INTERFACE = "org.freedesktop.systemd1.Unit"
SERVICE_INTERFACE = "org.freedesktop.systemd1.Service"
PROPERTIES_INTERFACE = "org.freedesktop.DBus.Properties"
_SUBSCRIBED = "org.freedesktop.systemd1.AlreadySubscribed"
SYSTEMCTL = "/usr/bin/systemctl"

# What graced wants to know of a unit, and the kind of each value.
PROPERTIES: dict[str, str] = {
    "Id": "str",
    "LoadState": "str",
    "ActiveState": "str",
    "SubState": "str",
    "UnitFileState": "str",
    "Result": "str",
    "Restart": "str",
    "MainPID": "int",
    "NRestarts": "int",
    "ExecMainCode": "int",
    "ExecMainStatus": "int",
    "InvocationID": "id",
    "Job": "job",
    "ControlGroup": "str",
    "StateChangeTimestampMonotonic": "int",
    "InactiveExitTimestampMonotonic": "int",
    "ActiveEnterTimestampMonotonic": "int",
    "ActiveExitTimestampMonotonic": "int",
    "InactiveEnterTimestampMonotonic": "int",
    "ExecMainStartTimestampMonotonic": "int",
    "ExecMainExitTimestampMonotonic": "int",
}
# What is read of a unit when systemd tells all of it.
READ = frozenset(PROPERTIES)
# GetAll of every interface at once, for what belongs together: one moment, one call.
EVERY_INTERFACE = ""
UNIT_SUFFIXES = (
    ".service",
    ".socket",
    ".target",
    ".timer",
    ".path",
    ".mount",
    ".slice",
    ".scope",
    ".swap",
    ".automount",
    ".device",
)
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_UNIT_CHARS = _PLAIN | frozenset(":-_.\\@")


def is_unit_name(name: str) -> bool:
    """Whether systemd would take it as the full name of a unit (unit_name_is_valid, without templates)."""
    stem, dot, _suffix = name.rpartition(".")
    if not dot or not stem or not name.endswith(UNIT_SUFFIXES) or len(name) > 255:
        return False
    return all(c in _UNIT_CHARS for c in name) and not stem.startswith("@") and not stem.endswith("@")


def bus_path_for_unit(unit: str) -> str:
    """The object path of a unit: every byte outside [A-Za-z0-9], and a leading digit, becomes _xx."""
    escaped = []
    for index, byte in enumerate(unit.encode()):
        char = chr(byte)
        plain = char in _PLAIN and not (index == 0 and char.isdigit())
        escaped.append(char if plain else f"_{byte:02x}")
    return f"{MANAGER_PATH}/unit/{''.join(escaped) or '_'}"


def interface_of(unit: str) -> str:
    """What GetAll is to be asked for to learn all that graced reads of the unit."""
    return EVERY_INTERFACE if unit.endswith(".service") else UNIT_INTERFACE


def unit_for_bus_path(path: str) -> str:
    """The reverse of bus_path_for_unit; raises HostError when the path is not one of a unit."""
    prefix = f"{MANAGER_PATH}/unit/"
    rest = path.removeprefix(prefix)
    if rest == path:
        raise HostError(f"{path} is not the path of a unit")
    if rest == "_":
        return ""
    first, *others = rest.split("_")
    data = first.encode()
    try:
        for part in others:
            data += bytes.fromhex(part[:2]) + part[2:].encode()
            if len(part) < 2:
                raise ValueError("short escape")
        return data.decode()
    except ValueError as problem:
        raise HostError(f"{path} is not the path of a unit") from problem


def show_argv(units: Iterable[str]) -> list[str]:
    """The command whose output `parse_show` reads; units must not be empty (it would show the manager)."""
    names = list(units)
    if not names:
        raise ValueError("no units")
    return [SYSTEMCTL, "show", f"--property={','.join(PROPERTIES)}", "--", *names]


def parse_show(text: str) -> list[Properties]:
    """Parse the output of `show_argv`: one dict per unit, in the order asked.

    A property that systemd did not print is absent from the dict: unknown, not empty. Lines that are not
    `Name=value` and names nobody asked for are ignored; a value that is not of its kind raises HostError.
    """
    units: list[Properties] = []
    for block in text.split("\n\n"):
        found: Properties = {}
        for line in block.split("\n"):
            name, equals, value = line.partition("=")
            kind = PROPERTIES.get(name)
            if equals and kind is not None:
                found[name] = _shown(name, kind, value)
        if found:
            units.append(found)
    return units


def _shown(name: str, kind: str, value: str) -> str | int:
    if kind in {"int", "job"}:
        if value in {"", "[not set]", "infinity"}:
            return 0
        if not (value.isascii() and value.isdigit()):
            raise HostError(f"systemctl show: {name}={value!r} is not a number")
        return int(value)
    return value


def parse_changed(changed: dict[str, tuple[str, Any]]) -> Properties:
    """Bring the variants of PropertiesChanged or GetAll to the same form; names nobody needs are dropped."""
    found: Properties = {}
    for name, variant in changed.items():
        kind = PROPERTIES.get(name)
        if kind is None:
            continue
        value = variant[1]
        if kind == "job":
            found[name] = int(value[0])
        elif kind == "id":
            found[name] = bytes(value).hex()
        elif kind == "int":
            found[name] = int(value)
        else:
            found[name] = str(value)
    return found


def list_argv() -> list[str]:
    """The command whose output `parse_list` reads: every service systemd has loaded."""
    return [SYSTEMCTL, "list-units", "--type=service", "--all", "--no-pager", "--full", "--output=json"]


def parse_list(text: str) -> list[JsonDict]:
    """Services as {"unit", "load_state", "active_state", "sub_state", "description", "adopted": false}.

    Raises HostError when it is not the JSON of `systemctl list-units`.
    """
    import json

    try:
        return [
            {
                "unit": str(row["unit"]),
                "load_state": str(row["load"]),
                "active_state": str(row["active"]),
                "sub_state": str(row["sub"]),
                "description": str(row.get("description", "")),
                "adopted": False,
            }
            for row in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        raise HostError(f"systemctl list-units said what cannot be read: {problem!r}") from problem


class Manager:
    """systemd's manager over one SystemBus: subscription, jobs with their results, the few calls graced makes."""

    def __init__(self, bus: SystemBus) -> None:
        self._bus = bus
        bus.read_only(READ)
        self._waiting: dict[str, JobCallback] = {}
        self._finished: dict[str, str] = {}
        self.on_job_new: Callable[[int, str], None] | None = None
        self.on_job_removed: Callable[[int, str, str], None] | None = None
        self.on_reloaded: Callable[[], None] | None = None
        bus.match(MatchRule(SYSTEMD, path=MANAGER_PATH, interface=MANAGER, member="JobRemoved"), self._removed)

    def subscribe(self, callback: DoneCallback | None = None) -> None:
        """Ask systemd to announce changes to this connection. Needed again when systemd's owner changes.

        A systemd that has executed itself anew may remember it: that is as good.
        """

        def done(error: HostError | None) -> None:
            if callback is not None:
                callback(None if isinstance(error, DBusError) and error.name == _SUBSCRIBED else error)

        self._call("Subscribe", "", (), done)

    def follow_jobs(self) -> None:
        """Also hear of new jobs (on_job_new) and of reloaded unit files (on_reloaded); JobRemoved is always heard."""
        self._bus.match(MatchRule(SYSTEMD, path=MANAGER_PATH, interface=MANAGER, member="JobNew"), self._new)
        self._bus.match(MatchRule(SYSTEMD, path=MANAGER_PATH, interface=MANAGER, member="Reloading"), self._reloading)

    def follow_unit(self, unit: str, callback: Callable[[str, Properties], None]) -> Subscription:
        """`callback(unit, changed)` at every PropertiesChanged of the unit (its primary name)."""

        def on_signal(signal: Signal) -> None:
            if len(signal.body) == 3 and signal.body[0] in {UNIT_INTERFACE, SERVICE_INTERFACE}:
                callback(unit, parse_changed(signal.body[1]))

        return self._bus.match(
            MatchRule(
                SYSTEMD, path=bus_path_for_unit(unit), interface=PROPERTIES_INTERFACE, member="PropertiesChanged"
            ),
            on_signal,
        )

    def run_job(
        self, member: str, unit: str, callback: JobCallback, *, mode: str = "replace", timeout_s: float = 5.0
    ) -> None:
        """StartUnit, StopUnit, RestartUnit, ReloadUnit, … ; `callback(result, None)` when the job is over.

        result is systemd's word: done, failed, canceled, timeout, dependency, skipped, … . timeout_s bounds the
        answer to the call, not the job: the caller has its own deadline for that and forgets the callback.
        """

        def queued(reply: tuple[Any, ...] | None, error: HostError | None) -> None:
            if reply is None or error is not None:
                callback(None, error or HostError(f"{member} {unit}: empty answer"))
                return
            job = str(reply[0])
            if job in self._finished:
                callback(self._finished.pop(job), None)
            else:
                self._waiting[job] = callback

        self._bus.call(SYSTEMD, MANAGER_PATH, MANAGER, member, "ss", (unit, mode), queued, timeout_s)

    def lost(self, error: HostError) -> None:
        """The bus is gone, and with it systemd's word on the jobs that are waited for: each is told `error`."""
        waiting, self._waiting = self._waiting, {}
        for callback in waiting.values():
            callback(None, error)

    def kill(self, unit: str, signal_number: int, callback: DoneCallback | None = None, *, who: str = "all") -> None:
        """Send a signal to the unit's processes ("all", "main" or "control")."""
        self._call("KillUnit", "ssi", (unit, who, signal_number), callback)

    def reset_failed(self, unit: str, callback: DoneCallback | None = None) -> None:
        """Forget the failed state and the start limit of a unit."""
        self._call("ResetFailedUnit", "s", (unit,), callback)

    def load(self, unit: str, callback: DoneCallback | None = None) -> None:
        """Make systemd load the unit, so that its object is there."""
        self._call("LoadUnit", "s", (unit,), callback)

    def properties(self, unit: str, callback: Callable[[Properties | None, HostError | None], None]) -> None:
        """Unit and Service properties of a unit in one dict, of one moment (service ones only for services)."""

        def got(reply: tuple[Any, ...] | None, error: HostError | None) -> None:
            callback(None if reply is None else parse_changed(reply[0]), error)

        path, body = bus_path_for_unit(unit), (interface_of(unit),)
        self._bus.call(SYSTEMD, path, PROPERTIES_INTERFACE, "GetAll", "s", body, got)

    def system_state(self, callback: Callable[[str | None, HostError | None], None]) -> None:
        """initializing, starting, running, degraded, maintenance, stopping (systemctl is-system-running)."""

        def got(reply: tuple[Any, ...] | None, error: HostError | None) -> None:
            callback(None if reply is None else str(reply[0][1]), error)

        self._bus.call(SYSTEMD, MANAGER_PATH, PROPERTIES_INTERFACE, "Get", "ss", (MANAGER, "SystemState"), got)

    def _call(self, member: str, signature: str, body: tuple[Any, ...], callback: DoneCallback | None) -> None:
        def done(_reply: tuple[Any, ...] | None, error: HostError | None) -> None:
            if callback is not None:
                callback(error)

        self._bus.call(SYSTEMD, MANAGER_PATH, MANAGER, member, signature, body, done)

    def _reloading(self, signal: Signal) -> None:
        # True when it begins, False when it is over.
        if self.on_reloaded is not None and signal.body[:1] == (False,):
            self.on_reloaded()

    def _new(self, signal: Signal) -> None:
        if len(signal.body) == 3 and self.on_job_new is not None:
            self.on_job_new(int(signal.body[0]), str(signal.body[2]))

    def _removed(self, signal: Signal) -> None:
        if len(signal.body) != 4:
            return
        number, path, unit, result = signal.body
        waiting = self._waiting.pop(path, None)
        if waiting is not None:
            waiting(str(result), None)
        else:
            # The job may be over before its own reply was read; only the newest few can still be asked for.
            self._finished[path] = str(result)
            while len(self._finished) > 64:
                del self._finished[next(iter(self._finished))]
        if self.on_job_removed is not None:
            self.on_job_removed(int(number), str(unit), str(result))
