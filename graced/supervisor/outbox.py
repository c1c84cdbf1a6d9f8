"""Brings incident records to Memory, at least once and in order; Memory takes each idempotently."""

from __future__ import annotations

from graced.base.errors import GracedError, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from graced.base.json import JsonDict
    from graced.runtime.loop import Loop
    from graced.store.brain import BrainStore

FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 30.0


class Outbox:
    """Call `wake` after a save. `error` is the last reason why Memory has not taken a record, "" when it has all."""

    def __init__(self, loop: Loop, store: BrainStore, call: Callable[[str, JsonDict], Awaitable[JsonDict]]) -> None:
        self._loop = loop
        self._store = store
        self._call = call
        self._running = False
        self.error = ""

    def wake(self) -> None:
        """Send what waits, unless that is under way."""
        if not self._running:
            self._running = True
            self._loop.spawn(self._pump())

    async def _pump(self) -> None:
        pause_s = FIRST_PAUSE_SECONDS
        try:
            while rows := self._store.outbox():
                for seq, incident in rows:
                    if await self._send(incident):
                        self._store.taken(seq)
                        pause_s = FIRST_PAUSE_SECONDS
                    else:
                        await self._loop.sleep(pause_s)
                        pause_s = min(pause_s * 2, LAST_PAUSE_SECONDS)
                        break
        finally:
            self._running = False

    async def _send(self, incident: JsonDict) -> bool:
        try:
            await self._call("io.graced.Memory.PutIncident", {"incident": incident})
        except (WireError, GracedError) as error:
            self.error = str(error)
            return False
        self.error = ""
        return True
