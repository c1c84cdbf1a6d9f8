"""Would the unit start with this config? Asked of the daemon itself, in a transient unit, never of the real
one.

``command`` runs the profile's validator with the unit's own user, capabilities and paths.
``trial-start`` starts the given command without network and with nothing writable but its own run-time
directory, and expects it alive after `settle_ms`: it can reach neither the real data nor the real port.
Output and time are bounded.
"""

from __future__ import annotations

import os

from graced.base.errors import HostError
from graced.base.record import Record
from graced.runtime.loop import Future
from graced.runtime.process import run_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.actuator.units import Units
    from graced.runtime.loop import Loop, Task
    from graced.runtime.process import Completed

SYSTEMCTL = "/usr/bin/systemctl"
SYSTEMD_RUN = "/usr/bin/systemd-run"
MAX_OUTPUT_BYTES = 8192
_SHOW_TIMEOUT_S = 5.0
_SPAWN_MARGIN_S = 3.0
_READY_WAIT_S = 2.5  # below _SPAWN_MARGIN_S: RuntimeMaxSec= must not decide
_READY_POLL_S = 0.02
# systemd.exec(5): what systemd itself says when it cannot run a program. 255 is a program's own -1 (lighttpd).
_SYSTEMD_EXITS = range(200, 255)
# What makes a validator see the world as the unit does. Directories that systemd would remove with the
# transient unit (RuntimeDirectory= and friends) are not copied.
_IDENTITY = ("User", "Group", "SupplementaryGroups", "UMask", "Environment", "WorkingDirectory", "RootDirectory")
_RIGHTS = (
    "CapabilityBoundingSet", "AmbientCapabilities", "NoNewPrivileges", "LimitNOFILE", "LimitMEMLOCK",
    "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality",
    "SystemCallFilter", "SystemCallArchitectures", "MemoryDenyWriteExecute",
    "PrivateTmp", "PrivateDevices", "PrivateUsers", "PrivateNetwork", "PrivateIPC", "ProtectSystem", "ProtectHome",
    "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock",
    "ProtectHostname", "ProtectProc", "ProcSubset",
)  # fmt: skip
_PATHS = (
    "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths", "BindPaths",
    "BindReadOnlyPaths", "TemporaryFileSystem",
)  # fmt: skip
COPIED = (*_IDENTITY, *_RIGHTS, *_PATHS)


class Outcome(Record):
    """`valid` is None when it could not be decided; `output` says why."""

    valid: bool | None
    output: str
    duration_ms: float


class Recipe(Record):
    """A profile's [validate] section: `method` is ``command``, ``trial-start`` or ``none``."""

    method: str
    command: tuple[str, ...] = ()
    as_unit: bool = True
    timeout_s: float = 5.0
    settle_ms: float = 500.0
    config: str = ""
    ready: str = ""


def properties_of(shown: str) -> list[str]:
    """``-p Name=value`` arguments out of `systemctl show` text; empty values mean the default and are left
    out.
    """
    arguments = []
    for line in shown.splitlines():
        name, equals, value = line.partition("=")
        if equals and name in COPIED and value and not value.startswith("[not set]"):
            arguments += ["-p", f"{name}={value}"]
    return arguments


def argv_for(recipe: Recipe, trial_unit: str, properties: list[str]) -> list[str]:
    """The systemd-run command line of a trial; the profile's ``{config}`` and ``{tmp}`` are filled in."""
    tmp = f"/run/{trial_unit}"
    limit_s = recipe.timeout_s if recipe.method == "command" else recipe.settle_ms / 1000 + _SPAWN_MARGIN_S
    argv = [
        SYSTEMD_RUN, "--quiet", "--wait", "--pipe", "--collect", f"--unit={trial_unit}", *properties,
        "-p", f"Description=graced trial of {recipe.config or recipe.command[0]}",
        "-p", f"RuntimeMaxSec={limit_s:g}s", "-p", "KillSignal=SIGKILL", "-p", "TimeoutStopSec=2s",
        "-p", f"RuntimeDirectory={trial_unit}", "-p", "RuntimeDirectoryMode=0700", "-p", "LimitCORE=0",
        # A refused config is an answer, not a failure of the host: PID 1 need not warn about it.
        "-p", "LogLevelMax=err",
    ]  # fmt: skip
    if recipe.method == "trial-start":
        argv += ["-p", "PrivateNetwork=yes", "-p", "ProtectSystem=strict", "-p", "PrivateTmp=yes"]
    return [*argv, "--", *(part.replace("{config}", recipe.config).replace("{tmp}", tmp) for part in recipe.command)]


class Trials:
    """Runs trials; several at a time are fine."""

    def __init__(self, loop: Loop, units: Units) -> None:
        self._loop = loop
        self._units = units

    async def run(self, unit: str, recipe: Recipe) -> Outcome:
        """Ask the daemon. Raises HostError only when systemd itself cannot be asked."""
        if recipe.method == "none" or not recipe.command:
            return Outcome(None, "the profile has no validator", 0.0)
        started_s = self._loop.now_s()
        properties = await self._properties(unit, recipe) if recipe.as_unit else []
        trial_unit = f"graced-trial-{os.urandom(6).hex()}"
        argv = argv_for(recipe, trial_unit, properties)
        starting = recipe.method == "trial-start"
        limit_s = recipe.settle_ms / 1000 if starting else recipe.timeout_s
        running = self._loop.spawn(
            run_process(self._loop, argv, limit_s + _SPAWN_MARGIN_S, max_output_bytes=MAX_OUTPUT_BYTES)
        )
        decided = Future()
        running.when_done(decided.set_result)
        timer = self._loop.call_later(limit_s, decided.set_result)
        await decided
        timer.cancel()
        ready = not recipe.ready or await self._ready(f"/run/{trial_unit}/{recipe.ready}", running)
        in_time = running.done()
        if not in_time:
            # systemd-run ends by itself when its unit does, and its output is then complete.
            await self._end(f"{trial_unit}.service")
        done = await running
        judge = judge_start if starting else judge_command
        valid, output = judge(done, alive=not in_time)
        if valid and not ready:
            valid, output = None, f"it was still starting when its time was over\n{output}".strip()
        return Outcome(valid, output, (self._loop.now_s() - started_s) * 1000)

    async def _ready(self, path: str, running: Task) -> bool:
        """Whether the trial has made the file that says it is up; waits until then, its end or its last second."""
        deadline_s = self._loop.now_s() + _READY_WAIT_S
        while not os.path.lexists(path) and not running.done() and self._loop.now_s() < deadline_s:
            await self._loop.sleep(_READY_POLL_S)
        return os.path.lexists(path)

    async def _properties(self, unit: str, recipe: Recipe) -> list[str]:
        argv = [SYSTEMCTL, "show", f"--property={','.join(COPIED)}", "--", unit]
        shown = await run_process(self._loop, argv, _SHOW_TIMEOUT_S, max_output_bytes=1 << 20)
        if shown.returncode != 0:
            raise HostError(f"systemctl show {unit}: {shown.stderr.strip() or shown.returncode}")
        text = shown.stdout
        if recipe.method == "trial-start":
            text = "\n".join(line for line in text.splitlines() if not line.startswith("ReadWritePaths="))
        return properties_of(text)

    async def _end(self, trial_unit: str) -> None:
        from signal import SIGKILL

        try:
            await self._units.kill_all(trial_unit, SIGKILL)
        except HostError:
            # Gone already: RuntimeMaxSec= or its own end was faster.
            return


def judge_command(done: Completed, *, alive: bool) -> tuple[bool | None, str]:
    """(valid, output) of a validator's end."""
    output = _text(done)
    if alive or done.timed_out:
        return None, f"the validator did not end in time\n{output}".strip()
    if done.returncode == 0:
        return True, output
    if _not_run(done, output):
        return None, f"the validator could not be run: {output or done.returncode}"
    return False, output


def judge_start(done: Completed, *, alive: bool) -> tuple[bool | None, str]:
    """(valid, output) of a trial start: alive at the end of its time is what is wanted."""
    output = _text(done)
    if alive:
        return True, output
    if done.returncode == 0:
        return None, f"it ended by itself, without an error\n{output}".strip()
    if _not_run(done, output):
        return None, f"the trial could not be started: {output or done.returncode}"
    return False, output


def _not_run(done: Completed, output: str) -> bool:
    # A signal means RuntimeMaxSec= or a crash of the validator itself.
    return (
        done.returncode < 0
        or done.returncode in _SYSTEMD_EXITS
        or output.startswith(
            ("Failed to start transient", "Failed to connect", "Unknown assignment", "Failed to parse")
        )
    )


def _text(done: Completed) -> str:
    return "\n".join(part.strip() for part in (done.stderr, done.stdout) if part.strip())
