"""A first look at the task queue in seconds: one bare server process on this machine's disk, no container.

usage: python3 -m tests.bench.htm_quick [TASKS]
Prints submits per second with 512 in flight, one at a time p50/p99, end to end per second until the last completion is
acknowledged, the share of a raw fdatasync in it, and the server's CPU time per task, which other work of the machine
disturbs least.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.figures import load_average, percentile
from tests.bench.inside import disk, load

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "tests" / "daemon" / "htm_server.py"
PYTHON = "/usr/bin/python3"
TASKS = 30_000
SINGLE = 500


def main(tasks: int = TASKS) -> None:
    """See the module."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="htm-quick-", dir=ROOT / "build") as directory:
        said = Path(directory, "log")
        with said.open("wb") as log:
            process = subprocess.Popen(
                [PYTHON, "-B", str(SERVER), directory],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"up\n":
                raise SystemExit(f"the server did not start\n{said.read_text()}")
            print(f"load {load_average()}, {tasks} tasks of {load.PAYLOAD_BYTES} bytes")
            _measure(f"{directory}/socket", process.pid, tasks, directory)
        except load.Failed as error:
            raise SystemExit(f"{str(error)[:500]}\n{said.read_text()[:2000]}") from error
        finally:
            process.kill()
            process.wait()


def _measure(path: str, pid: int, tasks: int, directory: str) -> None:
    def per_task_us(before: float, count: int) -> float:
        return (load.cpu_seconds(pid) - before) * 1e6 / count

    line, frames = load.Line(path), load.submissions(tasks)
    before = load.cpu_seconds(pid)
    seconds = load.pipeline(line, frames)
    print(f"submit pipelined   {tasks / seconds:9.0f} /s   server CPU {per_task_us(before, tasks):6.1f} us/task")

    batches = load.batches(tasks, 100)
    before = load.cpu_seconds(pid)
    seconds = load.pipeline(line, batches, 8)
    print(f"submit in batches  {tasks / seconds:9.0f} /s   server CPU {per_task_us(before, tasks):6.1f} us/task")

    worker = load.Worker(path)
    before = load.cpu_seconds(pid)
    seconds = worker.finish(2 * tasks)
    cpu = per_task_us(before, 2 * tasks)
    print(f"lease + complete   {2 * tasks / seconds:9.0f} /s   server CPU {cpu:6.1f} us/task")

    raw = disk.appends(f"{directory}/raw", SINGLE)
    before = load.cpu_seconds(pid)
    single = load.one_at_a_time(line, load.submissions(SINGLE))
    cpu = per_task_us(before, SINGLE)
    worker.finish(SINGLE)
    worker.close()
    print(
        f"one at a time      p50 {percentile(single, 0.5):.3f} ms  p99 {percentile(single, 0.99):.3f} ms   "
        f"server CPU {cpu:6.1f} us/task   (raw append + fdatasync p50 {percentile(raw, 0.5):.3f} ms)"
    )

    before = load.cpu_seconds(pid)
    seconds = load.end_to_end(path, tasks)
    print(f"end to end         {tasks / seconds:9.0f} /s   server CPU {per_task_us(before, tasks):6.1f} us/task")
    if left := load.not_done(line):
        raise SystemExit(f"every task was acknowledged as completed, and the queue says: {left}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
