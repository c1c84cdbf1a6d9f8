"""A queue with a clock that stands still, and callers as its interface sees them."""

from __future__ import annotations

import json

import pytest

from graced.base.clock import ManualClock
from graced.base.json import loads
from graced.runtime.loop import Loop
from graced.runtime.peer import Peer
from graced.supervisor.htm import HtmInterface
from graced.supervisor.queue import Queue
from graced.varlink.wire import VarlinkError


def plain(reply):
    """An answer as an object; on hot paths it is made as text."""
    return json.loads(reply) if isinstance(reply, bytes) else reply


class Caller:
    """One call, as the interface sees it."""

    def __init__(self, parameters, role="root", uid=None, more=False):
        self.parameters = parameters
        self.more = more
        uid = {"root": 0}.get(role, 900) if uid is None else uid
        self.peer = Peer(uid, uid, 1, frozenset({role}), role)
        self.backlog_bytes = 0
        self.replies = []
        self.ended = False
        self.withdrawn = None
        self.closers = []

    def reply(self, parameters, *, continues=False):
        self.replies.append(plain(parameters))
        self.ended = not continues

    def push(self, every):
        self.replies += map(loads, every)

    def withdraw(self, error):
        self.withdrawn = error

    def on_close(self, callback):
        self.closers.append(callback)

    def hang_up(self):
        for closer in self.closers:
            closer()

    @property
    def leases(self):
        return [reply["lease"] for reply in self.replies if reply["lease"] is not None]

    @property
    def revoked(self):
        return [reply["revoked"] for reply in self.replies if "revoked" in reply]

    @property
    def changes(self):
        return [reply["change"] for reply in self.replies if reply["change"] is not None]


class Desk:
    def __init__(self, path, limits=None):
        self.path = str(path)
        self.loop = Loop()
        self.clock = ManualClock(start_us=5_000_000)
        self.limits = limits
        self.open()

    def open(self):
        self.queue = Queue(
            self.loop,
            self.clock,
            self.path,
            boot_id="b",
            limits=self.limits,
            synchronous="NORMAL",
            jitter=lambda: 0.5,
        )
        self.htm = HtmInterface(self.queue)
        self.told = []
        self.modes = []
        self.queue.on_modes = self.modes.append
        self.queue.on_dispatch = lambda task: self.told.append(("dispatch", task.id))
        self.queue.on_completed = lambda task: self.told.append(
            ("completed", task.id, task.state, None if task.result is None else loads(task.result))
        )
        self.queue.on_sla = lambda task, what: self.told.append((what, task.id))

    def call(self, method, parameters=None, role="root", uid=None, flush=True):
        caller = Caller(parameters or {}, role, uid)
        reply = plain(getattr(self.htm, method)(caller))
        if flush:
            self.queue.flush()
        return reply

    def stream(self, method, parameters, role="root", uid=None):
        caller = Caller(parameters, role, uid, more=True)
        assert getattr(self.htm, method)(caller) is None
        self.queue.flush()
        return caller

    def work(self, handler="job", worker="w", credits=1, role="root", uid=None):
        return self.stream("Work", {"handler": handler, "worker": worker, "credits": credits}, role, uid)

    def watch(self, **parameters):
        return self.stream("Watch", parameters, role="read")

    def submit(self, **parameters):
        return self.call("Submit", {"handler": "job", "task_type": "t", **parameters})["task_id"]

    def get(self, task_id):
        return self.call("Get", {"task_id": task_id})["task"]

    def pass_seconds(self, seconds):
        self.clock.advance_us(int(seconds * 1e6))
        self.queue._wake()
        self.queue.flush()


def refused(name, act, *args, **kwargs):
    with pytest.raises(VarlinkError) as caught:
        act(*args, **kwargs)
    assert caught.value.error.endswith(f".{name}"), caught.value.error
    return caught.value.parameters
