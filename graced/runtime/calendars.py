"""Which calendar windows are open now. systemd-analyze is asked once per change, never while an answer holds.

A window of which it gives no answer is unclear: rules then take what is stricter. Used by the Governance kernel only.
"""

from __future__ import annotations

from graced.base.errors import FormatError, HostError
from graced.policy.calendar import SECOND_US, Answer, answer, question
from graced.policy.match import parse_calendar
from graced.runtime.process import run_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.base.clock import Clock
    from graced.runtime.loop import Loop

TIMEOUT_SECONDS = 2.0
RETRY_SECONDS = 30


class Calendars:
    """Answers by window text."""

    def __init__(self, loop: Loop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._answers: dict[str, Answer] = {}
        self._failed: dict[str, tuple[int, str]] = {}
        self.asked = 0

    async def refresh(self, texts: Iterable[str]) -> list[str]:
        """Ask again where an answer has run out; what went wrong now, in words."""
        wall_us = self._clock.wall_us()
        problems = []
        for text in texts:
            if self._holds(text, wall_us) or self._clock.boottime_us() < self._failed.get(text, (0, ""))[0]:
                continue
            try:
                self._answers[text] = await self._ask(text)
                self._failed.pop(text, None)
            except (FormatError, HostError) as error:
                self._answers.pop(text, None)
                again_us = self._clock.boottime_us() + RETRY_SECONDS * SECOND_US
                self._failed[text] = again_us, error.message
                problems.append(f"{text}: {error.message}")
        return problems

    async def _ask(self, text: str) -> Answer:
        expression, seconds = parse_calendar(text)
        wall_us = self._clock.wall_us()
        self.asked += 1
        done = await run_process(self._loop, question(expression, seconds, wall_us), TIMEOUT_SECONDS)
        if done.returncode or done.timed_out:
            raise HostError(done.stderr.strip()[:200] or f"systemd-analyze ended with {done.returncode}")
        return answer(done.stdout, seconds, wall_us)

    def _holds(self, text: str, wall_us: int) -> bool:
        found = self._answers.get(text)
        return found is not None and found.holds(wall_us)

    def split(self, texts: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The open windows, and those of which nobody can tell."""
        wall_us = self._clock.wall_us()
        opened, unclear = [], []
        for text in texts:
            if not self._holds(text, wall_us):
                unclear.append(text)
            elif self._answers[text].is_open:
                opened.append(text)
        return tuple(sorted(opened)), tuple(sorted(unclear))
