"""What worked: outcomes per finding, profile and playbook, and the order in which to try next time.

Pure. A playbook's score is the mean of a Beta(1, 1) posterior, (successes + 1) / (tries + 2) (Laplace's rule of
succession): one that was never tried scores 0.5, so a proven one goes before it and a futile one behind it.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.base.errors import FormatError
from graced.base.json import get_str, opt_bool, opt_list
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.base.json import JsonDict

UNTRIED_SCORE = 0.5


def tried_of(result: JsonDict) -> list[tuple[str, bool]]:
    """(playbook, did it help?) of what a heal tried to the end, from its result. Raises FormatError."""
    found = []
    for place, one in enumerate(opt_list(result, "tried") or []):
        path = f"$.tried[{place}]"
        if not isinstance(one, dict):
            raise FormatError(f"{path}: an object is needed, not {type(one).__name__}", path=path)
        helped = opt_bool(one, "helped", path)
        if helped is not None:
            found.append((get_str(one, "playbook", path), helped))
    return found


class Lesson(Record):
    """How often one playbook repaired one kind of finding on one profile; `last_wall_us` is the newest try."""

    finding: str
    profile: str
    playbook: str
    successes: int = 0
    failures: int = 0
    last_ok: bool = False
    last_wall_us: int = 0

    @property
    def score(self) -> float:
        """Expected success, 0 to 1."""
        return (self.successes + 1) / (self.successes + self.failures + 2)

    def sentence(self) -> str:
        """As `gracectl explain` tells it."""
        tries = self.successes + self.failures
        last = "worked" if self.last_ok else "did not help"
        return (
            f"{self.playbook} repaired {self.finding} on {self.profile} {self.successes} of {tries} times,"
            f" and {last} at {iso(self.last_wall_us)}"
        )


class Lessons:
    """All lessons, by (finding, profile, playbook)."""

    def __init__(self, lessons: Iterable[Lesson] = ()) -> None:
        self._lessons = {(lesson.finding, lesson.profile, lesson.playbook): lesson for lesson in lessons}

    def learn(self, finding: str, profile: str, playbook: str, *, ok: bool, wall_us: int) -> Lesson:
        """Count one try; the new lesson."""
        old = self._lessons.get((finding, profile, playbook)) or Lesson(finding, profile, playbook)
        lesson = old.replace(
            successes=old.successes + ok, failures=old.failures + (not ok), last_ok=ok, last_wall_us=wall_us
        )
        self._lessons[finding, profile, playbook] = lesson
        return lesson

    def relapsed(self, finding: str, profile: str, playbook: str, *, wall_us: int) -> Lesson:
        """The newest success was none: it did not last; the new lesson."""
        old = self._lessons.get((finding, profile, playbook)) or Lesson(finding, profile, playbook)
        self._lessons[finding, profile, playbook] = old.replace(successes=max(0, old.successes - 1))
        return self.learn(finding, profile, playbook, ok=False, wall_us=wall_us)

    def ranked(self, finding: str, profile: str) -> list[Lesson]:
        """Tried playbooks for this finding, best first: the one that worked last before any other, then by score."""
        tried = [lesson for key, lesson in self._lessons.items() if key[:2] == (finding, profile)]
        return sorted(
            tried, key=lambda lesson: (lesson.last_ok, lesson.score, lesson.last_wall_us, lesson.playbook), reverse=True
        )
