"""Looks at a unit by means of its own: `systemctl show`, an own probe, the journal. Never by way of Infrastructure.

Used by the Verification kernel, so that who judges a repair does not depend on who found the fault.
"""

from __future__ import annotations

from graced.base.errors import HostError
from graced.host import journal
from graced.host.systemd import parse_show, show_argv
from graced.model.unit import UnitObservation, UnitState
from graced.runtime.prober import ask, spec_of
from graced.runtime.process import run_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.clock import Clock
    from graced.heal.profile import Profile
    from graced.runtime.loop import Loop

FIRST_PAUSE_S = 0.01
LAST_PAUSE_S = 0.25
# Down without a job twice in a row, this far apart: nothing will start it any more.
DOWN_FOR_GOOD_S = 0.2


class Witness:
    """Observes units; holds no state between questions."""

    def __init__(self, loop: Loop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock

    async def state(self, unit: str) -> UnitState:
        """systemd's own word. Raises HostError when it cannot be asked."""
        done = await run_process(self._loop, show_argv([unit]), 5.0)
        shown = parse_show(done.stdout) if done.returncode == 0 else []
        if len(shown) != 1:
            raise HostError(f"systemctl show {unit}: {done.stderr.strip() or 'no answer'}")
        return UnitState.from_properties(unit, shown[0])

    async def observe(self, profile: Profile) -> tuple[UnitState, UnitObservation]:
        """State, and the probes of the profile when the unit is up. Raises HostError."""
        state = await self.state(profile.unit)
        if state.active is True:
            probe = await ask(self._loop, [spec_of(one) for one in profile.probes])
        else:
            probe = {"ok": None, "latency_ms": None, "error": "not asked: the unit is not active"}
        return state, UnitObservation(
            unit=profile.unit,
            active_state=state.active_state,
            sub_state=state.sub_state,
            result=state.result,
            main_pid=state.main_pid,
            n_restarts=state.n_restarts,
            probe=probe,
            errors=None,
            monotonic_us=self._clock.monotonic_us(),
        )

    async def errors(self, unit: str, since_us: int) -> list[str] | None:
        """Journal messages of priority err or worse from the unit's own processes; None when nobody answers."""
        try:
            done = await run_process(self._loop, journal.errors_argv(unit), 5.0, max_output_bytes=1 << 20)
        except HostError:
            return None
        if done.returncode != 0:
            return None
        return journal.errors_since(journal.parse(done.stdout), since_us)

    async def settled(self, profile: Profile) -> tuple[UnitState, UnitObservation]:
        """Wait until the unit serves and keeps serving for settle_ms, or until ready_within_seconds are over.

        Gives the last observation either way: the verdict is made from it. Raises HostError.
        """
        deadline_s = self._loop.now_s() + profile.ready_within_seconds
        pause_s, down_since_s = FIRST_PAUSE_S, None
        while True:
            state, seen = await self.observe(profile)
            now_s = self._loop.now_s()
            if self._serves(profile, state, seen):
                await self._loop.sleep(profile.settle_ms / 1000)
                again, seen = await self.observe(profile)
                if self._serves(profile, again, seen) and again.main_pid == state.main_pid:
                    return again, seen
                state = again
            if state.active is False and not state.job:
                down_since_s = down_since_s or now_s
                if now_s - down_since_s >= DOWN_FOR_GOOD_S:
                    return state, seen
            else:
                down_since_s = None
            if now_s >= deadline_s:
                return state, seen
            await self._loop.sleep(pause_s)
            pause_s = min(LAST_PAUSE_S, pause_s * 2)

    @staticmethod
    def _serves(profile: Profile, state: UnitState, seen: UnitObservation) -> bool:
        return state.active_state == "active" and (not profile.probes or seen.probe["ok"] is True)
