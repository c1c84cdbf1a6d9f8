"""io.graced.HTM.Tree: the whole tree that a task belongs to, bounded."""

from __future__ import annotations

from graced.supervisor.taskview import task_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.model.task import Task
    from graced.supervisor.queue import Queue

MAX_TASKS = 1000
MAX_CLIMB = 1000
"""Steps up that are looked for the root."""
MAX_ERROR_CHARS = 500
_LONG = ("context", "result", "reasoning")
"""What only Get shows: a tree of a thousand tasks must stay a message of ordinary size."""


def tree_json(queue: Queue, number: int) -> tuple[JsonDict, bool]:
    """(root, is something missing): each node a task without its `_LONG` parts, its ``children`` oldest first.

    Level by level down from the highest ancestor that is still stored; where it is cut, the way to the task asked for
    stays in. Raises TaskError: no-such-task, StoreError.
    """
    book = queue.engine.book
    task = book.get(number)
    book.write()
    path = {task.id: task}
    while task.parent is not None and len(path) < MAX_CLIMB and (parent := book.find(task.parent)) is not None:
        task = parent
        path[task.id] = task
    heirs = {one.parent: one for one in path.values()}
    root = _node(queue, task)
    left = MAX_TASKS - len(path)
    truncated = task.parent is not None and book.find(task.parent) is not None
    level = [(task, root)]
    for parent, node in level:
        heir = heirs.get(parent.id)
        # one more than fit, and the heir, show whether there are more
        children = [book.one(row) for row in queue.store.children(parent.id, left + 2)]
        shown, cut = _fit(children, heir, left)
        left -= len(shown) - (heir is not None)
        truncated = truncated or cut
        for child in shown:
            below = _node(queue, child)
            node["children"].append(below)
            level.append((child, below))
    return root, truncated


def _fit(children: list[Task], heir: Task | None, left: int) -> tuple[list[Task], bool]:
    """The first `left` of them and the heir, who has a place already; and whether some do not fit."""
    others = [child for child in children if heir is None or child.id != heir.id]
    shown = others[:left]
    if heir is not None:
        shown = sorted([*shown, heir], key=lambda child: child.id)
    return shown, len(others) > left


def _node(queue: Queue, task: Task) -> JsonDict:
    node = task_json(task, queue.timeline)
    for name in _LONG:
        del node[name]
    if node["error"] is not None:
        node["error"] = node["error"][:MAX_ERROR_CHARS]
    node["children"] = []
    return node
