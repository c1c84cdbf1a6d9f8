"""How to know a daemon: its unit, config files, validator, probes and the playbooks that fit it.

A profile is one TOML file and no code. The parser reports every problem with its line and never raises anything
but ConfigError. Pure; used by Infrastructure, Verification, Healing, Code, the actuator and `gracectl adopt`.
"""

from __future__ import annotations

from graced.base.record import Record
from graced.base.schema import Problems, Table, no_lines
from graced.heal.playbook import NAME, check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.base.schema import LineOf

VALIDATE_COMMAND = "command"
VALIDATE_TRIAL_START = "trial-start"
VALIDATE_NONE = "none"
VALIDATE_METHODS = (VALIDATE_COMMAND, VALIDATE_TRIAL_START, VALIDATE_NONE)
"""A checking command that exits 0 on a good config; a second instance started on a copy; or nothing to check with."""

PROBE_HTTP = "http"
PROBE_TCP = "tcp"
PROBE_UNIX = "unix"
PROBE_KINDS = (PROBE_HTTP, PROBE_TCP, PROBE_UNIX)

PLACEHOLDERS = ("{config}", "{tmp}")
"""What a validate command may contain: the (copied) main config file, and an empty private directory."""

UNIT = r"[A-Za-z0-9][A-Za-z0-9:_.\\@-]{0,247}\.service"
_PATH = r"/[^\x00]{1,1023}"
_FILE_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"
_LOOPBACK = r"(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|localhost|\[::1\]):([1-9]\d{0,4})"


class Validate(Record):
    """How the config is checked before it counts.

    `command` is an argv whose elements may contain ``{config}`` (first of `config_paths`) and ``{tmp}``. With
    method trial-start the config is good when the command still runs after `settle_ms` and, when `ready` is given,
    the file of that name is in ``{tmp}``: on a busy host it may not even have read the config by then.
    """

    method: str = VALIDATE_NONE
    command: tuple[str, ...] = ()
    as_unit: bool = True
    timeout_seconds: float = 5.0
    settle_ms: int = 300
    ready: str = ""


class Probe(Record):
    """One question to the served daemon. `address` is loopback host:port, or a socket path for kind unix.

    tcp/unix: `send` is written, the reply must begin with `expect` (both may be empty: a connection is enough).
    http: GET `path`, the status must be within `expect_status` (inclusive). Hung after `failures` in a row.
    """

    kind: str
    address: str
    send: str = ""
    expect: str = ""
    path: str = "/"
    expect_status: tuple[int, int] = (200, 499)
    interval_seconds: float = 2.0
    timeout_ms: int = 1000
    failures: int = 3


class Profile(Record):
    """A checked profile. `playbooks` is the default order; `digest` is the SHA-256 (hex) of the file.

    `config_paths` are absolute and may have globs in the last component; the first is the main file.
    `settle_ms` is how long the unit must keep serving before a repair counts.
    """

    name: str
    unit: str
    description: str
    config_paths: tuple[str, ...]
    validate: Validate
    probes: tuple[Probe, ...]
    ready_within_seconds: float
    settle_ms: int
    playbooks: tuple[str, ...]
    digest: str = ""
    path: str = ""


def parse_profile(
    name: str, data: JsonDict, line_of: LineOf = no_lines, *, digest: str = "", path: str = ""
) -> Profile:
    """Check a parsed TOML file and build the Profile. ConfigError lists every problem with dotted key and line."""
    problems = Problems(path or f"{name}.toml", line_of)
    check_name(name, problems)
    top = Table(problems, data)
    start = top.table("start")
    heal = top.table("heal")
    profile = Profile(
        name=name,
        unit=top.text("unit", required=True, match=UNIT),
        description=top.text("description"),
        config_paths=_config_paths(top.table("config")),
        validate=_validate(top.table("validate")),
        probes=tuple(_probe(table) for table in top.tables("probe", most=8)),
        ready_within_seconds=start.number("ready_within_seconds", 10.0, 0.1, 600.0),
        settle_ms=start.whole("settle_ms", 100, 0, 60_000),
        playbooks=heal.texts("playbooks", required=True, match=NAME),
        digest=digest,
        path=path,
    )
    for table in (start, heal, top):
        table.done()
    if profile.validate.method != VALIDATE_NONE and not profile.config_paths:
        problems.add("config", "paths are needed to validate anything")
    problems.raise_if_any()
    return profile


def _config_paths(table: Table) -> tuple[str, ...]:
    paths = table.texts("paths", match=_PATH)
    table.done()
    for index, path in enumerate(paths):
        parts = path.split("/")[1:]
        where = f"paths[{index}]"
        if any(part in {"", ".", ".."} for part in parts):
            table.bad(where, "must be plain: no empty component, no . and no ..")
        if any(char in part for part in parts[:-1] for char in "*?["):
            table.bad(where, "a glob is only accepted in the last component")
        if len(parts) < 2:
            table.bad(where, "files directly under / are not accepted")
    if paths and any(char in paths[0] for char in "*?["):
        table.bad("paths[0]", "the first path is the main config file and must not be a glob")
    return paths


def _validate(table: Table) -> Validate:
    trial = table.table("trial")
    settle_ms = trial.whole("settle_ms", 300, 10, 60_000)
    ready = trial.text("ready", "", match=_FILE_NAME)
    trial.done()
    validate = Validate(
        method=table.text("method", VALIDATE_NONE, choices=VALIDATE_METHODS),
        command=table.texts("command", unique=False),
        as_unit=table.flag("as_unit", default=True),
        timeout_seconds=table.number("timeout_seconds", 5.0, 0.1, 60.0),
        settle_ms=settle_ms,
        ready=ready,
    )
    table.done()
    if (validate.method == VALIDATE_NONE) != (not validate.command):
        table.bad("command", f"method {validate.method} and the command do not fit together")
    if validate.command and not validate.command[0].startswith("/"):
        table.bad("command[0]", "the program needs its absolute path")
    for index, word in enumerate(validate.command):
        rest = word
        for placeholder in PLACEHOLDERS:
            rest = rest.replace(placeholder, "")
        if "{" in rest or "}" in rest:
            table.bad(f"command[{index}]", f"the placeholders are {' and '.join(PLACEHOLDERS)}")
    if validate.method == VALIDATE_TRIAL_START and settle_ms >= validate.timeout_seconds * 1000:
        table.bad("timeout_seconds", "must be longer than trial.settle_ms")
    return validate


def _probe(table: Table) -> Probe:
    kind = table.text("kind", required=True, choices=PROBE_KINDS)
    match = _PATH if kind == PROBE_UNIX else _LOOPBACK
    probe = Probe(
        kind=kind,
        address=table.text("address", required=True, match=match),
        interval_seconds=table.number("interval_seconds", 2.0, 0.1, 3600.0),
        timeout_ms=table.whole("timeout_ms", 1000, 10, 60_000),
        failures=table.whole("failures", 3, 1, 100),
        **_question(table, kind),
    )
    table.done()
    if kind != PROBE_UNIX and probe.address and int(probe.address.rsplit(":", 1)[1]) > 65535:
        table.bad("address", "the port is not within 1..65535")
    return probe


def _question(table: Table, kind: str) -> JsonDict:
    if kind != PROBE_HTTP:
        return {"send": table.text("send"), "expect": table.text("expect")}
    low, high = 200, 499
    bounds = table.take("expect_status")
    if bounds is not None:
        if isinstance(bounds, list) and len(bounds) == 2 and all(type(bound) is int for bound in bounds):
            low, high = bounds
        if bounds != [low, high] or not 100 <= low <= high <= 599:
            table.bad("expect_status", "two whole numbers are needed: the lowest and the highest good status")
            low, high = 200, 499
    return {"path": table.text("path", "/", match=r"/[!-~]*"), "expect_status": (low, high)}
