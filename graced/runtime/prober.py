"""Asks an adopted unit's probes at its profile's pace, and faster while they fail. Used by Infrastructure.

All probes of the profile must answer; the worst result counts. One round at a time; stopped while the unit is down.
"""

from __future__ import annotations

from graced.base.errors import HostError
from graced.host.probe import Probe, ProbeResult, ProbeSpec
from graced.runtime.loop import Future

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.json import JsonDict
    from graced.heal.profile import Probe as ProfileProbe
    from graced.runtime.loop import Loop, Timer

RETRY_S = 0.25


def spec_of(probe: ProfileProbe) -> ProbeSpec:
    """The profile's words as the port takes them."""
    low, high = probe.expect_status
    return ProbeSpec(
        kind=probe.kind,
        address=probe.address,
        send=probe.send,
        expect=probe.expect,
        path=probe.path,
        status_low=low,
        status_high=high,
        timeout_s=probe.timeout_ms / 1000,
    )


def worst_of(results: list[ProbeResult]) -> JsonDict:
    """One failed probe fails the unit; else one unknown makes it unknown."""
    for ok in (False, None):
        for result in results:
            if result.ok is ok:
                return result.to_json()
    return max(results, key=lambda result: result.latency_ms).to_json()


async def ask(loop: Loop, specs: list[ProbeSpec]) -> JsonDict:
    """One round: {"ok": true|false|null, "latency_ms", "error"}; without probes ok is null."""
    if not specs:
        return ProbeResult(ok=None, latency_ms=0.0, error="the profile has no probe").to_json()
    futures = []
    for spec in specs:
        future = Future()
        try:
            Probe(loop, spec, future.set_result).start()
        except HostError as error:
            future.set_result(ProbeResult(ok=None, latency_ms=0.0, error=str(error)))
        futures.append(future)
    return worst_of([await future for future in futures])


class Prober:
    """`told(result, began_us)` after each round."""

    def __init__(self, loop: Loop, probes: tuple[ProfileProbe, ...], told: Callable[[JsonDict, int], None]) -> None:
        self._loop = loop
        self._specs = [spec_of(probe) for probe in probes]
        self._interval_s = min((probe.interval_seconds for probe in probes), default=0.0)
        self._told = told
        self._timer: Timer | None = None
        self._round = 0
        self._running = False

    def start(self) -> None:
        """Begin asking; harmless when it is under way."""
        if not self._running and self._specs:
            self._running = True
            self._round += 1
            self._loop.spawn(self._ask(self._round))

    def stop(self) -> None:
        """No more questions; a result on its way is dropped."""
        self._running = False
        self._round += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _ask(self, number: int) -> None:
        began_us = int(self._loop.now_s() * 1e6)
        result = await ask(self._loop, self._specs)
        if number != self._round:
            return
        pause_s = min(RETRY_S, self._interval_s) if result["ok"] is False else self._interval_s
        self._timer = self._loop.call_later(pause_s, lambda: self._again(number))
        self._told(result, began_us)

    def _again(self, number: int) -> None:
        if number == self._round:
            self._loop.spawn(self._ask(number))
