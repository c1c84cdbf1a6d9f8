"""What is true now, as far as the rules in force ask for it: the time, calendar windows, the state of the host.

Used by the Governance kernel only.
"""

from __future__ import annotations

from graced.base.errors import GracedError
from graced.base.json import get_dict, get_list
from graced.base.log import WARNING
from graced.policy.decide import Moment
from graced.policy.limits import SECOND_US

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.policy.rules import RuleSet
    from graced.runtime.calendars import Calendars
    from graced.runtime.kernel import Kernel

STARTING_US = 300 * SECOND_US


class Moments:
    """Asks systemd-analyze and Infrastructure, and only when a rule hangs on their answer."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._calendars: Calendars | None = None
        self._silent = ""

    async def now(self, rules: RuleSet, age_us: int) -> Moment:
        """The moment for these rules."""
        opened, unclear = await self._windows(rules) if rules.calendars else ((), ())
        host = await self._host() if rules.asks_host else ()
        minute = self._kernel.clock.wall_us() // 60_000_000 % 1440
        return Moment(age_us, minute, host, opened, unclear)

    async def _windows(self, rules: RuleSet) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if self._calendars is None:
            from graced.runtime.calendars import Calendars

            self._calendars = Calendars(self._kernel.loop, self._kernel.clock)
        for problem in await self._calendars.refresh(rules.calendars):
            self._kernel.log(WARNING, f"a calendar window has no answer, the stricter reading counts: {problem}")
        return self._calendars.split(rules.calendars)

    async def _host(self) -> tuple[str, ...]:
        try:
            reply = await self._kernel.call("io.graced.Infrastructure.Host", timeout_s=1.0)
            findings = get_list(get_dict(reply, "host"), "findings", "host")
        except GracedError as error:
            if self._silent != error.message:
                self._kernel.log(WARNING, f"the state of the host is not known, the stricter reading counts: {error}")
            self._silent = error.message
            return ()
        self._silent = ""
        states = ["starting"] if self._kernel.clock.boottime_us() < STARTING_US else []
        states += ["pressure"] if any(one.get("kind") == "host.pressure" for one in findings) else []
        return tuple(states) or ("calm",)
