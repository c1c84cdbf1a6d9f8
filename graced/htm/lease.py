"""Who works on what: workers with credits, and leases that live as long as their worker shows it is alive.

A lease ends with its result, with the worker's connection, or when no heartbeat came for `LEASE_US`. The pair (task,
attempt) is a fencing token: whoever lost a lease cannot end the next one.
"""

from __future__ import annotations

from itertools import repeat

from graced.model.task import Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterator
else:
    # Its compiled half, as in graced.runtime.loop.
    from _collections import deque

LEASE_US = 30_000_000
MAX_EXTEND_US = 3_600_000_000
MAX_CREDITS = 10_000


class Worker:
    """One Work stream. `leases` are the ids it works on, `ghosts` those that were taken from it while it ran
    them: they use up credits until it says it is done with them. `extended` has the leases that outlive its silence
    and until when. `gone`: the stream ended.
    """

    __slots__ = ("credits", "expires_us", "extended", "ghosts", "gone", "handler", "leases", "name", "stream", "uid")

    def __init__(self, name: str, uid: int, handler: str, credits: int, stream: object) -> None:  # noqa: A002  # the IDL's word
        self.name = name
        self.uid = uid
        self.handler = handler
        self.credits = credits
        self.stream = stream
        self.expires_us = 0
        self.gone = False
        self.leases: set[int] = set()
        self.ghosts: set[int] = set()
        self.extended: dict[int, int] = {}

    @property
    def free(self) -> int:
        """Leases it can still take."""
        return self.credits - len(self.leases) - len(self.ghosts)

    def takes(self, now_us: int) -> bool:
        """Has it a free credit and signs of life? One without leases owes no heartbeat."""
        return self.free > 0 and (self.expires_us > now_us or not (self.leases or self.ghosts))

    def expiry_us(self) -> int:
        """When its silence costs it a lease, if it has one."""
        if len(self.extended) < len(self.leases):
            return self.expires_us
        return max(self.expires_us, min(self.extended.values(), default=0))


class Lease:
    """`task` is worked on by `worker` under number `attempt` since `since_us`.

    `failed_children` is how many of its children the worker was told to have failed, `until_us` what it was extended
    to (0: not).
    """

    __slots__ = ("attempt", "failed_children", "since_us", "task", "until_us", "worker")

    def __init__(self, task: Task, worker: Worker, attempt: int, since_us: int) -> None:
        self.task = task
        self.worker = worker
        self.attempt = attempt
        self.since_us = since_us
        self.failed_children = task.failed_children
        self.until_us = 0


class Leases:
    """All leases and all workers of this process."""

    __slots__ = ("_by_handler", "_by_task")

    def __init__(self) -> None:
        self._by_task: dict[int, Lease] = {}
        self._by_handler: dict[str, deque[Worker]] = {}

    def __len__(self) -> int:
        return len(self._by_task)

    def workers(self) -> Iterator[Worker]:
        """Every worker."""
        for queue in self._by_handler.values():
            yield from queue

    def handlers(self) -> list[str]:
        """Handlers that have a worker."""
        return [handler for handler, queue in self._by_handler.items() if queue]

    def all(self) -> list[Lease]:
        """Every lease."""
        return list(self._by_task.values())

    def add(self, worker: Worker) -> None:
        """A worker came."""
        self._by_handler.setdefault(worker.handler, deque()).append(worker)

    def remove(self, worker: Worker) -> list[Lease]:
        """A worker went; its leases, which are over now."""
        queue = self._by_handler.get(worker.handler)
        if queue is not None and worker in queue:
            queue.remove(worker)
            if not queue:
                del self._by_handler[worker.handler]
        return self.strip(worker)

    def strip(self, worker: Worker, now_us: int | None = None) -> list[Lease]:
        """Take its leases away from a worker that stays: all, or those that have not been extended beyond now."""
        lost = [
            self._by_task.pop(number)
            for number in sorted(worker.leases)
            if now_us is None or worker.extended.get(number, 0) <= now_us
        ]
        for lease in lost:
            worker.leases.discard(lease.task.id)
            worker.extended.pop(lease.task.id, None)
        return lost

    def find(self, name: str, uid: int) -> list[Worker]:
        """The streams of the worker that calls itself `name`, of that account."""
        return [worker for worker in self.workers() if worker.name == name and worker.uid == uid]

    def free(self, handler: str, now_us: int) -> int:
        """How many leases the workers of `handler` can still take."""
        return sum([worker.free for worker in self._by_handler.get(handler, ()) if worker.takes(now_us)])

    def in_turn(self, handler: str, now_us: int) -> Iterator[Worker]:
        """Workers of `handler`, for one lease each, in turn; to be asked as often as `free` says."""
        queue = self._by_handler[handler]
        if len(queue) == 1:
            yield from repeat(queue[0])
        while True:
            worker = queue[0]
            queue.rotate(-1)
            if worker.takes(now_us):
                yield worker

    def grant(self, task: Task, worker: Worker, now_us: int) -> Lease:
        """Bind a task, whose `attempts` names this lease, to a worker."""
        if not worker.leases:
            worker.expires_us = now_us + LEASE_US
        lease = Lease(task, worker, task.attempts, now_us)
        worker.leases.add(task.id)
        self._by_task[task.id] = lease
        return lease

    def held(self, number: int, attempt: int, uid: int) -> Lease | None:
        """The lease on a task if it is this attempt and that of `uid` (0: anyone's)."""
        lease = self._by_task.get(number)
        if lease is not None and lease.attempt == attempt and uid in {0, lease.worker.uid}:
            return lease
        return None

    def get(self, number: int) -> Lease | None:
        """The lease on a task."""
        return self._by_task.get(number)

    def end(self, lease: Lease, *, ghost: bool = False) -> None:
        """The lease is over; `ghost`: but its worker does not know yet."""
        del self._by_task[lease.task.id]
        worker = lease.worker
        worker.leases.discard(lease.task.id)
        if worker.extended:
            worker.extended.pop(lease.task.id, None)
        if ghost:
            worker.ghosts.add(lease.task.id)

    def put_back(self, lease: Lease) -> None:
        """Undo `end`: what ended it could not be written down."""
        self._by_task[lease.task.id] = lease
        lease.worker.leases.add(lease.task.id)
        lease.worker.ghosts.discard(lease.task.id)
        if lease.until_us:
            lease.worker.extended[lease.task.id] = lease.until_us

    def extend(self, lease: Lease, until_us: int, now_us: int) -> None:
        """Silence up to then ends this lease not; a sign of life, too."""
        lease.until_us = until_us
        lease.worker.extended[lease.task.id] = until_us
        lease.worker.expires_us = now_us + LEASE_US

    def heartbeat(self, name: str, uid: int, now_us: int, credits_: int | None = None) -> int:
        """A sign of life: how many streams it was for. `credits_`: leases each may have at once from now on."""
        mine = self.find(name, uid)
        for worker in mine:
            worker.expires_us = now_us + LEASE_US
            if credits_ is not None:
                worker.credits = credits_
        return len(mine)

    def expired(self, now_us: int) -> list[Worker]:
        """Workers that hold leases and were silent too long."""
        return [worker for worker in self.workers() if worker.leases and worker.expiry_us() <= now_us]

    def next_expiry_us(self) -> int | None:
        """When the next silent worker would lose its leases."""
        if not self._by_task:
            return None
        return min((worker.expiry_us() for worker in self.workers() if worker.leases), default=None)
