"""Runs one scripted day of the queue again and again, each time with another disk operation that fails.

Usage: LD_PRELOAD=faultfs.so python3 htm_faults.py KIND DIRECTORY FIRST STRIDE

Each run is a child forked from a warm parent: the real queue behind the real service on a real socket, with a client
that repeats what was refused. The copy of the files at every refusal (what a crash at that moment would leave) must
be the state before the step or after it; the answer must name the file; in the end everything must be as in a run on
a disk that works. Prints {"operations", "runs", "refusals", "where": {operation: runs}, "failures": [...]}.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import re
import shutil
import socket
import sqlite3
import sys
import time
import traceback
from contextlib import closing

from graced.base.clock import ManualClock
from graced.base.errors import StoreError
from graced.runtime.loop import Loop
from graced.runtime.service import Service, listen_unix
from graced.store.archive import files, lines
from graced.store.checkpoint import passive
from graced.store.tasks import TaskStore
from graced.supervisor import queue as htm_queue
from graced.supervisor.housekeeping import Housekeeping
from graced.supervisor.htm import HtmInterface
from graced.supervisor.keep import Keep

READ, WRITE, SYNC, RESIZE, NAME, OPEN = 1, 2, 4, 8, 16, 32
FAIL, SHORT, DIE, TORN = range(4)
KINDS = {
    # every operation, reading too, fails once
    "eio": (READ | WRITE | SYNC | RESIZE | NAME | OPEN, FAIL, errno.EIO, 0),
    "enospc": (WRITE | SYNC | RESIZE | NAME, FAIL, errno.ENOSPC, 0),
    # half of the bytes are taken, the next write has no room
    "short": (WRITE, SHORT, errno.EIO, 0),
    # from this operation on the disk cannot be written, is full, or is dead, for a while
    "unwritable": (WRITE | SYNC | RESIZE | NAME, FAIL, errno.EIO, 1),
    "full": (WRITE | RESIZE | NAME, FAIL, errno.ENOSPC, 1),
    "dead": (READ | WRITE | SYNC | RESIZE | NAME | OPEN, FAIL, errno.EIO, 1),
    # the process is gone before this operation, or in the middle of this write
    "crash": (WRITE | SYNC | RESIZE | NAME, DIE, errno.EIO, 0),
    "torn": (WRITE, TORN, errno.EIO, 0),
}
DIED = 86
GAVE_UP = 87
TO_THE_END, FURTHER = 8, 2
"""Every so-many-th run is made to its end, the others this many steps past the failure."""
LIMIT_SECONDS = 20.0
BROKEN_TRIES = 3
"""How often a disk that stays broken is seen to be, before it works again."""
LEASED, ENDED = 2, 3
UNAVAILABLE = "io.graced.HTM.Unavailable"
OTHER_EVERY_TIME = re.compile(r"_us$|(^|_)at$|^since$|^rank$|^redo_|^boot_id$|^deadline_boot$")

AT_IN_TEXT = re.compile(r'"at_us": ?\d+')


def _half():
    return 0.5


class Disk:
    """The preloaded faultfs.c."""

    def __init__(self):
        self._lib = ctypes.CDLL(None)
        self._lib.faultfs_count.restype = ctypes.c_long
        self._lib.faultfs_hit.restype = ctypes.c_char_p

    def arm(self, directory, number, kind):
        self._lib.faultfs_arm(os.fsencode(directory), ctypes.c_long(number), *KINDS[kind])

    def disarm(self):
        self._lib.faultfs_disarm()

    def pause(self, yes):
        self._lib.faultfs_pause(int(yes))

    @property
    def count(self):
        return self._lib.faultfs_count()

    @property
    def hit(self):
        return self._lib.faultfs_hit().decode()


def recovered(directory, scratch):
    """What a process that opens a copy of these files finds, without times; {} when nothing was ever kept."""
    shutil.rmtree(scratch, ignore_errors=True)
    os.makedirs(scratch)
    for name in ("q.db", "q.db-wal", "q.db-journal", "q.db-redo", "q.db.created"):
        if os.path.exists(f"{directory}/{name}"):
            shutil.copyfile(f"{directory}/{name}", f"{scratch}/{name}")
    if not os.path.exists(f"{scratch}/q.db"):
        return {}
    TaskStore(f"{scratch}/q.db", synchronous="NORMAL").close()
    with closing(sqlite3.connect(f"{scratch}/q.db")) as db:
        assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        found = {name: table(db, name) for name in names if name not in {"boot", "tally"}}
        if not found.get("task"):
            return {}
        consistent(db)
        kept = {task["id"] for task in found["task"]} | archived(directory, scratch)
        missing = set(range(1, found["head"][0]["next_task"])) - kept
        assert not missing, f"neither in the database nor in the archive: {missing}"
    return found


def archived(directory, scratch):
    """Numbers of the tasks in a copy of the archive."""
    if not os.path.isdir(f"{directory}/archive"):
        return set()
    shutil.copytree(f"{directory}/archive", f"{scratch}/archive")
    found = {json.loads(line)["id"] for path in files(f"{scratch}/archive") for line in lines(path)}
    return {int(str(name).removeprefix("task_")) for name in found}


def table(db, name):
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({name})")]
    kept = [column for column in columns if not OTHER_EVERY_TIME.search(column)]
    rows = [dict(zip(columns, row, strict=True)) for row in db.execute(f"SELECT * FROM {name}")]
    return [{column: brief(row[column]) for column in kept} for row in rows]


def brief(value):
    if not isinstance(value, str):
        return value
    return f"{len(value)} characters" if len(value) > 200 else AT_IN_TEXT.sub("", value)


def consistent(db):
    """Counts are what counting gives, and each row is what its history says."""
    counted = db.execute("SELECT handler, origin, priority, state, count(*) FROM task GROUP BY 1, 2, 3, 4").fetchall()
    assert sorted(db.execute("SELECT * FROM tally WHERE n").fetchall()) == sorted(counted), "the tally is not the count"
    wrong = db.execute(
        "SELECT id FROM task WHERE open_children != "
        f"(SELECT count(*) FROM task child WHERE child.parent = task.id AND child.state < {ENDED})"
    ).fetchall()
    assert not wrong, f"open_children is not the count of {wrong}"
    wrong = db.execute(
        "SELECT id FROM task WHERE attempts != "
        "(SELECT count(*) FROM task_history WHERE task = task.id AND kind = 'leased')"
    ).fetchall()
    assert not wrong, f"attempts without their event: {wrong}"


def differences(found, *wanted):
    """For people: the rows that are only in one of them."""
    return [
        {
            name: [row for row in one.get(name, []) if row not in other.get(name, [])]
            for name in {**found, **want}
            for one, other in ((found, want), (want, found))
            if found.get(name) != want.get(name)
        }
        for want in wanted
    ]


def undispatched(old, new):
    """`new` without the leases that its step led to: they may follow in a commit of their own."""
    before = {task["id"]: task["attempts"] for task in old.get("task", ())}
    fresh = {
        (task["id"], task["attempts"])
        for task in new.get("task", ())
        if task["state"] == LEASED and task["attempts"] > before.get(task["id"], 0)
    }
    tasks = [
        {**task, "state": 0, "attempts": task["attempts"] - 1, "worker": None}
        if (task["id"], task["attempts"]) in fresh
        else task
        for task in new.get("task", ())
    ]
    events = [
        event
        for event in new.get("task_event", ())
        if event["kind"] != "leased" or (event["task"], event["attempt"]) not in fresh
    ]
    return {**new, "task": tasks, "task_event": events}


class AtOnce:
    """In place of the background thread: the scripted day has one."""

    def run(self, job, then):
        try:
            result = job()
        except StoreError as error:
            then(None, error)
        else:
            then(result, None)


class Peer:
    """One connection of the client, read without blocking."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.setblocking(False)
        self._buffer = b""
        self.frames = []

    def send(self, method, more=False, **parameters):
        message = {"method": f"io.graced.HTM.{method}", "parameters": parameters, "more": more}
        self._socket.sendall(json.dumps(message).encode() + b"\0")

    def read(self):
        try:
            self._buffer += self._socket.recv(1 << 18)
        except BlockingIOError:
            return
        *frames, self._buffer = self._buffer.split(b"\0")
        self.frames += map(json.loads, frames)

    def close(self):
        self._socket.close()


class Day:
    """One run. `states[k]` is what a working disk holds after step k (None: this run finds that out)."""

    def __init__(self, disk, base, states, told, further=1000):
        """`further`: how many steps it goes on after the one in which the disk failed."""
        self.disk = disk
        self.base = base
        self.directory = f"{base}/state"
        self.states = states
        self.found = []
        self.told = told
        self.further = further
        self.clock = ManualClock(start_us=1_000_000_000)
        self.refusals = 0
        self.step = 0
        self.before = {}
        self.hit_in_step = None
        self.leases = {}
        self.control = self.stream = None

    # -- what a step may use ------------------------------------------------------------------------------------------

    def open(self):
        """The queue opens, or says why not; a process would exit then, so what it held is given back."""
        while True:
            try:
                self._serve()
            except StoreError as error:
                assert self.directory in str(error), error
                self.refused()
            else:
                break
            gc.collect()
            self._abandon()
        self.control = Peer(f"{self.base}/socket")

    def _serve(self):
        self.loop = Loop()
        self.service = Service(self.loop, "htm-test", "0", "graced/share")
        self.queue = htm_queue.Queue(self.loop, self.clock, f"{self.directory}/q.db", boot_id="a" * 32, jitter=_half)
        self.service.add(HtmInterface(self.queue))
        self.service.before_flush.append(self.queue.flush)
        self.service.listen(listen_unix(f"{self.base}/socket"))

    def _abandon(self):
        # the descriptor with the writer's lock would end with the process
        self.disk.pause(True)
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink(f"/proc/self/fd/{name}").startswith(self.directory):
                    os.close(int(name))
            except OSError:
                continue
        self.disk.pause(False)

    def crash(self):
        """The process ends without a word: its connections close, its locks go, nothing is written."""
        self.service.close_listeners()
        for peer in (self.control, self.stream):
            if peer is not None:
                peer.close()
        self.stream = None
        self.leases.clear()
        self.queue.store._connection.close()
        self._abandon()

    def work(self, credits_):
        """A worker comes."""
        self.stream = Peer(f"{self.base}/socket")
        self.stream.send("Work", more=True, handler="job", worker="w", credits=credits_)
        self.until(lambda: self.greeted, "the stream begins")

    @property
    def greeted(self):
        return self.stream is not None and bool(self.stream_frames)

    def call(self, method, **parameters):
        """The answer of one call, which is repeated while it is refused."""
        while True:
            self.control.send(method, **parameters)
            self.until(lambda: self.control.frames, method)
            reply = self.control.frames.pop(0)
            if "error" not in reply:
                return reply["parameters"]
            assert reply["error"] == UNAVAILABLE, (method, reply)
            assert self.directory in reply["parameters"]["reason"], reply
            assert self.directory in self.queue.error
            self.refused()

    def end(self, method, number, **parameters):
        """The worker says how its task ended."""
        self.until(lambda: f"task_{number}" in self.leases, f"a lease of task_{number}")
        name = f"task_{number}"
        return self.call(method, task_id=name, attempt=self.leases.pop(name), **parameters)

    def passes(self, seconds):
        """Time passes, and the queue's timer sees it."""
        self.clock.advance_us(int(seconds * 1e6))
        self.loop.call_soon(self.queue._wake)
        self.turn()

    def checkpoint(self):
        """The log is copied into the database."""
        while True:
            self.queue.settle()
            if self.queue.error:
                self.settle()
                continue
            try:
                passive(self.queue.store.db.connection, self.directory)
            except StoreError as error:
                assert self.directory in str(error), error
                self.refused()
            else:
                return

    def archive(self, shelf):
        """What has ended moves to the archive; it is tried again while that is refused."""
        background, now_us = AtOnce(), self.queue.timeline.now_us()
        while True:
            house = Housekeeping(self.loop, background, self.queue, f"{self.directory}/archive", Keep())
            house._ask(shelf, now_us, 0)
            failed = house.error
            self.settle()
            house.close()
            house.close_thread()
            if not failed and self.removed(shelf):
                return
            self.refused()

    def removed(self, shelf):
        """Is nothing of this shelf left, as the tally in memory and on disk has it?"""
        states = (3, 6) if shelf == 0 else (4, 5)
        return not any(count for key, count in self.queue.engine.book.tally.total.items() if key[3] in states)

    # -- how it goes on ------------------------------------------------------------------------------------------------

    def turn(self, wait_s=0.0):
        self.loop.run_once(wait_s)
        self.control.read()
        if self.stream is not None:
            self.stream.read()
            for frame in self.stream.frames:
                self.stream_frames.append(frame)
                lease = frame["parameters"].get("lease")
                if lease is not None:
                    self.leases[lease["task_id"]] = lease["attempt"]
            self.stream.frames.clear()

    def until(self, condition, what):
        limit = time.monotonic() + LIMIT_SECONDS
        while not condition():
            assert time.monotonic() < limit, f"never came: {what}"
            self.turn(0.005)
            self.look_at_disk()

    def look_at_disk(self):
        if self.queue.error:
            self.refused()

    def refused(self):
        """The disk refused: what is on it is old or new; one that stays broken works again in the end."""
        self.refusals += 1
        assert self.refusals < 1000, f"it does not recover: {self.queue.error}, {self.queue._retry}, {self.disk.hit}"
        self.disk.pause(True)
        found = recovered(self.directory, f"{self.base}/copy")
        self.disk.pause(False)
        wanted = (self.before, self.states[self.step], undispatched(self.before, self.states[self.step]))
        assert found in wanted, f"a third state in step {self.step}: {differences(found, *wanted[:2])}"
        if self.refusals >= BROKEN_TRIES:
            self.disk.disarm()

    def settle(self):
        """Until the queue has nothing left to do and the disk has taken it."""
        limit = time.monotonic() + LIMIT_SECONDS
        while self.queue._retry is not None or self.queue.error or not self.queue.engine.book.turn.empty:
            assert time.monotonic() < limit, f"it does not recover: {self.queue.error}"
            self.turn(0.002)
            self.look_at_disk()
        for _ in range(2):
            self.turn()
            if self.queue.error:
                self.settle()

    def run(self, script):
        for self.step, act in enumerate(script):
            self.stream_frames = []
            act(self)
            if not getattr(act, "closes", False):
                self.settle()
                if self.step % 3 == 0:
                    self.queue.settle()
                    self.settle()
            self._check(unsure=getattr(act, "closes", False))
            os.write(self.told, b"%d\n" % self.step)
            if self.hit_in_step is not None and self.step >= self.hit_in_step + self.further:
                return

    def _check(self, *, unsure):
        hit = self.disk.hit
        if hit and self.hit_in_step is None:
            self.hit_in_step = self.step
        past = -1 if self.hit_in_step is None else self.step - self.hit_in_step
        near = past in {0, 1, self.further}
        if self.states is not None and not near and self.step + 1 < len(self.states):
            self.before = self.states[self.step]
            return
        self.disk.pause(True)
        found = recovered(self.directory, f"{self.base}/copy")
        self.disk.pause(False)
        if self.states is None:
            self.found.append(found)
        else:
            # the way down need not be written: the next start takes back what was leased
            wanted = (self.states[self.step], self.before) if unsure else (self.states[self.step],)
            assert found in wanted, f"after step {self.step}: {differences(found, *wanted)}"
        self.before = found


def script():
    """The steps of the day: each one transaction of the queue, each acknowledged before the next."""

    def submit(key, **more):
        return lambda day: day.call("Submit", handler="job", task_type="t", idempotency_key=key, **more)

    def crash(day):
        day.crash()

    crash.closes = True

    def close(day):
        day.stream = None
        day.queue.close()
        day.service.close_listeners()
        day.control.close()

    close.closes = True

    def leave(day):
        day.stream.close()
        day.stream = None
        day.leases.clear()
        day.turn()

    return [
        lambda day: day.open(),
        submit("a"),
        submit("b", context={"x": "y" * 9000}),
        lambda day: day.work(2),
        lambda day: day.end("Complete", 1, result={"n": 1}),
        submit("c", priority="low"),
        lambda day: day.end("Fail", 2, error="once more", retry=True),
        lambda day: day.passes(2),
        lambda day: day.end("Fail", 2, error="never again", retry=False),
        lambda day: day.end("Defer", 3, delay_seconds=60.0, reason="not now"),
        submit("a"),
        lambda day: day.call("Submit", handler="tree", task_type="t", idempotency_key="top"),
        lambda day: day.call("Submit", handler="tree", task_type="t", parent="task_5"),
        lambda day: day.call("Submit", handler="job", task_type="t", parent="task_6"),
        lambda day: day.call("Cancel", task_id="task_5", reason="no longer wanted"),
        leave,
        lambda day: day.passes(80_000),
        crash,
        lambda day: day.open(),
        lambda day: day.work(1),
        close,
        lambda day: day.open(),
        lambda day: day.work(4),
        lambda day: day.end("Complete", 3, result={}),
        lambda day: day.end("Complete", 4, result={}),
        *family(submit),
    ]


def family(submit):
    """The steps with parents and children, and a handler that is paused."""
    job = {"handler": "job", "task_type": "t"}
    other = {"handler": "other", "task_type": "t"}
    return [
        # tasks 8, 9 and its child 10; then 11 with its children 12 and 13
        lambda day: day.call("SubmitBatch", tasks=[other, {**other, "idempotency_key": "top", "children": [other]}]),
        lambda day: day.call("Submit", **job, children=[{**job, "idempotency_key": "left"}, job]),
        lambda day: day.call("Progress", task_id="task_12", attempt=1, percent=50.0, message="half of it"),
        lambda day: day.call("Extend", task_id="task_12", attempt=1, seconds=600.0),
        lambda day: day.end("Complete", 12, result={}),
        lambda day: day.end("Fail", 13, error="so the parent fails too", retry=False),
        lambda day: day.call("Requeue", task_id="task_11", reason="once more"),
        submit("late", parent="task_11"),
        lambda day: day.end("Wait", 11),
        lambda day: day.end("Complete", 14, result={}),
        lambda day: day.end("Complete", 11, result={}),
        lambda day: day.call("Pause", handler="job", reason="maintenance"),
        submit("d"),
        lambda day: day.call("Resume", handler="job"),
        lambda day: day.end("Complete", 15, result={}),
        lambda day: day.passes(60),
        lambda day: day.checkpoint(),
        lambda day: day.archive(0),
        lambda day: day.archive(1),
        submit("e"),
        lambda day: day.end("Complete", 16, result={}),
    ]


def forked(run, directory):
    """Run `run(fd)` in a child: its exit code (negative: a signal) and the lines it wrote."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(reader)
            run(writer)
            code = 0
        except SystemExit as left:
            # the queue left by itself, and said why
            code = GAVE_UP if directory in str(left) else 1
        except BaseException:  # noqa: BLE001  # told, and judged by the parent
            os.write(writer, b"!" + traceback.format_exc()[-2500:].encode())
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def main():
    kind, root, first, stride = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    htm_queue.RETRY_COMMIT_SECONDS = 0.005
    # SQLite commits where the script says so, not when some milliseconds have passed
    htm_queue.SETTLE_SECONDS = 3600.0
    disk = Disk()
    steps = script()
    gc.freeze()

    def plain(fd):
        day = Day(disk, f"{root}/plain", None, fd)
        disk.arm(day.directory, -1, kind)
        day.run(steps)
        os.write(fd, json.dumps({"operations": disk.count, "states": day.found}).encode())

    code, said = forked(plain, f"{root}/plain")
    assert code == 0, said.decode()
    reference = json.loads(said.splitlines()[-1])
    states, operations = reference["states"], reference["operations"]
    report = {"operations": operations, "runs": 0, "refusals": 0, "where": {}, "failures": []}
    for number in range(first, operations + 1, stride):
        base = f"{root}/{number}"

        def failing(fd, base=base, number=number):
            day = Day(disk, base, states, fd, FURTHER if number % TO_THE_END else 1000)
            disk.arm(day.directory, number, kind)
            day.run(steps)
            os.write(fd, json.dumps({"hit": disk.hit, "refusals": day.refusals}).encode())

        code, said = forked(failing, f"{base}/state")
        report["runs"] += 1
        try:
            judge(report, base, states, code, said)
        except AssertionError as error:
            report["failures"].append(f"{kind} {number}: {error}")
            if len(report["failures"]) >= 5:
                break
        shutil.rmtree(base, ignore_errors=True)
    print(json.dumps(report))


def judge(report, base, states, code, said):
    """One run has ended: was it right?"""
    *acknowledged, last = [line for line in said.split(b"\n") if line] or [b""]
    if code == 0:
        ended = json.loads(last)
        assert ended["hit"], "the operation was never reached"
        report["refusals"] += ended["refusals"]
        report["where"][ended["hit"]] = report["where"].get(ended["hit"], 0) + 1
        return
    assert code in {DIED, GAVE_UP}, said.decode()
    step = len([*acknowledged, last]) if said else 0
    how = "died" if code == DIED else "gave up"
    report["where"][how] = report["where"].get(how, 0) + 1
    found = recovered(f"{base}/state", f"{base}/copy")
    wanted = ((states[step - 1] if step else {}), states[step])
    assert found in wanted, f"a third state in step {step}: {differences(found, *wanted)}"
    clock = ManualClock(start_us=1_000_000_000)
    queue = htm_queue.Queue(Loop(), clock, f"{base}/state/q.db", boot_id="a" * 32)
    assert queue.store.db.check() == []
    queue.close()


if __name__ == "__main__":
    main()
