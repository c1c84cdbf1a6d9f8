"""The tasks that are in memory, the windows on the queue, and the turn being collected.

Exactly one Task object exists for an id that is leased, in a window or in the turn, so all of them see the same state.
Everything else is in the rows only, and a copy read for looking at is not kept.
"""

from __future__ import annotations

from graced.base.errors import TaskError
from graced.htm.order import Window
from graced.htm.turn import Tally, Turn
from graced.model.task import LEASED, QUEUED, Task, task_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.htm.timeline import Timeline
    from graced.htm.turn import Rows, TallyKey

REFILL_ROWS = 1024


class Book:
    """See the module. `turn` is what the next commit will hold, `tally` how many tasks there are."""

    __slots__ = ("_next_number", "_rows", "_tasks", "_timeline", "_windows", "tally", "turn")

    def __init__(self, rows: Rows, timeline: Timeline) -> None:
        self.turn = Turn()
        self.tally = Tally(rows.tally())
        self._rows = rows
        self._timeline = timeline
        self._tasks: dict[int, Task] = {}
        self._windows: dict[str, Window] = {}
        self._next_number = rows.next_id()

    # -- one task ---------------------------------------------------------------------------------------------------

    def find(self, number: int) -> Task | None:
        """The task as it is now, or None."""
        return self._tasks.get(number) or self._rows.load(number)

    def get(self, number: int) -> Task:
        """The task as it is now. Raises TaskError: no-such-task."""
        task = self.find(number)
        if task is None:
            name = task_name(number)
            if number >= self._next_number:
                raise TaskError(f"there is no {name}", code="no-such-task", task_id=name)
            gone = f"there is no {name} any more: it ended long ago and went to the archive"
            raise TaskError(gone, code="no-such-task", task_id=name, reason=gone)
        return task

    def one(self, row: Task) -> Task:
        """The object in memory for a row that was just read; the row itself when there is none."""
        return self._tasks.get(row.id, row)

    def live_with_key(self, key: str) -> int:
        """The live task with this idempotency key, or 0."""
        task = self.turn.keys.get(key)
        if task is not None and task.live:
            return task.id
        number = self._rows.live_with_key(key)
        task = self._tasks.get(number)
        return 0 if task is not None and not task.live else number

    def live_with_keys(self, keys: list[str]) -> dict[str, int]:
        """As `live_with_key`, of those that have one."""
        mine, tasks = self.turn.keys, self._tasks
        found = self._rows.live_with_keys(keys)
        for key, number in list(found.items()):
            if (task := tasks.get(number)) is not None and not task.live:
                del found[key]
        for key in mine.keys() & keys:
            if mine[key].live:
                found[key] = mine[key].id
        return found

    def live_children(self, parent: int) -> list[Task]:
        """The live children; the turn must have been written."""
        children = [self.one(row) for row in self._rows.live_children(parent)]
        return [child for child in children if child.live]

    def next_number(self) -> int:
        """A number no task ever had."""
        number = self._next_number
        self._next_number = number + 1
        return number

    # -- changes ----------------------------------------------------------------------------------------------------

    def add(self, task: Task) -> None:
        """A new task."""
        self.turn.new[task.id] = task
        self._tasks[task.id] = task
        if task.idempotency_key is not None:
            self.turn.keys[task.idempotency_key] = task
        self.tally.add(task, 1)

    def add_all(self, tasks: list[Task]) -> None:
        """New tasks, all of them queued."""
        numbered = {task.id: task for task in tasks}
        self.turn.new.update(numbered)
        self._tasks.update(numbered)
        self.turn.keys.update([(task.idempotency_key, task) for task in tasks if task.idempotency_key is not None])
        self.tally.add_all(tasks)
        for task in tasks:
            self._window(task.handler).push(task)

    def hold(self, task: Task) -> None:
        """This is the one object for its id."""
        self._tasks[task.id] = task

    def touch(self, task: Task) -> None:
        """This task has changed and must be written."""
        turn = self.turn
        if task.id not in turn.new:
            turn.changed[task.id] = task
            turn.brief.pop(task.id, None)
            self._tasks[task.id] = task

    def move(self, task: Task, state: int) -> None:
        """Into another state."""
        before = task.state
        task.state = state
        self.tally.moved(task, before)
        self.touch(task)

    def move_only(self, task: Task, state: int) -> None:
        """Into LEASED or DONE, with nothing else new but what `Rows.write` knows of `brief` tasks."""
        before = task.state
        task.state = state
        self.all_moved([task], before, state)

    def all_moved(self, tasks: list[Task], before: int, state: int) -> None:
        """As `move_only` for each; they are in `state` already."""
        self.tally.all_moved(tasks, before, state)
        turn = self.turn
        new, changed, brief = turn.new, turn.changed, turn.brief
        for task in tasks:
            number = task.id
            if number in new or number in changed:
                continue
            if number in brief:
                # both in one turn: more columns than one of them has
                del brief[number]
                changed[number] = task
            else:
                brief[number] = task
            self._tasks[number] = task

    def prioritise(self, task: Task, priority: int) -> None:
        """Another priority."""
        self.tally.add(task, -1)
        task.priority = priority
        self.tally.add(task, 1)
        self.touch(task)

    # -- the queue --------------------------------------------------------------------------------------------------

    def _window(self, handler: str) -> Window:
        window = self._windows.get(handler)
        if window is None:
            window = self._windows[handler] = Window()
        return window

    def enqueue(self, task: Task) -> None:
        """It is queued, or queued under another rank."""
        self._window(task.handler).push(task)

    def take(self, handler: str, most: int) -> list[Task]:
        """The next queued tasks of a handler, leased from here on: `most` or fewer, none when there is none."""
        window = self._window(handler)
        while True:
            if window.hungry:
                self._refill(handler, window)
            taken = window.take(most)
            if taken or window.horizon is None:
                return taken

    def _refill(self, handler: str, window: Window) -> None:
        # the query must see what this turn has changed
        self.write()
        assert window.horizon is not None
        rows, more = self._rows.queued(handler, window.horizon, REFILL_ROWS)
        tasks = [self.one(row) for row in rows]
        window.refill(tasks, complete=not more)
        for task in tasks:
            self._tasks[task.id] = task

    # -- the turn ---------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Hand all changes so far to the rows, inside their open transaction."""
        turn = self.turn
        if turn.new or turn.changed or turn.brief or turn.events:
            new, changed, brief, events = turn.new, turn.changed, turn.brief, turn.events + turn.late
            turn.written()
            tally = self.tally.take()
            self._rows.write(
                new.values(),
                changed.values(),
                brief.values(),
                events,
                tally,
                self._next_number,
                self._timeline.last_us,
            )

    def removed(self, numbers: list[int], counts: dict[TallyKey, int]) -> None:
        """Finished tasks were taken out of the rows in the open transaction; the turn must have been written."""
        self.turn.touched.update(numbers)
        self.tally.removed(counts)

    def settle(self) -> Turn:
        """The turn is on disk: start the next one, and return what may be told now."""
        turn, self.turn = self.turn, Turn(heard=self.turn.heard)
        self.tally.settle()
        for window in self._windows.values():
            for task in window.trim():
                self._tasks.pop(task.id, None)
        for number in turn.touched:
            touched = self._tasks.get(number)
            if touched is not None and not self._needed(touched):
                del self._tasks[number]
        return turn

    def _needed(self, task: Task) -> bool:
        if task.state == LEASED:
            return True
        if task.state != QUEUED:
            return False
        window = self._windows.get(task.handler)
        return window is not None and (window.horizon is None or (task.rank, task.id) < window.horizon)

    def forget(self) -> Turn:
        """The turn was rolled back: drop it and everything read; returns it."""
        turn, self.turn = self.turn, Turn(heard=self.turn.heard)
        self.tally.revert()
        self._windows.clear()
        self._tasks.clear()
        self._next_number = self._rows.next_id()
        return turn

    @property
    def resident(self) -> int:
        """Tasks in memory."""
        return len(self._tasks)
