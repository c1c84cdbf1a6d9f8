"""A worker whose function does what a task's type says; what test_worker.py starts, stops and kills.

Usage: worker_jobs.py SOCKET CREDITS DRAIN_SECONDS. Prints one line for each thing that a test waits for.
"""

from __future__ import annotations

import sys

from graced.worker import Defer, Fail, Retry, Worker

worker = Worker(
    "job", credits=int(sys.argv[2]), drain_seconds=float(sys.argv[3]), grace_seconds=0.5, socket=sys.argv[1]
)


def say(*words):
    """One line in one piece, whichever thread says it."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def echo(task):
    return {"context": task.context, "attempt": task.attempt, "left": task.seconds_left()}


def flaky(task):
    if task.attempt == 1:
        raise ValueError("no luck")
    if task.attempt == 2:
        raise Retry("not yet")
    if task.attempt == 3:
        raise Defer(0.01, "later")


def hopeless(_task):
    raise Fail("it cannot be done")


def wrong(_task):
    return 5


def gate(task):
    """Wait until the test opens the gate, whatever else happens."""
    began = task.attempt
    say("began", task.id, began)
    task.progress(40, "half of it")
    with open(task.context["gate"]) as file:
        file.read()
    say("through", task.id)
    return {"began": began}


def hold(task):
    """Wait to be told to stop."""
    say("began", task.id, task.attempt)
    task.wait_cancelled(60)
    say("stopped", task.id, task.cancel_reason)


def parent(task):
    if task.children is None:
        for index in range(2):
            task.submit_child("echo", {"index": index}, idempotency_key=f"{task.id}/{index}")
        task.submit_child("hopeless")
    if task.children is None or task.children["open"]:
        task.wait_for_children()
    return {"children": task.children}


JOBS = (echo, flaky, hopeless, wrong, gate, hold, parent)


@worker.handle
def run(task):
    return {job.__name__: job for job in JOBS}[task.task_type](task)


say("up")
worker.run()
say("down")
