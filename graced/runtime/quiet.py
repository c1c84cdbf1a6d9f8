"""People ask for quiet: a pause holds every heal, in shadow nothing acts. Durable and told before it is answered.

Used by the Governance kernel only.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.base.errors import GracedError
from graced.base.log import NOTICE, WARNING
from graced.base.messages import PAUSED, RESUMED, SHADOWED
from graced.model import event
from graced.policy.limits import SECOND_US

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.runtime.kernel import Kernel
    from graced.runtime.scribe import Scribe
    from graced.runtime.standing import Standing


class Quiet:
    """Keeps pause and shadow, and says so in journal, ledger and on the bus."""

    def __init__(self, kernel: Kernel, standing: Standing, scribe: Scribe) -> None:
        self._kernel = kernel
        self._standing = standing
        self._scribe = scribe

    @property
    def shadow(self) -> bool:
        """Whether everything is decided and recorded and nothing acts."""
        return self._kernel.config["shadow"] is True or self._standing.shadow is not None

    async def pause(self, uid: int, seconds: int | None, reason: str) -> JsonDict:
        """Hold everything; durable before it is answered."""
        self._standing.set_pause(uid, seconds, reason)
        until_us = self._kernel.clock.wall_us() + (seconds or 0) * SECOND_US
        until = "until resumed" if seconds is None else f"until {iso(until_us)}"
        self._kernel.log(NOTICE, f"heals are paused {until} by uid {uid}: {reason or 'no reason given'}", PAUSED)
        await self._record({"paused": True, "by_uid": uid, "reason": reason, "duration_seconds": seconds})
        return {"until_boottime_us": self._standing.paused_until_boottime_us}

    async def resume(self, uid: int) -> JsonDict:
        """End a pause; fine when there is none."""
        was_paused = self._standing.pause is not None
        self._standing.clear_pause()
        if was_paused:
            self._kernel.log(NOTICE, f"heals are resumed by uid {uid}", RESUMED)
            await self._record({"paused": False, "by_uid": uid})
        return {}

    async def set_shadow(self, uid: int, *, on: bool, reason: str) -> JsonDict:
        """Begin or end the shadow; durable before it is answered. What the configuration says stays."""
        before = self.shadow
        self._standing.set_shadow({"by_uid": uid, "reason": reason} if on else None)
        if before != self.shadow:
            what = "nothing acts from now on" if on else "allowed plans act again"
            self._kernel.log(NOTICE, f"{what}, by uid {uid}: {reason or 'no reason given'}", SHADOWED)
            await self._record({"shadow": on, "by_uid": uid, "reason": reason})
        return {"on": self.shadow}

    async def _record(self, data: JsonDict) -> None:
        self._kernel.publish(event.DECISION, data)
        try:
            await self._scribe.append("decision", data, {})
        except GracedError as error:
            # People must be able to stop heals even when the ledger is down; the journal has it.
            self._kernel.log(WARNING, f"this could not be recorded in the ledger: {error}")
