"""The queue of one host: the engine on its store, turned by the loop.

Group commit: everything that one turn of the loop brought is committed once, in `Service.before_flush`, just before
its answers leave; leases are pushed and hooks called after that commit. When the commit fails, the engine goes back
to what is on disk and every answer of the turn becomes ``Unavailable``: nothing is acknowledged that could be lost.
"""

from __future__ import annotations

import os

from graced.base.errors import StoreError
from graced.htm.engine import GRANTS_PER_TURN, Engine
from graced.htm.timeline import Timeline
from graced.store.tasks import TaskStore
from graced.supervisor import taskview as view
from graced.supervisor.watch import Watchers
from graced.varlink.wire import VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.base.clock import Clock
    from graced.htm.lease import Lease, Worker
    from graced.htm.limits import Limits
    from graced.htm.mode import Mode
    from graced.htm.turn import Turn
    from graced.model.task import Task
    from graced.runtime.connection import Call, Run
    from graced.runtime.loop import Loop, Timer
    from graced.supervisor.housekeeping import Housekeeping

NAME = "io.graced.HTM"
WAKE_MAX_SECONDS = 30.0
"""Longest sleep of the timer: the loop's clock stands still in suspend, the queue's does not."""
RETRY_COMMIT_SECONDS = 1.0
SETTLE_SECONDS = 0.05
SETTLE_ROWS = 4000
"""SQLite commits the turns of so long, or so many rows; until then they are durable in the redo log."""
EASE_ROWS = range(48, 97)
"""So many rows SQLite is told of before, while nobody waits: a millisecond at the end is one for whoever comes then.
More come in bursts, and those are told of once: the row of a task that is done soon is then written once."""


def _jitter() -> float:
    return int.from_bytes(os.urandom(6), "big") / (1 << 48)


class Queue:
    """See the module. Append `flush` to `Service.before_flush`.

    Hooks, called after the commit with the Task: `on_dispatch(task)`; `on_completed(task)` for every task that
    ended (`task.state` says how); `on_sla(task, what)` with "slack" or
    "breached"; and `on_commit()`, when SQLite has committed. `house` is what keeps the database small, once it has
    started. `error` is the last reason why the store refused to commit, "" while all is well.
    """

    def __init__(
        self,
        loop: Loop,
        clock: Clock,
        path: str,
        *,
        boot_id: str,
        limits: Limits | None = None,
        synchronous: str = "FULL",
        jitter: Callable[[], float] = _jitter,
    ) -> None:
        """Open the queue at `path` and take back what a former process had leased. Raises StoreError.

        `jitter` spreads retries: a number in [0, 1) for each.
        """
        self._loop = loop
        self.store = TaskStore(path, synchronous=synchronous)
        last_us = self.store.last_us()
        boot, offset_us, first = self.store.boot(boot_id, lambda: Timeline.first_offset_us(clock, last_us))
        self.timeline = Timeline(clock, boot=boot, offset_us=offset_us, last_us=last_us)
        self.store.bind(self.timeline.deadline_us)
        self.engine = Engine(self.store, self.timeline, jitter=jitter, limits=limits)
        self.on_dispatch: Callable[[Task], object] = nothing
        self.on_completed: Callable[[Task], object] = nothing
        self.on_sla: Callable[[Task, str], object] = nothing
        self.on_modes: Callable[[list[Mode]], object] = nothing
        self.on_commit: Callable[[], object] = nothing
        self.house: Housekeeping | None = None
        self.watchers = Watchers()
        self.error = ""
        self._answered: list[Call | Run] = []
        self._timer: Timer | None = None
        self._timer_us: int | None = None
        self._retry: Timer | None = None
        self._settling: Timer | None = None
        self.store.durable.settled = self._settled
        self.engine.take_back(host_went_down=first)
        self._commit()
        self.store.settle()

    @property
    def depth(self) -> int:
        """Live tasks: queued, waiting or leased."""
        return self.engine.book.tally.live

    @property
    def leased(self) -> int:
        """Tasks being worked on."""
        return len(self.engine.leases)

    # -- workers ----------------------------------------------------------------------------------------------------

    def stream_closed(self, worker: Worker) -> None:
        """The connection of a Work stream has ended."""
        if worker.gone:
            return
        self.engine.worker_left(worker)
        # the connection may have ended while answers were being sent: make sure that another turn follows
        self._loop.call_soon(nothing)

    def end_stream(self, worker: Worker) -> None:
        """Send a worker away; its leases are handed back."""
        self.engine.worker_left(worker, counted=not self.engine.draining)
        call: Call = worker.stream  # type: ignore[assignment]
        call.reply({"lease": None})

    def drain(self) -> None:
        """SIGTERM: no new tasks, no new leases; workers without one are sent away."""
        self.engine.draining = True
        for worker in [one for one in self.engine.leases.workers() if not one.leases]:
            self.end_stream(worker)

    def drained(self) -> bool:
        """Has every lease ended?"""
        return not self.leased

    def close(self) -> None:
        """Hand back the leases that are left, without using up an attempt, and close the store."""
        self.engine.draining = True
        for worker in list(self.engine.leases.workers()):
            self.end_stream(worker)
        self.turn()
        self.store.close()

    # -- the turn ---------------------------------------------------------------------------------------------------

    def answered(self, call: Call | Run) -> None:
        """The answer of this call (or run of calls) stands or falls with this turn's commit."""
        self._answered.append(call)

    def flush(self) -> None:
        """Commit what this turn of the loop brought, then let it be heard. Never raises StoreError."""
        self.turn()
        self._answered.clear()
        self.watchers.catch_up()
        self.engine.book.turn.heard = len(self.watchers) > 0
        self._arm()

    def turn(self, *, raising: bool = False) -> None:
        """Dispatch and commit now. Raises StoreError only when `raising`."""
        engine = self.engine
        try:
            if self._retry is None:
                engine.dispatch()
            if engine.book.turn.empty:
                # what was only looked up may have begun one
                self.store.rollback()
                return
            turn = self._commit()
        except StoreError as error:
            self.refuse(error)
            if raising:
                raise
            return
        self._committed(turn)

    def _committed(self, turn: Turn) -> None:
        self.error = ""
        self._answered.clear()
        self._tell(turn)
        if self.house is not None:
            self.house.turns += 1
        if self.store.durable.unsettled >= SETTLE_ROWS:
            self._settle_soon()
            return
        if self._settling is None:
            self._settling = self._loop.call_later(SETTLE_SECONDS, self._settle_soon)
        if self.store.durable.noted_rows in EASE_ROWS:
            self._loop.call_soon(self._ease)

    def _settle_soon(self) -> None:
        # at the front of the next turn: what this one promised leaves before
        self._loop.call_soon(self.settle)

    def _ease(self) -> None:
        """Tell SQLite of what has come, so that `settle` has less to do. Never raises StoreError."""
        if not self._loop.idle:
            return
        try:
            self.store.durable.catch_up()
        except StoreError as error:
            self.refuse(error)

    def _settled(self) -> None:
        self.on_commit()

    def settle(self) -> None:
        """Let SQLite commit what the turns so far have brought. Never raises StoreError."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        try:
            self.store.settle()
        except StoreError as error:
            self.refuse(error)

    def _commit(self) -> Turn:
        self.engine.book.write()
        self.store.commit()
        return self.engine.book.settle()

    def refuse(self, error: StoreError) -> None:
        """The store failed in this turn, which spoils all of it: back to what is on disk."""
        self.error = str(error)
        # before anything else can fail: no answer of this turn may leave
        refusal = VarlinkError(f"{NAME}.Unavailable", {"reason": self.error})
        for call in self._answered:
            call.withdraw(refusal)
        self._answered.clear()
        try:
            self.store.rollback()
            self.engine.revert()
        except StoreError as worse:
            # memory cannot follow what is on disk any more: only a new start can, and says so while it cannot
            raise SystemExit(f"the queue cannot be read back after a failed commit, leaving: {worse}") from worse
        if self.house is not None:
            self.house.refused()
        # callers are tried at once; what the queue does by itself, not before this
        if self._retry is None:
            self._retry = self._loop.call_later(RETRY_COMMIT_SECONDS, self._again)

    def _again(self) -> None:
        """See whether the store takes a commit again, so that `error` is true also while nobody calls."""
        self._retry = None
        try:
            self.store.probe()
            turn = self._commit()
        except StoreError as error:
            self.refuse(error)
            return
        self._committed(turn)

    def _tell(self, turn: Turn) -> None:
        if turn.granted:
            self._push(turn.granted)
        for lease, reason in turn.revoked:
            self._revoked(lease, reason)
        if turn.modes:
            self.on_modes(self.engine.modes())
        if self.watchers:
            self.watchers.tell(turn.log, self.timeline)
        if len(turn.granted) >= GRANTS_PER_TURN:
            self._loop.call_soon(nothing)
        for lease in turn.granted:
            self.on_dispatch(lease.task)
        for task in turn.finished:
            self.on_completed(task)
        for what, task in turn.notices:
            self.on_sla(task, what)

    def _push(self, granted: list[Lease]) -> None:
        given: dict[Worker, list[str]] = {}
        for lease in granted:
            given.setdefault(lease.worker, []).append(view.lease_reply(lease, self.timeline))
        for worker, leases in given.items():
            if not worker.gone:
                call: Call = worker.stream  # type: ignore[assignment]
                call.push(leases)

    @staticmethod
    def _revoked(lease: Lease, reason: str) -> None:
        if not lease.worker.gone:
            call: Call = lease.worker.stream  # type: ignore[assignment]
            call.reply({"lease": None, "revoked": view.revoked_json(lease, reason)}, continues=True)

    def attempt(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run an engine verb; a store that fails in it spoils the whole turn."""
        try:
            return function(*args, **kwargs)
        except StoreError as error:
            self.refuse(error)
            raise

    def _arm(self) -> None:
        wake_us = self.engine.next_wake_us() if self._retry is None else None
        if self._timer is not None and wake_us is not None and self._timer_us is not None and wake_us >= self._timer_us:
            # a timer that is early costs one look; a new one for each sign of life of a worker costs more
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_us = wake_us
        if wake_us is not None:
            delay_s = max(0, wake_us - self.timeline.now_us()) / 1e6
            self._timer = self._loop.call_later(min(delay_s, WAKE_MAX_SECONDS), self._wake)

    def _wake(self) -> None:
        self._timer = None
        try:
            self.engine.tick()
        except StoreError as error:
            self.refuse(error)


def nothing(*_args: object) -> None:
    """The default hook, and a reason for one more turn of the loop."""
