"""A process that serves io.graced.HTM on a real queue and nothing else: what the crash tests kill.

Usage: htm_server.py DIRECTORY [MAX_FILE_BYTES]. Prints "up" when it accepts. With MAX_FILE_BYTES every file is
limited to that size until SIGUSR1 lifts it: a full disk that gets room again.
"""

from __future__ import annotations

import gc
import resource
import signal
import sys

from graced.base.clock import SystemClock, boot_id
from graced.runtime.loop import Loop
from graced.runtime.service import Service, listen_unix
from graced.supervisor.htm import HtmInterface
from graced.supervisor.queue import Queue


def main() -> None:
    directory = sys.argv[1]
    loop = Loop()
    service = Service(loop, "htm-test", "0", "graced/share")
    queue = Queue(loop, SystemClock(), f"{directory}/q.db", boot_id=boot_id())
    service.add(HtmInterface(queue))
    service.before_flush.append(queue.flush)
    service.listen(listen_unix(f"{directory}/socket"))
    if len(sys.argv) > 2:
        no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, no_limit))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    # as graced.runtime.kernel does for the supervisor
    gc.freeze()
    gc.set_threshold(20_000, *gc.get_threshold()[1:])
    print("up", flush=True)
    loop.run()


main()
