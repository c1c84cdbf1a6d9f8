"""What every command shares: options, the way to the daemons, and errors in human words.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage (click), 3 degraded and 4 not running (`status` only), 5 to 7 for
what became of a task (`graced.cli.follow`).
Only click is imported at the top: `gracectl --help` and completion must feel instant.
"""

from __future__ import annotations

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.base.errors import GracedError
    from graced.base.json import JsonDict
    from graced.base.paths import Paths
    from graced.varlink.client import Client
    from graced.varlink.wire import VarlinkError

EXIT_FAILED = 1
EXIT_DEGRADED = 3
EXIT_NOT_RUNNING = 4

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Failure(click.ClickException):
    """An error on its way to the person: one sentence, what to do next, and with --verbose its causes."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: Any = None) -> None:
        """Write it to stderr."""
        from graced.cli.output import printable

        lines = [f"gracectl: {printable(line) if line else line}" for line in self.message.splitlines()]
        if self.hint:
            lines.append(f"  next: {printable(self.hint)}")
        if _VERBOSE:
            lines += [f"  because: {printable(cause)}" for cause in _causes(self)]
        click.echo("\n".join(lines), err=True, file=file)


def _causes(error: BaseException) -> list[str]:
    causes = []
    cause = error.__cause__
    while cause is not None:
        causes.append(f"{type(cause).__module__}.{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    return causes


# The context is gone when click shows an error, so the flag is kept beside it; `begin` resets it.
_VERBOSE: list[bool] = []


def _set_verbose(_context: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    if value:
        _VERBOSE.append(True)
    return value


def begin() -> None:
    """Forget what an earlier invocation in the same process (tests) asked for."""
    _VERBOSE.clear()


def verbose_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--verbose: show what caused an error."""
    return click.option(
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_set_verbose,
        help="Show the chain of causes of an error.",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--json for a verb that reads; the command gets it as `form`."""
    return click.option(
        "--json",
        "form",
        type=click.Choice(["short", "pretty", "off"]),
        default="off",
        help="Print JSON: one line, indented, or not at all.",
    )(verbose_option(command))


def paths() -> Paths:
    """Where graced lives on this host."""
    from graced.base.paths import Paths

    return Paths()


def failure_of(error: GracedError) -> Failure:
    """A graced error as the person should read it."""
    from graced.varlink.wire import VarlinkError

    if isinstance(error, VarlinkError):
        return _remote(error)
    return Failure(error.message, error.hint)


def _remote(error: VarlinkError) -> Failure:
    said = error.parameters
    interface = error.error.rpartition(".")[0]
    reason = str(said.get("reason") or said.get("detail") or "")
    match error.name:
        case "PermissionDenied":
            needed = ", ".join(str(role) for role in said.get("needed") or ["root"])
            return Failure(
                f"{said.get('method', interface)}: permission denied, it needs one of: {needed}",
                "use sudo, or ask an admin to add you to the group _graced-read (read) or _graced-admin (act)",
            )
        case "NoSuchTask" if reason:
            archive = "/var/lib/graced/supervisor/archive"
            return Failure(reason, f"as root: zgrep '\"{said.get('task_id')}\"' {archive}/*.gz")
        case "NoSuchTask":
            return Failure(f"there is no task {said.get('task_id')}", "gracectl tasks lists them")
        case "NoSuchIncident":
            return Failure(f"there is no incident {said.get('id')}", "gracectl incidents lists them")
        case "NoSuchUnit" | "NotAdopted":
            return Failure(f"{said.get('unit')} is not adopted", f"gracectl adopt {said.get('unit')}")
        case "Busy" if reason.startswith("drained"):
            return Failure(
                f"{interface} takes in no more tasks for this handler: {reason}",
                "gracectl resume --handler NAME ends the drain; gracectl top --once shows who began it",
            )
        case "Busy":
            return Failure(f"{interface} is busy: {reason}", f"try again in {said.get('retry_after_ms')} ms")
        case "MethodNotFound":
            return Failure(
                f"the running graced does not know {said.get('method')}",
                "it is older than this gracectl: systemctl restart graced.target",
            )
        case "Held":
            return Failure(
                f"not now: {reason} ({said.get('holder')})",
                f"try again in {said.get('retry_after_seconds')} s",
            )
    return Failure(f"{interface} answered {error.name}: {reason or error.message}", error.hint)


def call(method: str, parameters: JsonDict | None = None, timeout_s: float = 5.0) -> JsonDict:
    """One Varlink call to the daemon that serves `method`. Raises WireError or VarlinkError."""
    given = {key: value for key, value in (parameters or {}).items() if value is not None}
    with connect(method.rpartition(".")[0], timeout_s) as client:
        return client.call(method, given)


def connect(interface: str, timeout_s: float = 5.0) -> Client:
    """A connection to the daemon that serves `interface`, for several calls. Raises WireError."""
    from graced.base.errors import WireError
    from graced.varlink.client import Client

    path = paths().socket(interface)
    try:
        return Client(path, timeout_s)
    except WireError as error:
        if isinstance(error.__cause__, PermissionError):
            raise WireError(
                f"{path}: permission denied",
                hint="use sudo, or ask an admin to add you to the group _graced-read",
            ) from error
        raise


def attempt(method: str, parameters: JsonDict | None = None) -> tuple[JsonDict | None, str]:
    """As `call` for answers that may be missing: the reply or None, and why there is none."""
    from graced.base.errors import GracedError

    try:
        return call(method, parameters, timeout_s=3.0), ""
    except GracedError as error:
        return None, failure_of(error).message


def need_root(what: str) -> None:
    """Raise Failure unless this process is root."""
    import os

    if os.geteuid() != 0:
        raise Failure(f"{what} changes this host and needs root", "run it again with sudo")
