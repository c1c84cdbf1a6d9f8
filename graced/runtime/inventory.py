"""Questions to systemd and its journal that take one process each. Used by the Infrastructure kernel."""

from __future__ import annotations

from graced.base.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.base.json import JsonDict
    from graced.heal.tracker import UnitTracker
    from graced.runtime.loop import Loop

MAX_OUTPUT_BYTES = 4 << 20


async def _output(loop: Loop, argv: list[str]) -> str:
    from graced.runtime.process import run_process

    done = await run_process(loop, argv, 10.0, max_output_bytes=MAX_OUTPUT_BYTES)
    if done.returncode != 0:
        raise HostError(f"{argv[0]}: {done.stderr.strip() or done.returncode}")
    return done.stdout


async def services(loop: Loop) -> list[JsonDict]:
    """Every service systemd has loaded. Raises HostError."""
    from graced.host.systemd import list_argv, parse_list

    return parse_list(await _output(loop, list_argv()))


async def stopped_by_job(loop: Loop, unit: str, since_us: int) -> bool | None:
    """Whether PID 1 ran a stop job for the unit since then; None when nobody can tell. Raises HostError."""
    from graced.host import journal

    return journal.stopped_by_job(journal.parse(await _output(loop, journal.jobs_argv(unit))), since_us)


async def watchdog_resets(loop: Loop, units: list[str], until_us: int) -> dict[str, int]:
    """How often the watchdog bit each unit in this boot, up to `until_us`. Raises HostError."""
    from graced.host import journal

    counts: dict[str, int] = {}
    for record in journal.parse(await _output(loop, journal.watchdog_argv(units))):
        if record.pid == "1" and record.monotonic_us <= until_us:
            counts[record.unit] = counts.get(record.unit, 0) + 1
    return counts


class WatchdogResets:
    """How often the watchdog has bitten graced's own daemons in this boot: unknown until the journal was asked once."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}
        self._since_us: int | None = None
        self._restarts: list[int] | None = None
        self._due = True

    def due(self, trackers: Iterable[UnitTracker]) -> bool:
        """Whether to ask (again): at first, and one look after a daemon was restarted.

        A restart without pause can hide its reason from the bus; by the next look the journal has it.
        """
        restarts = [tracker.state.n_restarts for tracker in trackers]
        due, self._due = self._due, self._restarts is not None and restarts != self._restarts
        self._restarts = restarts
        return due

    async def ask(self, loop: Loop, units: list[str], now_us: int) -> None:
        """Take over what happened before `now_us`. Raises HostError: then it stays unknown."""
        self._before = await watchdog_resets(loop, units, now_us)
        self._since_us = now_us

    def of(self, tracker: UnitTracker) -> int | None:
        """The count of one daemon; None while it is not known."""
        if self._since_us is None:
            return None
        return self._before.get(tracker.unit, 0) + tracker.watchdog_resets_after(self._since_us)
