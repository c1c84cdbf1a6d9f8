"""Parents and children: an inherited deadline, counts of children, the live tree below a task.

A parent's counts change in the same turn as its child, so the two are never told apart by a crash. A task that ends
done lets go of its children: what is below it is then on its own.
"""

from __future__ import annotations

from graced.base.errors import TaskError
from graced.model.task import DONE, STATES, Task, task_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.htm.book import Book

MAX_FAILURE_CHARS = 1000


def live_parent(book: Book, number: int) -> Task:
    """The task that is to get a child. Raises TaskError: no-such-task, parent-ended."""
    task = book.get(number)
    if not task.live:
        raise TaskError(f"the parent {task_name(number)} is {STATES[task.state]}", code="parent-ended")
    return task


def adopt(book: Book, parent: int, deadline_us: int) -> int:
    """Count a new child of `parent`; its deadline, no later than the parent's. Raises TaskError as `live_parent`."""
    task = live_parent(book, parent)
    task.open_children += 1
    book.touch(task)
    return min(deadline_us, task.deadline_us)


def count_end(book: Book, parent: Task, child: Task) -> None:
    """One open child less."""
    parent.open_children -= 1
    if child.state == DONE:
        parent.done_children += 1
    else:
        parent.failed_children += 1
    book.touch(parent)


def count_again(book: Book, parent: Task) -> None:
    """A child that had failed is open again."""
    parent.open_children += 1
    parent.failed_children = max(0, parent.failed_children - 1)
    book.touch(parent)


def failure(child: Task) -> str:
    """What its parent says when it fails because of this child."""
    detail = "" if child.error is None else f": {child.error}"
    return f"child {task_name(child.id)} {STATES[child.state]}{detail}"[:MAX_FAILURE_CHARS]


def below(book: Book, task: Task) -> list[tuple[Task, Task]]:
    """The live tasks below `task` as (task, its parent), parents before their children.

    One query for each task with open children, and one look through the turn, which need not have been written.
    """
    unwritten: dict[int, list[Task]] = {}
    for one in [*book.turn.new.values(), *book.turn.changed.values(), *book.turn.brief.values()]:
        if one.parent is not None and one.live:
            unwritten.setdefault(one.parent, []).append(one)
    found: list[tuple[Task, Task]] = []
    tops = [task]
    for top in tops:
        if not top.open_children:
            continue
        children = {child.id: child for child in book.live_children(top.id)}
        children.update((child.id, child) for child in unwritten.get(top.id, ()))
        found += [(child, top) for child in children.values()]
        tops += children.values()
    return found
