#!/usr/bin/python3
"""Count the files of a directory: a handler in Python. See WORKERS.md beside this directory.

The task's context is {"path": "/some/directory"}, its result {"files": 12, "bytes": 3456}.
"""

import os

from graced.worker import Fail, Task, Worker

worker = Worker("tally", credits=2)


@worker.handle
def tally(task: Task) -> dict | None:
    """Called for each task, in a thread of its own."""
    path = task.context.get("path")
    if not isinstance(path, str) or not os.path.isdir(path):
        raise Fail(f"{path!r} is not a directory")  # trying again would not help
    files = size = 0
    entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    for index, entry in enumerate(entries):
        if task.cancelled:
            return None  # nobody waits for it any more, or the worker is stopping
        task.progress(100 * index / len(entries), entry.name)
        for directory, _, names in os.walk(entry.path) if entry.is_dir() else [(path, [], [entry.name])]:
            files += len(names)
            size += sum(os.lstat(os.path.join(directory, name)).st_size for name in names)
    return {"files": files, "bytes": size}


if __name__ == "__main__":
    worker.run()
