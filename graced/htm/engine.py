"""The queue's rules: what may enter, who works on what next, what a result, a silence or a deadline leads to.

Pure: no I/O, no clock and no randomness of its own. It reads rows through `Rows` and changes Task objects; every change
since the last commit is collected in the book's Turn. The owner calls `book.write`, commits and calls `book.settle`,
or, when anything of that (or a read) raised, rolls back and calls `revert`. Only after `settle` may anyone hear of
what happened: answers, leases, events.

The rooms: intake (the way in), results (what workers and people say), runs (both, for many at once), clockwork
(workers, time), on core (how a task ends). Here are what gives the tasks out, what holds handlers, and the way back
after a failed commit.
"""

from __future__ import annotations

from graced.htm.clockwork import Clockwork
from graced.htm.mode import PAUSED, Mode
from graced.htm.runs import Runs
from graced.htm.turn import Turn
from graced.model.task import LEASED, QUEUED, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.htm.why import Why

GRANTS_PER_TURN = 2000


class Engine(Runs, Clockwork):
    """One host's queue. Not thread safe; owned by one loop."""

    # -- out --------------------------------------------------------------------------------------------------------

    def dispatch(self) -> None:
        """Bind queued tasks to free credits, in order; the grants are in `book.turn.granted`."""
        if self.draining:
            return
        room = GRANTS_PER_TURN
        for handler in self.leases.handlers():
            if self._modes and self._modes.of(handler, PAUSED) is not None:
                continue
            now_us = self.timeline.now_us()
            while most := min(room, self.leases.free(handler, now_us)):
                tasks = self.book.take(handler, most)
                if not tasks:
                    break
                self._grant(handler, tasks, now_us)
                room -= len(tasks)

    @property
    def more_to_dispatch(self) -> bool:
        """Did the last dispatch stop at its bound?"""
        return len(self.book.turn.granted) >= GRANTS_PER_TURN

    def _grant(self, handler: str, tasks: list[Task], now_us: int) -> None:
        turn, grant = self.book.turn, self.leases.grant
        since_us = self.timeline.stamps_us(len(tasks))
        waits_us: tuple[list[int], ...] = ([], [], [], [])
        for task, worker in zip(tasks, self.leases.in_turn(handler, now_us), strict=False):
            task.attempts += 1
            task.worker = worker.name
            task.started_us = since_us
            turn.granted.append(grant(task, worker, since_us))
            waits_us[task.priority].append(max(0, since_us - task.created_us))
            if turn.heard:
                turn.said(task.id, since_us, "leased", task.attempts, worker.name)
            since_us += 1
        self.book.all_moved(tasks, QUEUED, LEASED)
        for wait, several_us in zip(self.counts.wait, waits_us, strict=True):
            wait.observe_all_us(several_us)

    # -- what an admin holds ----------------------------------------------------------------------------------------

    def set_mode(self, handler: str, word: str, reason: str, by: str) -> Mode:
        """Pause or drain a handler (``*``: all), durably. `word` is mode.PAUSED or mode.DRAINED."""
        mode = Mode(handler, word, reason, by, self.timeline.stamp_us())
        self._rows.set_mode((mode.handler, mode.word, mode.reason, mode.by, mode.since_us))
        self._modes.put(mode)
        self.book.turn.modes = True
        return mode

    def clear_mode(self, handler: str) -> Mode | None:
        """Resume a handler; how it was held. ``*`` frees only what holds all."""
        mode = self._modes.drop(handler)
        if mode is not None:
            self._rows.clear_mode(handler)
            self.book.turn.modes = True
        return mode

    def modes(self) -> list[Mode]:
        """Handlers that are held, by name."""
        return self._modes.all()

    # -- for people -------------------------------------------------------------------------------------------------

    def why(self, number: int) -> Why:
        """What a task is waiting for. Raises TaskError: no-such-task."""
        from graced.htm.why import explain  # first use: most queues are never asked

        self.book.write()
        task = self.book.get(number)
        return explain(task, self._rows, self.leases, self._modes, self.timeline.now_us())

    # -- turn -------------------------------------------------------------------------------------------------------

    def revert(self) -> Turn:
        """The turn was rolled back: be as before it. Returns it, so that its owner can refuse its answers."""
        turn = self.book.forget()
        granted = {id(lease) for lease in turn.granted}
        for lease in turn.granted:
            if self.leases.get(lease.task.id) is lease:
                self.leases.end(lease)
        back = [lease for lease in turn.ended if id(lease) not in granted]
        for lease in back:
            self.leases.put_back(lease)
        for lease in self.leases.all():
            lease.task = self.book.get(lease.task.id)
            self.book.hold(lease.task)
        self._load()
        for worker in {id(lease.worker): lease.worker for lease in back if lease.worker.gone}.values():
            for lease in self.leases.strip(worker):
                self._lost(lease, "lost", counted=True)
        return turn
