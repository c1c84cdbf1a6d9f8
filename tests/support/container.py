"""A throwaway Debian with a real systemd: systemd-nspawn on a cached image, its writes kept in RAM and thrown away.

Each container has a cgroup of its own (two in one cgroup share the cgroups of units with the same name) and a unique
machine name. Reads go through nsenter; whatever changes something goes through `unit()`, which runs it as a transient
unit inside: nsenter keeps the host's capabilities, and some of the host is not namespaced. Needs root.
Never imports graced.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import selectors
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.image import locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

BOOT_TIMEOUT_SECONDS = 120.0
WAIT_SECONDS = 60.0
"""How long is waited for something that should come at once: several machines may share two processors."""
LOOK_AGAIN_SECONDS = 1.0
COMMAND_SECONDS = 120.0
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
COREDUMP = re.compile(r"code=dumped|dumped core")
SIGNALS = Path(__file__).with_name("signals.py")
CALM = "/run/pressure"


@dataclass(frozen=True)
class Done:
    """How a command inside ended."""

    argv: list[str]
    returncode: int
    stdout: str
    stderr: str

    def ok(self) -> Self:
        """Itself, or an AssertionError that shows what the command said."""
        if self.returncode:
            raise AssertionError(f"{self.argv}: exit {self.returncode}\n{self.stdout}{self.stderr}")
        return self

    def json(self) -> Any:
        """The output, parsed."""
        return json.loads(self.ok().stdout)


@dataclass
class Container:
    """One container; use it as a context manager. `binds` maps host directories (a real disk) to paths inside.

    `calm` hides from Infrastructure how busy the machine is that runs all the tests. With `volatile` off the machine
    writes into `image` itself: give it a copy.
    """

    image: Path
    binds: dict[Path, str] = field(default_factory=dict)
    calm: bool = True
    network: bool = False
    volatile: bool = True
    name: str = field(default_factory=lambda: f"graced-{uuid.uuid4().hex[:12]}")

    def __post_init__(self) -> None:
        self._allowed: list[re.Pattern[str]] = []
        self._allowed_failed: set[str] = set()
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self.leader = 0

    # --- life -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Boots it and returns when its PID 1 says that start-up is finished."""
        try:
            self._start()
        except BaseException:
            console = self._console.read_text(errors="replace") if hasattr(self, "_console") else ""
            self.stop()
            if console:
                print(console)
            raise

    def _start(self) -> None:
        self._stack.enter_context(locked(self.image, shared=True))
        work = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{self.name}-")))
        self._console = work / "console"
        self._cgroup = _cgroup2_mount() / self.name
        self._cgroup.mkdir()
        self._stack.callback(self._remove_cgroup)
        notify = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
        notify.bind(str(work / "notify"))
        command = ["systemd-nspawn", "--quiet", f"--directory={self.image}", f"--machine={self.name}"]
        command += ["--register=no", "--keep-unit", "--notify-ready=yes", "--boot"]
        command += ["--volatile=overlay"] if self.volatile else []
        command += [] if self.network else ["--private-network"]
        command += [f"--bind={host}:{inside}" for host, inside in self.binds.items()]
        command += [f"--bind-ro={host}:{inside}" for host, inside in (_calm(work) if self.calm else {}).items()]
        with open(self._console, "wb") as console:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self._cgroup), *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                env={
                    **ENVIRONMENT,
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                    "NOTIFY_SOCKET": str(work / "notify"),
                },
            )
        self._await_boot(notify)
        # nspawn passes on what PID 1 says, and would wait for ever once nobody reads it.
        notify.close()
        if not self.network:
            self.run(["ip", "link", "set", "lo", "up"]).ok()

    def _await_boot(self, notify: socket.socket) -> None:
        deadline = time.monotonic() + BOOT_TIMEOUT_SECONDS
        ready = False
        while not (ready and self.leader):
            notify.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                message = notify.recv(4096).decode()
            except TimeoutError as error:
                raise AssertionError(f"{self.name} did not boot in {BOOT_TIMEOUT_SECONDS} s") from error
            for line in message.splitlines():
                key, _, value = line.partition("=")
                if key == "X_NSPAWN_LEADER_PID":
                    self.leader = int(value)
                ready = ready or line == "READY=1"

    def stop(self) -> None:
        """Kills whatever is left of it and forgets its writes. Safe to call twice."""
        if self._process is not None:
            (self._cgroup / "cgroup.kill").write_text("1")
            self._process.wait()
            self._process = None
        self._stack.close()

    def poweroff(self, timeout_seconds: float = 2 * WAIT_SECONDS) -> None:
        """An orderly shutdown, waited for."""
        assert self._process is not None
        self.run(["systemctl", "--no-block", "poweroff"])
        self._process.wait(timeout=timeout_seconds)

    def ended(self) -> int:
        """A descriptor that becomes readable when the machine is gone, in any process of this one's family."""
        assert self._process is not None
        return os.pidfd_open(self._process.pid)

    def _remove_cgroup(self) -> None:
        with open(self._cgroup / "cgroup.events") as events:
            changed = select.poll()
            changed.register(events, select.POLLPRI)
            # The kill is asynchronous: the kernel says when the last process is gone.
            while "populated 1" in events.read():
                changed.poll(5000)
                events.seek(0)
        # On a hybrid host nspawn makes the same groups in systemd's own hierarchy and leaves them there.
        for group in (self._cgroup, self._cgroup.parent.parent / "systemd" / self.name):
            for path in sorted([group, *group.rglob("*")], reverse=True):
                if path.is_dir():
                    path.rmdir()

    # --- commands -------------------------------------------------------------------------------------------------

    def run(
        self,
        argv: list[str],
        *,
        user: str | None = None,
        input: str | None = None,
        timeout: float = COMMAND_SECONDS,
    ) -> Done:
        """Runs a command that only looks, or that talks to PID 1. `user` is an account inside."""
        if user is not None:
            argv = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--", *argv]
        done = subprocess.run(
            [*self._enter(), *argv],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            **({"stdin": subprocess.DEVNULL} if input is None else {"input": input}),
        )
        return Done(argv, done.returncode, done.stdout, done.stderr)

    def sh(self, script: str, *, timeout: float = COMMAND_SECONDS) -> Done:
        """Runs a shell script that only looks."""
        return self.run(["/bin/sh", "-ec", script], timeout=timeout)

    def unit(
        self, argv: list[str], *, timeout: float = COMMAND_SECONDS, properties: dict[str, str] | None = None
    ) -> Done:
        """Runs a command as a transient unit inside: for faults, and for all that changes something."""
        options = [f"--property={key}={value}" for key, value in (properties or {}).items()]
        command = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *options, "--", *argv]
        return self.run(command, timeout=timeout)

    def popen(self, argv: list[str], **options: Any) -> subprocess.Popen[str]:
        """A command that stays; the caller ends it."""
        return subprocess.Popen([*self._enter(), *argv], env=ENVIRONMENT, text=True, **options)

    def _enter(self) -> list[str]:
        return ["nsenter", "--target", str(self.leader), "--all", "--"]

    def systemctl(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> Done:
        """systemctl inside."""
        return self.run(["systemctl", *arguments], timeout=timeout)

    # --- files ----------------------------------------------------------------------------------------------------

    def path(self, inside: str) -> Path:
        """The path by which this process sees a file of the container."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def read(self, inside: str) -> str:
        """The text of a file."""
        return self.path(inside).read_text()

    def write(self, inside: str, text: str | bytes, mode: int = 0o644) -> None:
        """Writes a file in place, as an editor without a temporary file does."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)

    def put(self, host: Path, inside: str) -> None:
        """Copies a file of this machine into the container."""
        shutil.copy(host, self.path(inside))

    # --- looking --------------------------------------------------------------------------------------------------

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """`systemctl show` of a unit."""
        wanted = [f"--property={name}" for name in properties]
        lines = self.systemctl("show", *wanted, unit).ok().stdout.splitlines()
        shown: dict[str, str] = {}
        for line in lines:
            key, _, value = line.partition("=")
            # Some properties have one line per value.
            shown[key] = f"{shown[key]}\n{value}" if key in shown else value
        return shown

    def state(self, unit: str) -> str:
        """The ActiveState of a unit."""
        return self.show(unit, "ActiveState")["ActiveState"]

    def pid(self, unit: str) -> int:
        """The main process of a unit, 0 when there is none."""
        return int(self.show(unit, "MainPID")["MainPID"])

    def journal(self, *arguments: str, **matches: str) -> list[dict[str, Any]]:
        """Journal records, oldest first. `arguments` go to journalctl, `matches` are fields."""
        fields = [f"{key}={value}" for key, value in matches.items()]
        command = ["journalctl", "-q", "--no-pager", "-o", "json", *arguments, *fields]
        return [json.loads(line) for line in self.run(command).ok().stdout.splitlines()]

    def wait_until(self, what: str, check: Callable[[], Any], timeout: float = WAIT_SECONDS) -> Any:
        """Returns the first true value of `check`, which is asked again after each unit signal and journal line, and
        now and then: not everything is announced, and whoever listens may lose the bus or the journal."""
        with self._ticks() as tick:
            deadline = time.monotonic() + timeout
            while True:
                late = time.monotonic() >= deadline
                value = check()
                if value:
                    return value
                if late:
                    raise AssertionError(f"{self.report()}\nnot within {timeout} s: {what}")
                tick(LOOK_AGAIN_SECONDS)

    def wait_state(self, unit: str, state: str, timeout: float = WAIT_SECONDS) -> None:
        """Waits for an ActiveState."""
        self.wait_until(f"{unit} {state}", lambda: self.state(unit) == state, timeout)

    def wait_journal(
        self,
        pattern: str,
        timeout: float = WAIT_SECONDS,
        *arguments: str,
        **matches: str,
    ) -> dict[str, Any]:
        """Waits for a journal record whose message matches `pattern`, and returns it."""
        wanted = re.compile(pattern)

        def look() -> dict[str, Any] | None:
            for record in self.journal(*arguments, **matches):
                if wanted.search(message(record)):
                    return record
            return None

        found: dict[str, Any] = self.wait_until(f"journal: {pattern}", look, timeout)
        return found

    @contextlib.contextmanager
    def _ticks(self) -> Iterator[Callable[[float], None]]:
        """Gives tick(seconds), which returns when something happened, at the latest after so many seconds."""
        process = self.popen(
            ["python3", "-I", "-c", SIGNALS.read_text()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        descriptor = process.stdout.fileno()
        selector = selectors.DefaultSelector()
        selector.register(descriptor, selectors.EVENT_READ)

        def tick(seconds: float) -> None:
            if selector.select(seconds) and not os.read(descriptor, 1 << 16):
                # It has ended, with the bus for example: only the time is left.
                selector.unregister(descriptor)

        try:
            tick(LOOK_AGAIN_SECONDS)
            yield tick
        finally:
            selector.close()
            # It ends by itself at the end of its input. Killing nsenter would leave it behind without a parent that
            # reaps it, and the container could not power off.
            process.stdin.close()
            process.stdout.close()
            process.wait()

    def report(self) -> str:
        """What to read when something went wrong: failed units and the end of the journal."""
        failed = self.systemctl("list-units", "--state=failed,activating", "--no-legend", "--plain").stdout
        journal = self.run(["journalctl", "-q", "--no-pager", "-o", "short-monotonic", "-n", "60"]).stdout
        return f"failed units:\n{failed}\njournal:\n{journal}"

    # --- what a healthy test leaves -------------------------------------------------------------------------------

    def allow(self, *patterns: str) -> None:
        """Journal messages (regular expressions) that this test provokes."""
        self._allowed.extend(re.compile(pattern) for pattern in patterns)

    def allow_failed(self, *units: str) -> None:
        """Units that may be failed at the end of this test."""
        self._allowed_failed.update(units)

    def complaints(self) -> list[str]:
        """Everything unexpected: journal lines of graced at warning or worse, core dumps, failed units."""
        found = []
        for record in self.journal("-p", "warning"):
            if _of_graced(record) and not any(p.search(message(record)) for p in self._allowed):
                found.append(f"journal: {record.get('UNIT') or record.get('_SYSTEMD_UNIT')}: {message(record)}")
        found += [f"core dump: {message(r)}" for r in self.journal("_PID=1") if COREDUMP.search(message(r))]
        listed = self.systemctl("list-units", "--state=failed", "--plain", "--no-legend", "--full").ok().stdout
        failed = {line.split()[0] for line in listed.splitlines()} - self._allowed_failed
        return found + [f"failed unit: {unit}" for unit in sorted(failed)]


def message(record: dict[str, Any]) -> str:
    """The message of a journal record; journalctl gives bytes that are no text as a list of numbers."""
    text = record.get("MESSAGE") or ""
    return bytes(text).decode(errors="replace") if isinstance(text, list) else str(text)


def _calm(work: Path) -> dict[Path, str]:
    """What makes Infrastructure see a host with nothing to do: /proc/pressure is that of the machine that runs all the
    tests at once, and no container's own."""
    pressure, drop_in = work / "pressure", work / "pressure.conf"
    pressure.mkdir()
    for name in ("cpu", "memory", "io"):
        lines = (f"{share} avg10=0.00 avg60=0.00 avg300=0.00 total=0\n" for share in ("some", "full"))
        (pressure / name).write_text("".join(lines))
    drop_in.write_text(f"[Service]\nBindReadOnlyPaths={CALM}:/proc/pressure\n")
    return {pressure: CALM, drop_in: "/run/systemd/system/graced-infrastructure.service.d/pressure.conf"}


def _of_graced(record: dict[str, Any]) -> bool:
    unit = str(record.get("_SYSTEMD_UNIT", ""))
    if record.get("_PID") == "1":
        unit = str(record.get("UNIT", ""))
    return unit.startswith("graced")


def _cgroup2_mount() -> Path:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise AssertionError("the testbed needs a cgroup2 mount (systemd.unified_cgroup_hierarchy=1, or a hybrid host)")
