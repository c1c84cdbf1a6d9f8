"""What a rule can look at, compiled to one test per rule.

What is not known never loosens anything: an allow rule that asks for it does not match, a hold or a deny does. An
allow rule with `step` matches when it names every step, a hold or deny when it names any. Pure; used by rules.py.
"""

from __future__ import annotations

from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RISKS = ("low", "medium", "high")
ORIGINS = ("brain", "human", "drill")
HOSTS = ("calm", "pressure", "starting")
"""States of the host: `starting` in the first five minutes after the boot, `pressure` while Infrastructure finds the
host short of CPU, memory or I/O; `calm` is neither."""
MAX_TIER = 4
WINDOW = r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d) UTC"
CALENDAR = r"([A-Za-z0-9*.,:/~+_ -]{1,128}) for ([1-9]\d{0,5})(s|m|h|d)"
"""``Sun *-*-* 02:00 for 2h``: systemd.time(7) and how long the window stays open."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DAY_MINUTES = 24 * 60


class Match(Record):
    """What a rule is about; an empty field matches everything.

    `unit`, `playbook`, `finding` and `step` (verbs) are globs (* ? []). `window` is open times, ``22:00-02:00 UTC`` or
    CALENDAR; `outside` matches while none of its windows is open.
    """

    unit: tuple[str, ...] = ()
    playbook: tuple[str, ...] = ()
    finding: tuple[str, ...] = ()
    risk: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()
    window: tuple[str, ...] = ()
    tier_max: int = MAX_TIER
    tier_min: int = 0
    step: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


class Facts(Record):
    """What rules look at. `minute` is the minute of the day in UTC, 0..1439.

    `verbs` are the plan's steps and `host` the host's states, empty when not known; `open_windows` and
    `unclear_windows` are the calendar windows that are open, and those of which nobody can tell.
    """

    unit: str
    playbook: str
    finding: str
    risk: str
    origin: str
    tier: int
    minute: int
    verbs: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    open_windows: tuple[str, ...] = ()
    unclear_windows: tuple[str, ...] = ()


def globs(patterns: Sequence[str]) -> Callable[[str], object] | None:
    """A test of one name against glob patterns; None when there are none."""
    if not patterns:
        return None
    if not any(char in pattern for pattern in patterns for char in "*?["):
        return frozenset(patterns).__contains__
    import fnmatch
    import re

    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns)).match


def compile_match(match: Match, *, strict: bool) -> tuple[Callable[[Facts], bool], Callable[[Facts], bool] | None]:
    """Two tests of everything but the unit: what hangs on the plan alone, and what hangs on the moment (None: nothing).

    `strict` (an allow rule): what is not known does not match.
    """
    playbook, finding = globs(match.playbook), globs(match.finding)
    risks, origins = frozenset(match.risk or RISKS), frozenset(match.origin or ORIGINS)
    low, high = match.tier_min, match.tier_max
    steps = _steps(match.step, strict=strict)
    found = (
        _host(match.host, strict=strict),
        _inside(match.window, strict=strict),
        _outside(match.outside, strict=strict),
    )
    moment = tuple(test for test in found if test is not None)

    def of_plan(facts: Facts) -> bool:
        return bool(
            low <= facts.tier <= high
            and facts.risk in risks
            and facts.origin in origins
            and (playbook is None or playbook(facts.playbook))
            and (finding is None or finding(facts.finding))
            and (steps is None or steps(facts))
        )

    if not moment:
        return of_plan, None
    if len(moment) == 1:
        return of_plan, moment[0]
    return of_plan, lambda facts: all(test(facts) for test in moment)


def _steps(patterns: Sequence[str], *, strict: bool) -> Callable[[Facts], bool] | None:
    named = globs(patterns)
    if named is None:
        return None
    if strict:
        return lambda facts: bool(facts.verbs) and all(named(verb) for verb in facts.verbs)
    return lambda facts: not facts.verbs or any(named(verb) for verb in facts.verbs)


def _host(states: Sequence[str], *, strict: bool) -> Callable[[Facts], bool] | None:
    if not states:
        return None
    wanted = frozenset(states)
    return lambda facts: not wanted.isdisjoint(facts.host) if facts.host else not strict


def _inside(texts: Sequence[str], *, strict: bool) -> Callable[[Facts], bool] | None:
    if not texts:
        return None
    is_open = _is_open(texts)
    return lambda facts: not strict if (found := is_open(facts)) is None else found


def _outside(texts: Sequence[str], *, strict: bool) -> Callable[[Facts], bool] | None:
    if not texts:
        return None
    is_open = _is_open(texts)
    return lambda facts: not strict if (found := is_open(facts)) is None else not found


def _is_open(texts: Sequence[str]) -> Callable[[Facts], bool | None]:
    """Whether any of the windows is open; None when that hangs on one of which nobody can tell."""
    daily = tuple(parse_window(text) for text in texts if is_daily(text))
    calendars = frozenset(text for text in texts if not is_daily(text))

    def test(facts: Facts) -> bool | None:
        if not calendars.isdisjoint(facts.open_windows):
            return True
        if daily and any(within(window, facts.minute) for window in daily):
            return True
        return False if calendars.isdisjoint(facts.unclear_windows) else None

    return test


def is_daily(text: str) -> bool:
    """Whether a window is one of every day (WINDOW), not a CALENDAR."""
    import re

    return re.fullmatch(WINDOW, text) is not None


def parse_window(text: str) -> tuple[int, int]:
    """``"22:00-02:00 UTC"`` as (first minute, end minute) of the day. ValueError when it is no window."""
    import re

    found = re.fullmatch(WINDOW, text)
    if found is None:
        raise ValueError(text)
    numbers = [int(group) for group in found.groups()]
    return numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]


def parse_calendar(text: str) -> tuple[str, int]:
    """``"Sun 02:00 for 2h"`` as (calendar expression, seconds). ValueError when it is not of that form."""
    import re

    found = re.fullmatch(CALENDAR, text)
    if found is None:
        raise ValueError(text)
    return found[1], int(found[2]) * _SECONDS[found[3]]


def within(window: tuple[int, int], minute: int) -> bool:
    """Whether a minute of the day is in the window; a window may cross midnight, equal ends mean the whole day."""
    first, end = window
    length = (end - first) % _DAY_MINUTES or _DAY_MINUTES
    return (minute - first) % _DAY_MINUTES < length
