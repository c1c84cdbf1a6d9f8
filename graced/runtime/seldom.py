"""Words about refusals, so seldom that whoever is refused cannot fill a journal or a ledger with them.

Of each kind the first in a minute is said; what was left out is counted and comes along with the next word. Pure.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

SECONDS = 60.0
EACH = 40
MOST = 200
"""Different words a minute about one caller, and about all."""


class Seldom:
    """Whether to say something now. `now_s` is any clock that never goes back."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._since_s = now_s()
        self._said: dict[Hashable, set[Hashable]] = {}
        self._count = 0
        self._missed: dict[Hashable, int] = {}

    def take(self, who: Hashable, what: Hashable) -> int | None:
        """How many words about `who` were left out before this one; None: this one is left out too."""
        now_s = self._now_s()
        if now_s - self._since_s >= SECONDS:
            self._since_s, self._said, self._count = now_s, {}, 0
        said = self._said.get(who, set())
        if what in said or len(said) >= EACH or self._count >= MOST:
            if who in self._missed or len(self._missed) < MOST:
                self._missed[who] = self._missed.get(who, 0) + 1
            return None
        self._said.setdefault(who, set()).add(what)
        self._count += 1
        return self._missed.pop(who, 0)


def left_out(missed: int) -> str:
    """The end of a sentence: ``; 7 more were refused without a word``, empty for none."""
    return f"; {missed} more {'was' if missed == 1 else 'were'} refused without a word" if missed else ""
