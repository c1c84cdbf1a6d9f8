"""Whether a calendar window is open, from what `systemd-analyze calendar` prints: no calendar of our own.

A window opens at each elapse of its expression and stays open for its length. One question, asked from one length
before now, tells whether it is open and until when the answer holds. Pure; used by Governance and gracectl.
"""

from __future__ import annotations

from graced.base.errors import FormatError
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SECOND_US = 1_000_000
LONGEST_US = 3600 * SECOND_US
"""An answer counts for an hour at most: the host's time zone can change."""
_ELAPSE = r"(?m)^\s*(?:Next elapse|\(in UTC\)): (.*)$"
_STAMP = r"[A-Z][a-z]{2} (\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.\d+)? UTC"


class Answer(Record):
    """Whether a window is open, true from `since_us` up to `until_us` (wall clock, µs since 1970 UTC)."""

    is_open: bool
    since_us: int
    until_us: int

    def holds(self, wall_us: int) -> bool:
        """Whether the answer is still good; a clock that was set back asks again."""
        return self.since_us <= wall_us < self.until_us


def question(expression: str, seconds: int, wall_us: int) -> tuple[str, ...]:
    """The command whose output `answer` reads."""
    base_s = wall_us // SECOND_US - seconds
    return ("systemd-analyze", "calendar", f"--base-time=@{base_s}", "--iterations=1", "--", expression)


def answer(output: str, seconds: int, wall_us: int) -> Answer:
    """Read the first elapse after the base time. Raises FormatError for output of another form."""
    elapse_us = parse_elapse(output)
    if elapse_us is None:
        return Answer(is_open=False, since_us=wall_us, until_us=wall_us + LONGEST_US)
    # An elapse at or before now opened the window; at its end the question is asked again, so that a later
    # elapse inside the window keeps it open.
    is_open = elapse_us <= wall_us
    until_us = elapse_us + seconds * SECOND_US if is_open else elapse_us
    return Answer(is_open=is_open, since_us=wall_us, until_us=max(wall_us + 1, min(until_us, wall_us + LONGEST_US)))


def parse_elapse(output: str) -> int | None:
    """When the expression elapses next, in µs since 1970 UTC; None for never. Raises FormatError."""
    import re

    found: Sequence[str] = re.findall(_ELAPSE, output)
    if found and found[0].strip() == "never":
        return None
    # Where the host's time is not UTC, a second line says the same in UTC.
    for text in found:
        stamp = re.fullmatch(_STAMP, text.strip())
        if stamp is not None:
            return _epoch_s(*(int(group) for group in stamp.groups())) * SECOND_US
    raise FormatError(f"systemd-analyze calendar said: {output.strip()[:200]!r}")


def _epoch_s(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    from datetime import UTC, datetime

    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())
