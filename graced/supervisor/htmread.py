"""io.graced.HTM, the half that changes nothing: looking at tasks, at the queue, and watching it.

What is shown may be of this turn, so an answer stands or falls with its commit as any other. What makes the answers is
imported when somebody asks: no task waits for it at a start.
"""

from __future__ import annotations

from graced.base.errors import StoreError, TaskError
from graced.runtime.peer import READ
from graced.runtime.service import Interface
from graced.supervisor import taskparse as parse
from graced.supervisor import taskview as view
from graced.supervisor.queue import NAME
from graced.varlink.wire import SERVICE, VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.base.json import JsonDict
    from graced.model.task import Task
    from graced.runtime.connection import Call
    from graced.supervisor.queue import Queue
    from graced.supervisor.taskstats import Oldest

MAX_LIST = 10_000
DEFAULT_LIST = 100


class ReadVerbs(Interface):
    """The base of graced.supervisor.htm.HtmInterface."""

    name = NAME
    acl = {"Get": READ, "List": READ, "Tree": READ, "Why": READ, "Stats": READ, "Watch": READ}

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._oldest: Oldest | None = None

    def Get(self, call: Call) -> JsonDict:
        number = parse.number_of(call.parameters)
        task: Task = self._verb(call, self.queue.engine.book.get, number)
        self.queue.attempt(self.queue.engine.book.write)
        return {
            "task": view.task_json(task, self.queue.timeline),
            "events": [view.event_json(event, self.queue.timeline) for event in self.queue.store.events(number)],
        }

    def List(self, call: Call) -> JsonDict:
        state = parse.state_of(call.parameters)
        limit = parse.limit_of(call.parameters, DEFAULT_LIST, MAX_LIST)
        handler = self._handler(call)
        self._verb(call, self.queue.engine.book.write)
        tasks, cut = self.queue.store.listed(state=state, handler=handler, limit=limit)
        return {"tasks": [view.task_json(task, self.queue.timeline) for task in tasks], "truncated": cut}

    def Tree(self, call: Call) -> JsonDict:
        from graced.supervisor.tasktree import tree_json

        root, truncated = self._verb(call, tree_json, self.queue, parse.number_of(call.parameters))
        return {"root": root, "truncated": truncated}

    def Why(self, call: Call) -> JsonDict:
        from graced.supervisor.whyview import why_json

        sentences, facts = self._verb(call, why_json, self.queue, parse.number_of(call.parameters))
        return {"sentences": sentences, "facts": facts}

    def Stats(self, call: Call) -> JsonDict:
        from graced.supervisor.taskstats import stats_json

        self.queue.answered(call)
        return {"stats": stats_json(self.queue, self._oldest_seconds())}

    def Watch(self, call: Call) -> None:
        if not call.more:
            raise VarlinkError(f"{SERVICE}.ExpectedMore", {})
        handler = self._handler(call)
        number = None
        if call.parameters.get("task_id") is not None:
            number = parse.number_of(call.parameters)
            try:
                # not `_verb`: a stream's first reply promises nothing that a commit could break
                self.queue.attempt(self.queue.engine.book.get, number)
            except TaskError as error:
                raise refusal(error) from error
        self.queue.watchers.add(call, handler, number)
        self.queue.engine.book.turn.heard = True

    def metrics(self) -> list[JsonDict]:
        """Families of the queue, as io.graced.Supervisor.Metrics returns them."""
        from graced.supervisor.taskstats import metrics_json

        return metrics_json(self.queue, self._oldest_seconds())

    def _oldest_seconds(self) -> list[float | None]:
        from graced.supervisor.taskstats import Oldest

        if self._oldest is None:
            self._oldest = Oldest()
        return self._oldest.seconds(self.queue)

    @staticmethod
    def _handler(call: Call) -> str | None:
        return None if call.parameters.get("handler") is None else parse.name_of(call.parameters, "handler")

    def _verb(self, call: Call, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run an engine verb for a caller, whose answer stands or falls with this turn's commit."""
        try:
            result = verb(*args, **kwargs)
        except TaskError as error:
            raise refusal(error) from error
        except StoreError as error:
            self.queue.refuse(error)
            raise
        self.queue.answered(call)
        return result


def refusal(error: TaskError) -> VarlinkError:
    """How the wire says that a rule of the queue refuses it."""
    fields = error.fields
    if error.code == "busy":
        return VarlinkError(f"{NAME}.Busy", {"retry_after_ms": fields["retry_after_ms"], "reason": error.message})
    if error.code == "no-such-task":
        return VarlinkError(f"{NAME}.NoSuchTask", dict(fields))
    if error.code == "not-leased":
        return VarlinkError(f"{NAME}.NotLeased", dict(fields))
    return VarlinkError(f"{NAME}.InvalidRequest", {"reason": error.message})
