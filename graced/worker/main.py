"""graced-worker: the tasks of one handler by an executable. See graced-worker(1)."""

from __future__ import annotations

import argparse
import os
import sys

from graced import __version__
from graced.base.errors import GracedError
from graced.varlink.wire import VarlinkError
from graced.worker.executable import GRACE_SECONDS, run_executable
from graced.worker.worker import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.worker.task import Task

EX_NOPERM = 77
REAP_SECONDS = 2.0
"""What is left between SIGKILL for an executable and the end of the worker."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="graced-worker",
        usage="graced-worker HANDLER [--credits N] [--timeout S] [--drain S] [--grace S] -- EXECUTABLE [ARGUMENT ...]",
        description="Take the tasks of HANDLER from graced's queue and run EXECUTABLE for each: the task's context is "
        "a JSON object on its standard input, standard output is the result.",
        epilog="Exit status of EXECUTABLE: 0 done; 64, 65, 66, 78 failed for good; anything else: tried again. "
        "See graced-worker(1).",
    )
    made.add_argument("handler", metavar="HANDLER", help="the handler's name, as in gracectl submit HANDLER TYPE")
    made.add_argument("argv", metavar="EXECUTABLE", nargs="+", help="what to run, with its arguments; no shell")
    made.add_argument("--credits", type=_positive_int, default=1, metavar="N", help="tasks at once (default 1)")
    made.add_argument("--timeout", type=_seconds, metavar="S", help="stop a task after S seconds (default: never)")
    made.add_argument(
        "--drain", type=_seconds, default=20.0, metavar="S", help="at SIGTERM, let tasks finish for S seconds (20)"
    )
    made.add_argument(
        "--grace", type=_seconds, default=GRACE_SECONDS, metavar="S", help="from SIGTERM to SIGKILL of a task (5)"
    )
    made.add_argument("--socket", help=argparse.SUPPRESS)
    made.add_argument("--version", action="version", version=f"graced {__version__}")
    return made


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < 1e9:
        raise ValueError(text)
    return value


def main() -> None:
    """Until SIGTERM. Exit status 77 without the right to work on the handler, 1 for other refusals, 2 wrong usage."""
    options = parser().parse_args()
    executable = options.argv[0]
    if not os.path.isabs(executable) or not os.access(executable, os.X_OK):
        parser().error(f"{executable}: an absolute path of an executable is needed")
    worker = Worker(
        options.handler,
        options.credits,
        drain_seconds=options.drain,
        grace_seconds=options.grace + REAP_SECONDS,
        socket=options.socket,
    )

    @worker.handle
    def execute(task: Task) -> JsonDict:
        return run_executable(options.argv, task, timeout_s=options.timeout, grace_s=options.grace)

    try:
        worker.run()
    except GracedError as error:
        sys.stderr.write(f"graced-worker: {error}\n")
        denied = isinstance(error, VarlinkError) and error.name == "PermissionDenied"
        sys.exit(EX_NOPERM if denied else 1)
