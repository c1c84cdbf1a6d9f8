"""What a check of a ledger finds: the words for it. Used by `audit`, `tables`, `verify` and whoever shows a report."""

from __future__ import annotations

from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PROBLEMS = 100


class Anchor(Record):
    """A head that was kept outside the database: `source` says where ("journal", a file)."""

    origin: str
    size: int
    root: bytes
    source: str


class Problem(Record):
    """`code` for machines, `seq` the entry or size it is about (None: the whole), `detail` for people."""

    code: str
    seq: int | None
    detail: str


class Sealed(Record):
    """Where an audit begins when it leaves out the sealed entries below `size`, a multiple of 256.

    `levels` are the open tiles there (see `Tree`), `keys` the active key of each signer, `ended` those from before. The
    tiles prove themselves: the next head's root is over them. The keys do not: the caller must make sure that an entry
    of the log vouches for them (`Tables.vouched`).
    """

    size: int
    levels: tuple[bytes, ...]
    keys: dict[str, str]
    ended: frozenset[str] = frozenset()


class Report(Record):
    """The answer. `anchor`: "none" (nothing to compare with), "agrees", "rolled-back" or "differs".

    `answer` is the whole in a word: see `answer_of`. `signatures` counts verified ones, of checkpoints and entries.
    `uncovered`: entries after the last checkpoint. `sealed`: entries in the archive that were not read; what they hash
    to was.
    """

    ok: bool
    entries: int
    checkpoints: int
    signatures: int
    uncovered: int
    anchor: str
    anchors: int
    size: int
    root: str
    problems: tuple[Problem, ...]
    more_problems: int = 0
    sealed: int = 0
    answer: str = "holds"

    def concluded(self, problems: Sequence[Problem]) -> Report:
        """With these problems instead of its own, and what follows from them."""
        more = self.more_problems + max(0, len(problems) - MAX_PROBLEMS)
        answer = answer_of(self.anchor, problems)
        kept = tuple(problems[:MAX_PROBLEMS])
        return self.replace(ok=not problems, problems=kept, more_problems=more, answer=answer)


# What a cut tail leaves behind beside the checkpoint that covers it.
_OF_A_CUT = frozenset({"cut-tail", "rolled-back", "crypto-keys", "crypto-audit", "sealed"})


def answer_of(anchor: str, problems: Sequence[Problem]) -> str:
    """What is the matter: "holds"; "differs" (heads kept outside know another history); "changed" (it contradicts its
    own heads, keys or tables); "truncated" (its own tables know later entries); "rolled-back" (only heads kept outside
    do: an older copy, or one cut off without a trace).
    """
    codes = {problem.code for problem in problems}
    if anchor == "differs":
        return anchor
    if "cut-tail" in codes and codes <= _OF_A_CUT:
        return "truncated"
    if codes - {"rolled-back"}:
        return "changed"
    return "rolled-back" if codes else "holds"
