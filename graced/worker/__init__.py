"""The queue for a host's own jobs: `Worker` takes tasks of one handler and calls a function for each."""

from graced.worker.task import Defer, Fail, Retry, Task
from graced.worker.worker import Worker

__all__ = ["Defer", "Fail", "Retry", "Task", "Worker"]
