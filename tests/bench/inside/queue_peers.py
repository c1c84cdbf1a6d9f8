"""Inside the container: the same work on graced, beanstalkd, huey and Celery, each durable before it answers.

usage: python3 -m inside.queue_peers graced|beanstalkd|huey|celery|celery-default DISK SINGLE SMALL LARGE DISPATCH
       python3 -m inside.queue_peers duel DISK ROUNDS
DISK is a directory on the disk; the numbers are tasks: one at a time, end to end (LARGE may be 0), paced at 50/s.
`duel` has graced and beanstalkd take turns, one task at a time. One producer and one worker process each; every peer is
set as favourably as it can be while it stays as durable as graced (`celery-default` is what Debian and Celery do by
themselves, which is not). Nothing of a peer is reused.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inside import disk, load
from inside.host import answer, give_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PER_SECOND = 50
TURN = 25
STAMP = load.STAMP_DIGITS
FILLER = "x" * (load.PAYLOAD_BYTES - STAMP)
START_SECONDS = 15.0
GRACED = "/run/graced/io.graced.Supervisor"


def payload(stamp_ns: int) -> str:
    """What every task carries: when it was sent, and filler."""
    return f"{stamp_ns:020d}{FILLER}"


class Taken:
    """What a worker has handled: `ended` when it was the last of `count`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.values: list[float] = []
        self.ended = 0.0

    def one(self, text: str) -> bool:
        """Handle a task; True for the last."""
        self.values.append((time.monotonic_ns() - int(text[:STAMP])) / 1e6)
        if len(self.values) == self.count:
            self.ended = time.monotonic()
        return bool(self.ended)

    def result(self) -> tuple[float, list[float]]:
        """(CLOCK_MONOTONIC of the last, ms from being sent to being handled)."""
        return self.ended, self.values


class Peer:
    """A queue. `send` and `work` run in processes of their own, after `connect`."""

    pipelines = False
    version = ""

    def connect(self) -> None:
        """In the process that uses it."""

    def send(self, text: str) -> None:
        """One task; returns when the queue has acknowledged it."""
        raise NotImplementedError

    def burst(self, count: int) -> None:
        """`count` tasks, in whatever way is fastest."""
        text = payload(time.monotonic_ns())
        for _ in range(count):
            self.send(text)

    def work(self, ready: Callable[[], None], count: int) -> tuple[float, list[float]]:
        """Handle `count` tasks; see Taken."""
        raise NotImplementedError


class Graced(Peer):
    """The supervisor of this container; full records."""

    pipelines = True

    def connect(self) -> None:
        """A connection."""
        self._line = load.Line(GRACED)
        self._sent = 0

    def send(self, text: str) -> None:
        """Submit; the stamp is the one that `stamped` takes."""
        self._sent += 1
        self._line.call(load.stamped(self._sent))

    def burst(self, count: int) -> None:
        """512 in flight."""
        load.pipeline(self._line, load.submissions(count))

    def work(self, ready: Callable[[], None], count: int) -> tuple[float, list[float]]:
        """Until the last completion is acknowledged."""
        worker = load.Worker(GRACED)
        ready()
        values = worker.watch(count)
        ended = time.monotonic()
        worker.close()
        return ended, values


class Beanstalkd(Peer):
    """`-b DIR -f0`: fsync before every answer. Its protocol takes commands ahead of the answers."""

    pipelines = True

    def __init__(self, directory: Path) -> None:
        self._path = f"{directory}/socket"

    def connect(self) -> None:
        """A connection."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(load.PATIENCE_SECONDS)
        self._socket.connect(self._path)
        self._file = self._socket.makefile("rb")

    def _expect(self, word: bytes) -> list[bytes]:
        words = self._file.readline().split()
        if not words or words[0] != word:
            raise load.Failed(f"beanstalkd said {words!r}, not {word!r}")
        return words

    @staticmethod
    def _put(text: str) -> bytes:
        return b"put 0 0 120 %d\r\n%s\r\n" % (len(text), text.encode())

    def send(self, text: str) -> None:
        """put."""
        self._socket.sendall(self._put(text))
        self._expect(b"INSERTED")

    def burst(self, count: int, window: int = 64) -> None:
        """64 in flight: more fills its buffers, and each is fsynced by itself anyway."""
        command = self._put(payload(time.monotonic_ns()))
        sent = min(window, count)
        self._socket.sendall(command * sent)
        for _ in range(count):
            self._expect(b"INSERTED")
            if sent < count:
                self._socket.sendall(command)
                sent += 1

    def work(self, ready: Callable[[], None], count: int) -> tuple[float, list[float]]:
        """reserve, then delete and the next reserve in one write."""
        taken = Taken(count)
        self._socket.settimeout(None)
        self._socket.sendall(b"reserve\r\n")
        ready()
        for number in range(count):
            _, task, size = self._expect(b"RESERVED")
            text = self._file.read(int(size) + 2)[:-2].decode()
            more = b"reserve\r\n" if number + 1 < count else b""
            self._socket.sendall(b"delete %s\r\n%s" % (task, more))
            self._expect(b"DELETED")
            taken.one(text)
        return taken.result()


class Huey(Peer):
    """SqliteHuey, WAL and FULL, in-process; a consumer with one thread that looks every 10 ms (default: 100 ms)."""

    def __init__(self, directory: Path) -> None:
        self._path = f"{directory}/huey.db"

    def connect(self) -> None:
        """Opens the database."""
        huey = importlib.import_module("huey")
        self._huey = huey.SqliteHuey("bench", filename=self._path, fsync=True, journal_mode="wal", results=False)
        self._taken = Taken(0)

        def one(text: str) -> None:
            self._taken.one(text)

        self._task = self._huey.task(name="one")(one)

    def send(self, text: str) -> None:
        """A row."""
        self._task(text)

    def work(self, ready: Callable[[], None], count: int) -> tuple[float, list[float]]:
        """Its own consumer; a task is over when its function has returned (its row went before)."""
        self._taken = Taken(count)
        consumer = self._huey.create_consumer(
            workers=1, worker_type="thread", initial_delay=0.01, backoff=1.0, max_delay=0.01, periodic=False
        )
        ready()
        consumer.start()
        while not self._taken.ended:
            time.sleep(0.005)
        consumer.stop()
        return self._taken.result()


class Celery(Peer):
    """On Redis with every command fsynced, acknowledged after the work; the solo pool, which is its fastest here."""

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self._path = f"{directory}/redis.sock"
        self._durable = durable

    def connect(self) -> None:
        """The application."""
        celery = importlib.import_module("celery")
        app = celery.Celery("bench", broker=f"redis+socket://{self._path}")
        app.conf.update(task_ignore_result=True, task_acks_late=self._durable, worker_hijack_root_logger=False)
        self._taken = Taken(0)
        self._app = app

        # Celery counts the arguments of a method wrongly.
        def one(text: str) -> None:
            if self._taken.one(text):
                state: Any = importlib.import_module("celery.worker.state")
                state.should_stop = 0

        self._task = app.task(name="one")(one)

    def send(self, text: str) -> None:
        """As every program does."""
        self._task.delay(text)

    def work(self, ready: Callable[[], None], count: int) -> tuple[float, list[float]]:
        """Its own worker, without what it says to other workers."""
        self._taken = Taken(count)
        signals = importlib.import_module("celery.signals")

        def up(**_: Any) -> None:
            ready()

        signals.worker_ready.connect(up)
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR"]
        with contextlib.suppress(SystemExit), open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            self._app.worker_main(["--quiet", "worker", "--pool=solo", *quiet])
        return self._taken.result()


# --- servers --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(argv: list[str], path: str) -> Iterator[None]:
    """A peer's server, up when its socket takes connections."""
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + START_SECONDS
        while True:
            with socket.socket(socket.AF_UNIX) as trial, contextlib.suppress(OSError):
                trial.connect(path)
                break
            if time.monotonic() > limit or process.poll() is not None:
                give_up(f"{argv} does not answer at {path}")
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def peer_of(name: str, directory: Path) -> Iterator[Peer]:
    """The peer with its server, in an empty directory."""
    if name == "graced":
        yield Graced()
    elif name == "beanstalkd":
        path = f"{directory}/socket"
        with served(["beanstalkd", "-b", str(directory), "-f0", "-l", f"unix:{path}"], path):
            yield Beanstalkd(directory)
    elif name == "huey":
        yield Huey(directory)
    else:
        durable = name == "celery"
        aof = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""] if durable else []
        options = ["--port", "0", "--unixsocket", f"{directory}/redis.sock", "--dir", str(directory), *aof]
        with served(["redis-server", *options], f"{directory}/redis.sock"):
            yield Celery(directory, durable=durable)


# --- measuring ------------------------------------------------------------------------------------------------------


def _burst(ready: Callable[[], None], peer: Peer, count: int) -> float:
    peer.connect()
    ready()
    since = time.monotonic()
    peer.burst(count)
    return since


def _paced(ready: Callable[[], None], peer: Peer, count: int) -> None:
    peer.connect()
    ready()
    began = time.monotonic() + 0.05
    for number in range(count):
        time.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))
        peer.send(payload(time.monotonic_ns()))


def _worker(ready: Callable[[], None], peer: Peer, count: int) -> tuple[float, list[float]]:
    peer.connect()
    return peer.work(ready, count)


def together(peer: Peer, producing: Callable[..., Any], count: int) -> tuple[Any, float, list[float]]:
    """A producer and a worker process at the same time: (the producer's result, end, latencies)."""
    worker = load.Other(_worker, peer, count)
    producer = load.Other(producing, peer, count)
    worker.go()
    producer.go()
    made = producer.result()
    return made, *worker.result()


def end_to_end(peer: Peer, count: int) -> float:
    """Tasks per second, from the first one sent to the last one over."""
    since, ended, _ = together(peer, _burst, count)
    rate: float = count / (ended - since)
    return rate


def singles(peer: Peer, count: int) -> list[float]:
    """How long each of `count` tasks takes to be acknowledged, in ms."""
    values = []
    for _ in range(count):
        since_ns = time.monotonic_ns()
        peer.send(payload(since_ns))
        values.append((time.monotonic_ns() - since_ns) / 1e6)
    return values


def _enqueue(ready: Callable[[], None], peer: Peer, single: int, many: int) -> tuple[list[float], float]:
    peer.connect()
    ready()
    values = singles(peer, single)
    since = time.monotonic()
    peer.burst(many)
    return values, many / (time.monotonic() - since)


def measure(name: str, where: str, sizes: list[int]) -> dict[str, Any]:
    """One peer."""
    single, small, large, paced = sizes
    directory = Path(where) / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    raw = disk.appends(f"{where}/raw", single)
    try:
        with peer_of(name, directory) as peer:
            producer = load.Other(_enqueue, peer, single, small)
            producer.go()
            single_ms, many = producer.result()
            worker = load.Other(_worker, peer, single + small)
            worker.go()
            worker.result()
            found = {
                "raw_ms": raw,
                "single_ms": single_ms,
                "burst_per_s": many,
                "pipelines": peer.pipelines,
                "small_per_s": end_to_end(peer, small),
                "large_per_s": end_to_end(peer, large) if large else None,
                "dispatch_ms": together(peer, _paced, paced)[2],
            }
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return found


def duel(where: str, rounds: int) -> dict[str, list[float]]:
    """ms per task, one at a time over a Unix socket; what else the disk does meets both alike."""
    directory = Path(where) / "duel"
    directory.mkdir()
    values: dict[str, list[float]] = {"raw": [], "sqlite": [], "graced": [], "beanstalkd": []}
    with peer_of("graced", directory) as graced, peer_of("beanstalkd", directory) as beanstalkd:
        graced.connect()
        beanstalkd.connect()
        for _ in range(rounds):
            values["raw"] += disk.appends(f"{where}/raw", TURN)
            values["sqlite"] += disk.inserts(f"{where}/plain.db", TURN, 1)
            for name, peer in (("graced", graced), ("beanstalkd", beanstalkd)):
                values[name] += singles(peer, TURN)
        worker = load.Other(_worker, graced, rounds * TURN)
        worker.go()
        worker.result()
    shutil.rmtree(directory)
    return values


def main(name: str, where: str, *sizes: str) -> None:
    """See the module."""
    numbers = [int(size) for size in sizes]
    answer(duel(where, *numbers) if name == "duel" else measure(name, where, numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
