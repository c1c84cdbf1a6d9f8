"""A queue with housekeeping in a process that can be killed at a chosen step of a move to the archive.

Usage: retention_server.py DIRECTORY KEEP_COUNT STEP NTH. STEP is where the process kills itself the NTH time it gets
there: half (half of a member is written), written (not yet synced), synced (nothing deleted), deleted (not committed),
committed, never. Prints "up" when it accepts.
"""

from __future__ import annotations

import os
import signal
import sys

from graced.base.clock import SystemClock, boot_id
from graced.runtime.loop import Loop
from graced.runtime.service import Service, listen_unix
from graced.store import archive
from graced.supervisor import housekeeping
from graced.supervisor.background import Background
from graced.supervisor.housekeeping import Housekeeping
from graced.supervisor.htm import HtmInterface
from graced.supervisor.keep import Keep
from graced.supervisor.queue import Queue

DIRECTORY, STEP, NTH = sys.argv[1], sys.argv[3], int(sys.argv[4])
housekeeping.LOOK_SECONDS = 0.01
seen = [0]


def at(step: str) -> None:
    if step == STEP:
        seen[0] += 1
        if seen[0] >= NTH:
            os.kill(os.getpid(), signal.SIGKILL)


class Archive(archive.Archive):
    def _write(self, data, offset):
        if STEP == "half" and seen[0] + 1 >= NTH:
            os.pwrite(self._fd, data[: len(data) // 2], offset)
        at("half")
        os.pwrite(self._fd, data, offset)
        at("written")
        os.fdatasync(self._fd)
        at("synced")


class House(Housekeeping):
    fresh = False

    def _take_out(self, found):
        super()._take_out(found)
        self.fresh = True
        at("deleted")

    def committed(self):
        if self.fresh:
            at("committed")
        self.fresh = False
        super().committed()


def main() -> None:
    housekeeping.Archive = Archive
    loop = Loop()
    service = Service(loop, "htm-test", "0", "graced/share")
    queue = Queue(loop, SystemClock(), f"{DIRECTORY}/q.db", boot_id=boot_id())
    service.add(HtmInterface(queue))
    service.before_flush.append(queue.flush)
    service.listen(listen_unix(f"{DIRECTORY}/socket"))
    house = House(loop, Background(loop), queue, f"{DIRECTORY}/archive", Keep(count=int(sys.argv[2])))
    queue.on_commit = house.committed
    queue.house = house
    house.start()
    print("up", flush=True)
    loop.run()


main()
