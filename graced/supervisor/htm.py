"""io.graced.HTM: the queue's verbs and who may use them.

The rules are in graced.htm, the turn and its commit in graced.supervisor.queue, the verbs that only look in
graced.supervisor.htmread.
"""

from __future__ import annotations

from graced.base.errors import FormatError, StoreError
from graced.base.json import get_bool, get_int, get_str, opt_int
from graced.htm.lease import MAX_CREDITS, Worker
from graced.htm.mode import DRAINED, PAUSED
from graced.model.task import DONE, NORMAL, PRIORITIES, STATES, task_name, task_number
from graced.runtime.peer import ADMIN
from graced.supervisor import taskparse as parse
from graced.supervisor.htmread import ReadVerbs
from graced.supervisor.queue import NAME
from graced.varlink.wire import SERVICE, VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.base.json import JsonDict
    from graced.htm.lease import Lease
    from graced.model.task import Task
    from graced.runtime.connection import Call, Run

HEAL = "heal"
_MAY_SUBMIT_HEAL = frozenset({"supervisor", "root"})
_MAY_WORK_HEAL = frozenset({"healing", "root"})
_WORKERS = ADMIN | {"healing"}
_IN_STATE = [b'{"state":"%b"}' % word.encode() for word in STATES]
_SUBMITTERS = ADMIN | {"supervisor"}


class HtmInterface(ReadVerbs):
    """The verbs of one queue, for peers and for the supervisor itself."""

    acl = {
        **ReadVerbs.acl,
        "Submit": _SUBMITTERS,
        "SubmitBatch": _SUBMITTERS,
        "Work": _WORKERS,
        "Heartbeat": _WORKERS,
        "Progress": _WORKERS,
        "Extend": _WORKERS,
        "Complete": _WORKERS,
        "Fail": _WORKERS,
        "Defer": _WORKERS,
        "Wait": _WORKERS,
        "Cancel": _SUBMITTERS,
        "Requeue": _SUBMITTERS,
        "Pause": ADMIN,
        "Drain": ADMIN,
        "Resume": ADMIN,
    }

    runs = {"Submit": "_submit_run", "Complete": "_complete_run"}

    def submit(
        self,
        handler: str,
        task_type: str,
        *,
        origin: str,
        priority: str = PRIORITIES[NORMAL],
        sla_seconds: int | None = None,
        context: JsonDict | None = None,
        reasoning: str | None = None,
        intent_id: str | None = None,
        parent: str | None = None,
        idempotency_key: str | None = None,
        delay_seconds: float = 0.0,
    ) -> tuple[str, bool]:
        """Submit from within the supervisor: (task id, deduplicated), on disk when it returns.

        `origin` is "brain", "human" or "drill". Raises FormatError, TaskError (busy, no-such-task, parent-ended),
        StoreError.
        """
        parameters: JsonDict = {
            "handler": handler,
            "task_type": task_type,
            "priority": priority,
            "sla_seconds": sla_seconds,
            "context": context,
            "reasoning": reasoning,
            "intent_id": intent_id,
            "parent": parent,
            "idempotency_key": idempotency_key,
            "delay_seconds": delay_seconds,
        }
        arguments = parse.submission(parameters, self.queue.engine.limits.max_context_bytes)
        number, known = self.queue.attempt(self.queue.engine.submit, **arguments, origin=origin)
        self.queue.turn(raising=True)
        return task_name(number), known

    # -- Varlink ----------------------------------------------------------------------------------------------------

    def Submit(self, call: Call) -> JsonDict | bytes:
        if "children" in call.parameters:
            return self._submit_tree(call)
        engine = self.queue.engine
        arguments = parse.submission(call.parameters, engine.limits.max_context_bytes)
        if arguments["handler"] == HEAL:
            _need(call, _MAY_SUBMIT_HEAL, "Submit heal")
        number, known = self._verb(call, engine.submit, origin=call.peer.name, **arguments)
        return b'{"task_id":"task_%d","deduplicated":%b}' % (number, b"true" if known else b"false")

    def _submit_run(self, run: Run) -> list[bytes]:
        engine = self.queue.engine
        specs = []
        for parameters in run.parameters:
            spec = parse.plain(parameters, engine.limits.max_context_bytes)
            if spec is None or spec[0] == HEAL:
                break
            specs.append(spec)
        taken = self._all_of(run, engine.submit_run, specs, run.peer.name) or []
        return [
            b'{"task_id":"task_%d","deduplicated":%b}' % (number, b"true" if known else b"false")
            for number, known in taken
        ]

    def _submit_tree(self, call: Call) -> JsonDict:
        spec = parse.submission_tree(call.parameters, self.queue.engine.limits.max_context_bytes)
        _need_heal(call, [spec])
        taken = self._verb(call, self.queue.engine.submit_tree, spec, call.peer.name)
        names = [task_name(number) for number, _known in taken]
        return {"task_id": names[0], "deduplicated": taken[0][1], "task_ids": names}

    def SubmitBatch(self, call: Call) -> bytes:
        engine = self.queue.engine
        plain = parse.all_plain(call.parameters, engine.limits.max_context_bytes)
        taken: list[tuple[int, bool]] = []
        if plain and all(spec[0] != HEAL for spec in plain):
            taken = self._verb(call, engine.submit_run, plain, call.peer.name)
        if not taken:
            specs = parse.submissions(call.parameters, engine.limits.max_context_bytes)
            _need_heal(call, specs)
            taken = [tree[0] for tree in self._verb(call, engine.submit_batch, specs, call.peer.name)]
        ids = ",".join([f'"task_{number}"' for number, _ in taken])
        known = ",".join(["true" if known else "false" for _, known in taken])
        return f'{{"task_ids":[{ids}],"deduplicated":[{known}]}}'.encode()

    def Work(self, call: Call) -> None:
        if not call.more:
            raise VarlinkError(f"{SERVICE}.ExpectedMore", {})
        handler = parse.name_of(call.parameters, "handler")
        _need(call, _MAY_WORK_HEAL if handler == HEAL else ADMIN, f"Work {handler}")
        name = parse.name_of(call.parameters, "worker")
        credits_ = get_int(call.parameters, "credits")
        if not 0 < credits_ <= MAX_CREDITS:
            raise FormatError(f"$.credits: 1 to {MAX_CREDITS} are accepted, not {credits_}", path="$.credits")
        for old in self.queue.engine.leases.find(name, call.peer.uid):
            if old.handler == handler:
                # a worker that came back before its old connection was seen to end
                self.queue.end_stream(old)
        worker = Worker(name, call.peer.uid, handler, credits_, call)
        self.queue.engine.worker_came(worker)
        call.on_close(lambda: self.queue.stream_closed(worker))
        call.reply({"lease": None}, continues=True)

    def Heartbeat(self, call: Call) -> JsonDict:
        name = get_str(call.parameters, "worker")
        credits_ = opt_int(call.parameters, "credits")
        if credits_ is not None and not 0 <= credits_ <= MAX_CREDITS:
            raise FormatError(f"$.credits: 0 to {MAX_CREDITS} are accepted, not {credits_}", path="$.credits")
        if not self.queue.engine.leases.heartbeat(name, call.peer.uid, self.queue.timeline.now_us(), credits_):
            raise FormatError(f"$.worker: no Work stream of yours is called {name[:80]!r}", path="$.worker")
        return {}

    def Progress(self, call: Call) -> JsonDict:
        percent, message = parse.progress_of(call.parameters)
        self._verb(call, self.queue.engine.progress, self._lease(call), percent, message)
        return {}

    def Extend(self, call: Call) -> JsonDict:
        us = parse.extend_us_of(call.parameters)
        until_us: int = self._verb(call, self.queue.engine.extend, self._lease(call), us)
        return {"lease_boottime_us": self.queue.timeline.boottime_us(until_us)}

    def Complete(self, call: Call) -> bytes:
        result = parse.object_text(call.parameters, "result", parse.MAX_RESULT_BYTES)
        if result is None:
            raise FormatError("$.result is missing", path="$.result")
        return self._ended(call, self.queue.engine.complete, result)

    def _complete_run(self, run: Run) -> list[bytes]:
        uid = 0 if "root" in run.peer.roles else run.peer.uid
        held = self.queue.engine.leases.held
        ended: dict[int, tuple[Lease, str]] = {}
        for parameters in run.parameters:
            get = parameters.get
            name, attempt, result = get("task_id"), get("attempt"), get("result")
            if type(name) is not str or type(attempt) is not int or type(result) is not dict:
                break
            number = task_number(name)
            lease, text = held(number, attempt, uid), parse.plain_text(result, parse.MAX_RESULT_BYTES)
            if lease is None or text is None or number in ended or not lease.task.alone:
                break
            ended[number] = lease, text
        done = self._all_of(run, self.queue.engine.complete_run, list(ended.values())) or 0
        return [_IN_STATE[DONE]] * done

    def Fail(self, call: Call) -> bytes:
        error = parse.reason_of(call.parameters, "error")
        retry = get_bool(call.parameters, "retry")
        result = parse.object_text(call.parameters, "result", parse.MAX_RESULT_BYTES)
        return self._ended(call, self.queue.engine.fail, error, retry=retry, result=result)

    def Defer(self, call: Call) -> bytes:
        reason = parse.reason_of(call.parameters, "reason")
        return self._ended(call, self.queue.engine.defer, parse.delay_us_of(call.parameters), reason)

    def Wait(self, call: Call) -> bytes:
        return self._ended(call, self.queue.engine.wait)

    def _all_of(self, run: Run, verb: Callable[..., Any], some: list[Any], *args: Any) -> Any:
        """Run a verb for many calls, whose answers stand or fall with this turn's commit; None when it did nothing.

        When the store fails, nothing of this turn is left, and each call is tried by itself.
        """
        if not some:
            return None
        try:
            done = self.queue.attempt(verb, some, *args)
        except StoreError:
            return None
        self.queue.answered(run)
        return done

    def _lease(self, call: Call) -> Lease:
        uid = 0 if "root" in call.peer.roles else call.peer.uid
        name, attempt = call.parameters.get("task_id"), call.parameters.get("attempt")
        if type(name) is str and type(attempt) is int:
            lease = self.queue.engine.leases.held(task_number(name), attempt, uid)
            if lease is not None:
                return lease
        # not so, or not so spelt: now the reason matters
        number = parse.number_of(call.parameters)
        attempt = get_int(call.parameters, "attempt")
        found: Lease = self._verb(call, self.queue.engine.lease, number, attempt, uid)
        return found

    def _ended(self, call: Call, verb: Callable[..., Task], *args: Any, **kwargs: Any) -> bytes:
        task: Task = self._verb(call, verb, self._lease(call), *args, **kwargs)
        return _IN_STATE[task.state]

    # -- people -----------------------------------------------------------------------------------------------------

    def Cancel(self, call: Call) -> JsonDict:
        reason = parse.reason_of(call.parameters, "reason")
        task: Task = self._verb(call, self.queue.engine.cancel, parse.number_of(call.parameters), reason)
        return {"state": STATES[task.state]}

    def Requeue(self, call: Call) -> JsonDict:
        reason = parse.reason_of(call.parameters, "reason")
        number = parse.number_of(call.parameters)
        if self._verb(call, self.queue.engine.book.get, number).handler == HEAL:
            _need(call, _MAY_SUBMIT_HEAL, "Requeue heal")
        task: Task = self._verb(call, self.queue.engine.requeue, number, reason)
        return {"state": STATES[task.state]}

    def Pause(self, call: Call) -> JsonDict:
        return self._hold(call, PAUSED)

    def Drain(self, call: Call) -> JsonDict:
        return self._hold(call, DRAINED)

    def _hold(self, call: Call, mode: str) -> JsonDict:
        handler = parse.handlers_of(call.parameters)
        reason = parse.reason_of(call.parameters, "reason")
        self._verb(call, self.queue.engine.set_mode, handler, mode, reason, call.peer.name)
        return {}

    def Resume(self, call: Call) -> JsonDict:
        self._verb(call, self.queue.engine.clear_mode, parse.handlers_of(call.parameters))
        return {}


def _need(call: Call, needed: frozenset[str], what: str) -> None:
    if not needed & call.peer.roles and "root" not in call.peer.roles:
        raise VarlinkError(f"{NAME}.PermissionDenied", {"method": f"{NAME}.{what}", "needed": sorted(needed)})


def _need_heal(call: Call, specs: list[JsonDict]) -> None:
    if HEAL in parse.handlers_in(specs):
        _need(call, _MAY_SUBMIT_HEAL, "Submit heal")
