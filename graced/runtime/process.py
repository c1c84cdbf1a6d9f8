"""Run a program without a shell and without blocking the loop (posix_spawn and a pidfd)."""

from __future__ import annotations

import os

from graced.base.errors import HostError
from graced.base.record import Record
from graced.runtime.loop import Expired, Future, Loop
from graced.runtime.signals import SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Completed(Record):
    """How a program ended. `returncode` is negative for a signal; output is cut at the caller's limit."""

    returncode: int
    stdout: str
    stderr: str
    timed_out: bool
    duration_ms: float


class _Capture:
    def __init__(self, loop: Loop, limit_bytes: int) -> None:
        self._loop = loop
        self._limit_bytes = limit_bytes
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(self.write_fd, True)
        self.data = bytearray()
        self.closed = Future()
        loop.add_reader(self.read_fd, self._on_readable)

    def _on_readable(self) -> None:
        chunk = os.read(self.read_fd, 65536)
        self.data += chunk[: max(0, self._limit_bytes - len(self.data))]
        if not chunk:
            self.finish()

    def finish(self) -> None:
        if self.read_fd >= 0:
            self._loop.remove_reader(self.read_fd)
            os.close(self.read_fd)
            self.read_fd = -1
            self.closed.set_result()

    def text(self) -> str:
        return self.data.decode("utf-8", "replace")


_MINIMAL_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def _spawn(argv: Sequence[str], env: Mapping[str, str], files: tuple[int, int, int]) -> int:
    stdin, stdout, stderr = files
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1), (os.POSIX_SPAWN_DUP2, stderr, 2)]
    try:
        return os.posix_spawnp(
            argv[0],
            list(argv),
            dict(env),
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=(SIGPIPE, SIGTERM, SIGHUP, SIGINT),
        )
    except OSError as error:
        raise HostError(
            f"{argv[0]} could not be started: {error.strerror}", hint="is its package installed?"
        ) from error


async def run_process(
    loop: Loop,
    argv: Sequence[str],
    timeout_s: float,
    input: bytes = b"",  # noqa: A002  # the name every process API uses
    env: Mapping[str, str] | None = None,
    max_output_bytes: int = 65536,
) -> Completed:
    """Run `argv` to its end, at most `timeout_s` seconds (then its process group is killed).

    The environment is minimal unless given. `input` must fit a pipe (64 KiB). Raises HostError when the program
    cannot be started.
    """
    started_s = loop.now_s()
    stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
    out, err = _Capture(loop, max_output_bytes), _Capture(loop, max_output_bytes)
    try:
        os.write(stdin_write, input[:65536]) if input else None
        pid = _spawn(argv, env or _MINIMAL_ENV, (stdin_read, out.write_fd, err.write_fd))
    except HostError:
        out.finish()
        err.finish()
        raise
    finally:
        for fd in (stdin_read, stdin_write, out.write_fd, err.write_fd):
            os.close(fd)
    timed_out = False
    pidfd = os.pidfd_open(pid)
    try:
        timed_out = not await _ended(loop, pidfd, timeout_s)
        if timed_out:
            os.killpg(pid, SIGKILL)
            await _ended(loop, pidfd, 5.0)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
    # A grandchild may hold the pipes open: its output after the end is not ours.
    for capture in (out, err):
        try:
            await loop.within(capture.closed, 0.2, "output")
        except Expired:
            capture.finish()
    duration_ms = (loop.now_s() - started_s) * 1000
    return Completed(os.waitstatus_to_exitcode(status), out.text(), err.text(), timed_out, duration_ms)


async def _ended(loop: Loop, pidfd: int, timeout_s: float) -> bool:
    ended = Future()
    loop.add_reader(pidfd, ended.set_result)
    try:
        await loop.within(ended, timeout_s, "the program")
    except Expired:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
