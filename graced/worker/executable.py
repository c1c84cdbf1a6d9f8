"""A task by an executable: context on stdin, result on stdout, no shell, a session of its own.

What the exit status means is in `outcome_of`; graced-worker(1) has the same table. When the executable ends, what is
left of its process group is killed: a task that was answered has no process any more.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time

from graced.base.errors import FormatError, GracedError
from graced.base.json import dumps, loads_object
from graced.base.record import Record
from graced.worker.task import Fail, Retry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.json import JsonDict
    from graced.worker.task import Task

MAX_OUTPUT_BYTES = 65_536
MAX_TEXT_RESULT_BYTES = 32_768
TAIL_BYTES = 2048
MAX_LINE_BYTES = 4096
CHUNK_BYTES = 65_536
DRAIN_CHUNKS = 64
GRACE_SECONDS = 5.0
EX_USAGE, EX_DATAERR, EX_NOINPUT, EX_CONFIG, EX_TEMPFAIL = 64, 65, 66, 78, 75
OWN = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})
HOPELESS = frozenset({EX_USAGE, EX_DATAERR, EX_NOINPUT, EX_CONFIG})
"""sysexits(3): the task itself is wrong; the next attempt would be no better."""


class Ended(Record):
    """How an executable ended: `status` as Popen.returncode; `killed` why it was told to stop, or ""."""

    status: int
    output: bytes
    tail: bytes
    killed: str


def environment_of(task: Task) -> dict[str, str]:
    """The executable's environment: the worker's own, without what is between it and systemd, and the task."""
    return {
        **{name: value for name, value in os.environ.items() if name not in OWN},
        "GRACED_TASK_ID": task.id,
        "GRACED_ATTEMPT": str(task.attempt),
        "GRACED_HANDLER": task.handler,
        "GRACED_TASK_TYPE": task.task_type,
        "GRACED_PRIORITY": task.priority,
        "GRACED_DEADLINE": task.deadline,
        "GRACED_SECONDS_LEFT": str(int(task.seconds_left())),
    }


def outcome_of(ended: Ended) -> JsonDict:
    """The result. Raises Retry or Fail.

    0: done. 64, 65, 66, 78 (sysexits: usage, data, input, configuration): failed for good. Everything else, 75
    (EX_TEMPFAIL), signals and the time limit among it: again.
    """
    if ended.killed:
        raise Retry(_error(ended.killed, ended.tail))
    if ended.status == 0:
        return _result(ended.output)
    what = f"exit {ended.status}"
    if ended.status < 0:
        with contextlib.suppress(ValueError):
            what = f"killed by {signal.Signals(-ended.status).name}"
    if ended.status in HOPELESS:
        raise Fail(_error(what, ended.tail))
    raise Retry(_error(what, ended.tail))


def _error(what: str, tail: bytes) -> str:
    text = tail.decode(errors="replace").strip()
    return f"{what}: {text}" if text else what


def _result(output: bytes) -> JsonDict:
    with contextlib.suppress(FormatError):
        result = loads_object(output, max_bytes=MAX_OUTPUT_BYTES)
        if len(dumps(result)) <= MAX_OUTPUT_BYTES:
            return result
    # JSON spells some bytes with six
    text = output[:MAX_TEXT_RESULT_BYTES].decode(errors="replace")
    while len(dumps({"output": text})) > MAX_OUTPUT_BYTES - 64:
        text = text[: len(text) // 2]
    whole = len(output) <= MAX_TEXT_RESULT_BYTES and text == output.decode(errors="replace")
    return {"output": text} if whole else {"output": text, "truncated": True}


def parse_progress(line: bytes) -> tuple[float | None, str | None]:
    """``40 half of it``, ``40`` or ``half of it`` as percent and message; percent is held to 0 to 100."""
    words = line.decode(errors="replace").strip().split(None, 1)
    try:
        percent = float(words[0].rstrip("%")) if words else None
    except ValueError:
        return None, " ".join(words)
    if percent is None or percent != percent:  # noqa: PLR0124  # NaN
        return None, None
    return min(100.0, max(0.0, percent)), words[1] if len(words) > 1 else None


class _Lines:
    """Cuts bytes into lines, passing on what a line too long already has."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        self._take = take
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._take(line)

    def end(self) -> None:
        if self._rest:
            self._take(self._rest)


class _Execution:
    """One process and its pipes."""

    def __init__(self, argv: list[str], task: Task, timeout_s: float | None, grace_s: float) -> None:
        self._task = task
        self._grace_s = grace_s
        self._input = memoryview(dumps(task.context))
        self._output = bytearray()
        self._tail = b""
        self._killed = ""
        self._ends_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._errors = _Lines(_pass_on)
        self._progress = _Lines(self._report)
        self._progress_read, progress_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._cancel_read, self._cancel_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(progress_write, True)
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, pass_fds=[progress_write],
                env={**environment_of(task), "GRACED_PROGRESS": f"/dev/fd/{progress_write}"},
            )  # fmt: skip
        except OSError as error:
            self._close()
            raise Retry(f"{argv[0]}: {error.strerror or error}") from error
        finally:
            os.close(progress_write)
        self._pidfd = os.pidfd_open(self._process.pid)

    def run(self) -> Ended:
        """Until it has ended and its group with it."""
        process = self._process
        assert process.stdin and process.stdout and process.stderr
        self._selector = selectors.DefaultSelector()
        for file, events, act in (
            (process.stdin, selectors.EVENT_WRITE, self._write),
            (process.stdout, selectors.EVENT_READ, self._read_output),
            (process.stderr, selectors.EVENT_READ, self._read_errors),
            (self._progress_read, selectors.EVENT_READ, self._read_progress),
            (self._cancel_read, selectors.EVENT_READ, self._cancelled),
            (self._pidfd, selectors.EVENT_READ, None),
        ):
            os.set_blocking(file if isinstance(file, int) else file.fileno(), False)
            self._selector.register(file, events, act)
        self._task.on_cancel(self._wake)
        try:
            while not self._turn():
                pass
            # the dead leader still holds the group's number, so the number cannot be another's
            self._signal(signal.SIGKILL)
            self._drain()
        finally:
            self._signal(signal.SIGKILL)
            process.wait()
            self._task.off_cancel(self._wake)
            self._close()
        self._errors.end()
        self._progress.end()
        return Ended(process.returncode, bytes(self._output), self._tail, self._killed)

    def _turn(self) -> bool:
        """Wait for something and do it; True when the process has ended."""
        left_s = None if self._ends_s is None else max(0.0, self._ends_s - time.monotonic())
        ready = self._selector.select(left_s)
        if self._ends_s is not None and time.monotonic() >= self._ends_s:
            self._stop(f"it ran longer than {self._timeout_s or 0:g} s")
        for key, _ in ready:
            if key.data is None:
                return True
            key.data(key.fileobj)
        return False

    def _stop(self, reason: str) -> None:
        """SIGTERM to the group; the second time, after the grace, SIGKILL."""
        self._signal(signal.SIGKILL if self._killed else signal.SIGTERM)
        self._ends_s = None if self._killed else time.monotonic() + self._grace_s
        self._killed = self._killed or reason

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            # PermissionError: all that is left of the group runs as somebody else
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _drain(self) -> None:
        """Read what the ended process left in its pipes, but not for ever: another session may hold them."""
        for key in list(self._selector.get_map().values()):
            if key.data in {self._read_output, self._read_errors, self._read_progress}:
                for _ in range(DRAIN_CHUNKS):
                    if not key.data(key.fileobj):
                        break

    # -- pipes ------------------------------------------------------------------------------------------------------

    def _write(self, file: object) -> bool:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            self._input = self._input[os.write(stdin.fileno(), self._input) :]
        except BlockingIOError:
            return False
        except BrokenPipeError:
            # it does not want to know; its exit status tells whether that was right
            self._input = self._input[:0]
        if not self._input:
            self._selector.unregister(stdin)
            stdin.close()
        return bool(file)

    def _read(self, file: object) -> bytes:
        descriptor = file if isinstance(file, int) else file.fileno()  # type: ignore[attr-defined]
        try:
            data = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self._selector.unregister(file)  # type: ignore[arg-type]
        return data

    def _read_output(self, file: object) -> bool:
        data = self._read(file)
        self._output += data[: MAX_OUTPUT_BYTES + 1 - len(self._output)]
        return bool(data)

    def _read_errors(self, file: object) -> bool:
        data = self._read(file)
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        self._errors.feed(data)
        return bool(data)

    def _read_progress(self, file: object) -> bool:
        data = self._read(file)
        self._progress.feed(data)
        return bool(data)

    def _cancelled(self, file: object) -> bool:
        self._selector.unregister(file)  # type: ignore[arg-type]
        self._stop(self._task.cancel_reason)
        return True

    def _wake(self) -> None:
        os.write(self._cancel_write, b"\0")

    def _report(self, line: bytes) -> None:
        percent, message = parse_progress(line)
        if percent is not None or message:
            with contextlib.suppress(GracedError):
                self._task.progress(percent, message)

    def _close(self) -> None:
        for name in ("_pidfd", "_progress_read", "_cancel_read", "_cancel_write"):
            if hasattr(self, name):
                os.close(getattr(self, name))
        if hasattr(self, "_selector"):
            self._selector.close()
        process = getattr(self, "_process", None)
        for file in (process.stdin, process.stdout, process.stderr) if process else ():
            with contextlib.suppress(BrokenPipeError):
                file.close()


def _pass_on(line: bytes) -> None:
    sys.stderr.buffer.write(line + b"\n")
    sys.stderr.flush()


def run_executable(
    argv: list[str], task: Task, *, timeout_s: float | None = None, grace_s: float = GRACE_SECONDS
) -> JsonDict:
    """Run `argv` for a task; its result. Raises Retry or Fail.

    Cancelled or after `timeout_s` its group gets SIGTERM, and SIGKILL `grace_s` later. Its stderr goes to this
    process's, and the end of it into the error.
    """
    return outcome_of(_Execution(argv, task, timeout_s, grace_s).run())
