"""Load for the task queue, made so that the client is not what is measured.

Frames are encoded beforehand, replies are counted by their NUL bytes and searched for "error", leases are read with two
regular expressions. Nothing of graced's own code. Every task is a full record: an idempotency key of its own and a
context of PAYLOAD_BYTES.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import select
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

HTM = "io.graced.HTM"
HANDLER = "bench"
PAYLOAD_BYTES = 300
WINDOW = 512
CREDITS = 1024
PATIENCE_SECONDS = 30.0
STAMP_DIGITS = 20
TASK = re.compile(rb'"task_id": ?"([^"]+)"')
ATTEMPT = re.compile(rb'"attempt": ?(\d+)')
STAMP = re.compile(rb'"stamp": ?"(\d{20})"')
FORK = multiprocessing.get_context("fork")


class Failed(Exception):
    """The queue refused, or fell silent: there is nothing to measure."""


class Line:
    """One connection to the queue that sends bytes and takes whole frames."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(path)
        self._rest = b""
        # One buffer: a new one of this size is mapped, and unmapped, for each reply.
        self._buffer = bytearray(1 << 20)

    def fileno(self) -> int:
        """For poll."""
        return self.socket.fileno()

    def send(self, frames: bytes) -> None:
        """All of it."""
        self.socket.sendall(frames)

    def take(self) -> bytes:
        """The whole frames that have come, waiting for the first. Raises Failed for an error reply."""
        while True:
            count = self.socket.recv_into(self._buffer)
            if not count:
                raise Failed("the daemon closed the connection")
            data = bytes(memoryview(self._buffer)[:count])
            whole, nul, rest = data.rpartition(b"\0")
            if not nul:
                self._rest += data
                continue
            whole, self._rest = self._rest + whole + nul, rest
            if b'"error":"io.' in whole or b'"error": "io.' in whole or b'"error":"org.' in whole:
                raise Failed(whole[whole.index(b'"error"') :][:300].decode(errors="replace"))
            return whole

    def call(self, frame: bytes) -> bytes:
        """One call, one reply."""
        self.send(frame)
        return self.take()

    def close(self) -> None:
        """End of the connection."""
        self.socket.close()


def call_frame(method: str, parameters: str, *, more: bool = False) -> bytes:
    """One call; `parameters` is JSON text."""
    tail = ',"more":true' if more else ""
    return f'{{"method":"{HTM}.{method}","parameters":{parameters}{tail}}}\0'.encode()


def tasks(count: int) -> list[str]:
    """Parameters of Submit as JSON; no key is used twice in the life of the machine."""
    run = time.monotonic_ns()
    context = '{"data":"' + "x" * (PAYLOAD_BYTES - 11) + '"}'
    return [
        f'{{"handler":"{HANDLER}","task_type":"bench","sla_seconds":86400,"idempotency_key":"{run}-{number}",'
        f'"context":{context}}}'
        for number in range(count)
    ]


def submissions(count: int) -> list[bytes]:
    """Calls of Submit."""
    return [call_frame("Submit", one) for one in tasks(count)]


def batches(count: int, size: int) -> list[bytes]:
    """Calls of SubmitBatch with `count` tasks in all, `size` to a call."""
    every = tasks(count)
    return [
        call_frame("SubmitBatch", f'{{"tasks":[{",".join(every[at : at + size])}]}}') for at in range(0, count, size)
    ]


def stamped(number: int) -> bytes:
    """A Submit that carries when it was sent, CLOCK_MONOTONIC in ns."""
    now_ns = time.monotonic_ns()
    filler = "x" * (PAYLOAD_BYTES - STAMP_DIGITS - 24)
    context = f'{{"stamp":"{now_ns:020d}","data":"{filler}"}}'
    return call_frame(
        "Submit",
        f'{{"handler":"{HANDLER}","task_type":"bench","sla_seconds":86400,"idempotency_key":"{now_ns}-{number}","context":{context}}}',
    )


def pipeline(line: Line, frames: list[bytes], window: int = WINDOW) -> float:
    """Send the calls with at most `window` of them unanswered; seconds until all are answered."""
    since = time.monotonic()
    sent = min(window, len(frames))
    line.send(b"".join(frames[:sent]))
    answered = 0
    while answered < len(frames):
        answered += line.take().count(b"\0")
        limit = min(answered + window, len(frames))
        if limit > sent:
            line.send(b"".join(frames[sent:limit]))
            sent = limit
    return time.monotonic() - since


def one_at_a_time(line: Line, frames: list[bytes]) -> list[float]:
    """How long each call takes, in ms."""
    values = []
    for frame in frames:
        since_ns = time.monotonic_ns()
        line.call(frame)
        values.append((time.monotonic_ns() - since_ns) / 1e6)
    return values


class Worker:
    """A worker that completes what it is given, at once, over a second connection. `held` leases wait for `finish`."""

    def __init__(self, path: str, *, credits: int = CREDITS, handler: str = HANDLER) -> None:
        self.name = f"bench-{time.monotonic_ns()}"
        self.stream = Line(path)
        self.control = Line(path)
        self.held: list[bytes] = []
        self.stamps: list[tuple[int, int]] = []
        self._poll = select.poll()
        self._poll.register(self.stream, select.POLLIN)
        self._poll.register(self.control, select.POLLIN)
        parameters = f'{{"handler":"{handler}","worker":"{self.name}","credits":{credits}}}'
        self.stream.send(call_frame("Work", parameters, more=True))
        # The stream's first reply has no lease; those that came with it have.
        self._take(self.stream.take())

    def _take(self, frames: bytes) -> None:
        tasks = TASK.findall(frames)
        attempts = ATTEMPT.findall(frames)
        if len(tasks) != len(attempts):
            raise Failed(f"{len(tasks)} task ids and {len(attempts)} attempts in {frames[:300]!r}")
        head = b'{"method":"io.graced.HTM.Complete","parameters":{"task_id":"'
        tail = b',"result":{"status":"success"}}}\0'
        self.held += [
            head + task + b'","attempt":' + attempt + tail for task, attempt in zip(tasks, attempts, strict=True)
        ]

    def wait(self) -> tuple[bool, bool]:
        """What can be read: (leases, acknowledgements). Raises Failed when nothing comes."""
        ready = {descriptor for descriptor, _ in self._poll.poll(PATIENCE_SECONDS * 1000)}
        if not ready:
            raise Failed(f"no lease and no acknowledgement in {PATIENCE_SECONDS:g} s")
        return self.stream.fileno() in ready, self.control.fileno() in ready

    def finish(self, count: int, *, leave: int = 0) -> float:
        """Complete `count` tasks; seconds until all are acknowledged and `leave` more are in hand."""
        since = time.monotonic()
        sent = answered = 0
        while answered < count or len(self.held) < leave:
            room = count - sent
            if self.held and room:
                batch, self.held = self.held[:room], self.held[room:]
                self.control.send(b"".join(batch))
                sent += len(batch)
            leases, acknowledgements = self.wait()
            if leases:
                self._take(self.stream.take())
            if acknowledgements:
                answered += self.control.take().count(b"\0")
        return time.monotonic() - since

    def watch(self, count: int) -> list[float]:
        """Complete `count` tasks of `stamped`; how long each took from being sent to its lease, in ms."""
        values: list[float] = []
        self.control.send(b"".join(self.held))
        self.held.clear()
        answered = 0
        while answered < count:
            leases, acknowledgements = self.wait()
            if leases:
                frames = self.stream.take()
                now_ns = time.monotonic_ns()
                values += [(now_ns - int(stamp)) / 1e6 for stamp in STAMP.findall(frames)]
                self._take(frames)
                self.control.send(b"".join(self.held))
                self.held.clear()
            if acknowledgements:
                answered += self.control.take().count(b"\0")
        return values

    def heartbeat(self) -> None:
        """A sign of life while it only holds."""
        self.control.call(call_frame("Heartbeat", f'{{"worker":"{self.name}"}}'))

    def close(self) -> None:
        """Go away."""
        self.stream.close()
        self.control.close()


class Other:
    """A function in a process of its own: it calls `ready()` when it may be told to go, and its result is sent back."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._ours, theirs = FORK.Pipe()
        self._process = FORK.Process(target=self._run, args=(theirs, function, arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.pid = self._process.pid
        self._receive()

    def _run(self, pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        def ready() -> None:
            pipe.send((True, None))
            pipe.recv()

        try:
            pipe.send((True, function(ready, *arguments)))
        except (Failed, OSError, ValueError) as error:
            pipe.send((False, f"{function.__name__}: {error!r}"))

    def _receive(self) -> Any:
        try:
            good, value = self._ours.recv()
        except EOFError as error:
            raise Failed("a process of the load ended") from error
        if not good:
            raise Failed(value)
        return value

    def go(self) -> None:
        """Tell it to begin."""
        self._ours.send(None)

    def result(self) -> Any:
        """What the function returned. Raises Failed."""
        value = self._receive()
        self._process.join()
        return value

    def kill(self) -> None:
        """SIGKILL, and reaped."""
        self._process.kill()
        self._process.join()


def _producer(ready: Callable[[], None], path: str, count: int) -> float:
    frames = submissions(count)
    line = Line(path)
    ready()
    since = time.monotonic()
    pipeline(line, frames)
    return since


def _consumer(ready: Callable[[], None], path: str, count: int) -> float:
    worker = Worker(path)
    ready()
    worker.finish(count)
    return time.monotonic()


def end_to_end(path: str, count: int) -> float:
    """Seconds from the first Submit to the last acknowledged Complete: a producer and a worker at the same time."""
    producer = Other(_producer, path, count)
    consumer = Other(_consumer, path, count)
    consumer.go()
    producer.go()
    since: float = producer.result()
    ended: float = consumer.result()
    return ended - since


def stress(path: str, rounds: int, count: int = 100) -> list[float]:
    """`count` tasks submitted together, worked on and completed; ms until the last is acknowledged, per round."""
    worker, line, values = Worker(path), Line(path), []
    for _ in range(rounds):
        frames = b"".join(submissions(count))
        since_ns = time.monotonic_ns()
        line.send(frames)
        worker.finish(count)
        values.append((time.monotonic_ns() - since_ns) / 1e6)
        answered = 0
        while answered < count:
            answered += line.take().count(b"\0")
        time.sleep(0.02)
    worker.close()
    line.close()
    return values


def _paced(ready: Callable[[], None], path: str, count: int, per_second: float) -> None:
    line = Line(path)
    ready()
    began = time.monotonic() + 0.02
    unanswered = 0
    for number in range(count):
        due = began + number / per_second
        while (left := due - time.monotonic()) > 0:
            if not unanswered:
                time.sleep(left)
            elif select.select([line], [], [], left)[0]:
                unanswered -= line.take().count(b"\0")
        line.send(stamped(number))
        unanswered += 1
    while unanswered:
        unanswered -= line.take().count(b"\0")


def _watcher(ready: Callable[[], None], path: str, count: int) -> list[float]:
    worker = Worker(path)
    ready()
    return worker.watch(count)


def dispatch(path: str, count: int, per_second: float) -> list[float]:
    """From sending Submit to the lease, in ms: a paced producer and a waiting worker, each a process."""
    watcher = Other(_watcher, path, count)
    producer = Other(_paced, path, count, per_second)
    watcher.go()
    producer.go()
    producer.result()
    values: list[float] = watcher.result()
    return values


def cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads, dead ones too, to the nanosecond."""
    return time.clock_gettime((~pid << 3) | 2)


def not_done(line: Line, handler: str = HANDLER) -> dict[str, int]:
    """Tasks of the handler by state, as the queue itself counts them, except done ones: those may be archived."""
    stats = json.loads(line.call(call_frame("Stats", "{}"))[:-1])["parameters"]["stats"]
    return {state: count for state, count in stats["handlers"].get(handler, {}).items() if count and state != "done"}


def _victim(ready: Callable[[], None], path: str) -> None:
    worker = Worker(path, credits=1)
    # The parent is told when the lease is here; it never says go.
    while not worker.held:
        worker.wait()
        worker._take(worker.stream.take())
    ready()


def redelivery(path: str, rounds: int) -> list[float]:
    """SIGKILL of a worker process that holds a lease → another worker has the lease, in ms."""
    line, values = Line(path), []
    for _ in range(rounds):
        line.call(submissions(1)[0])
        victim = Other(_victim, path)
        heir = Worker(path, credits=1)
        if heir.held:
            raise Failed("the lease went to the wrong worker")
        since_ns = time.monotonic_ns()
        victim.kill()
        frames = heir.stream.take()
        values.append((time.monotonic_ns() - since_ns) / 1e6)
        heir._take(frames)
        if b'"attempt":2' not in frames.replace(b" ", b""):
            raise Failed(f"not the second attempt: {frames[:300]!r}")
        heir.finish(1)
        heir.close()
    line.close()
    return values
