"""Do the tables beside the entries say what the entries say? Every one of them can be computed, so every edit is found.

`ledger_subjects` (what Find looks up), `signatures`, `crypto_keys`, `crypto_audit` and `sealed` follow from the signed
entries. `Tables` walks the entries in blocks, compares, and names each row that differs. Whether the entries themselves
are what was signed is the business of `graced.trust.audit`. Pure but for the rows it is given.
"""

from __future__ import annotations

import re
from hashlib import sha256

from graced.base.errors import FormatError, TrustError
from graced.base.json import canonical, get_dict, get_int, get_str, loads_object, opt_dict, opt_str
from graced.trust.keylog import KeyLog, chained, seal_facts
from graced.trust.keys import context_of, decode_base64, encode_base64
from graced.trust.report import Problem
from graced.trust.roster import CURRENT, RETIRED, REVOKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, Protocol, TypeAlias

    from graced.base.json import JsonDict
    from graced.trust.roster import Roster

    Row: TypeAlias = tuple[Any, ...]

    class Stored(Protocol):
        """The rows that are there; see `graced.store.ledger_derived.DerivedRows`."""

        def subjects(self, first: int, end: int) -> list[Row]: ...
        def signatures(self, first: int, end: int) -> list[Row]: ...
        def strays(self, size: int) -> list[tuple[str, int]]: ...
        def key_rows(self) -> list[Row]: ...
        def key_operations(self) -> list[Row]: ...
        def seals(self) -> list[Row]: ...


SUBJECTS = "ledger-subjects"
SIGNATURES = "signatures"
KEYS = "crypto-keys"
OPERATIONS = "crypto-audit"
SEALED = "sealed"
CODES = (SUBJECTS, SIGNATURES, KEYS, OPERATIONS, SEALED)
_MOST = 100
_BEGIN = b',"intent_id":'
# The end of an entry in its one form: everything but data comes in this order, and a text without escapes is itself.
_ENTRY = re.compile(
    rb'^,"intent_id":(null|"[^"\\\n]*"),"kid":(null|"[^"\\\n]*"),"kind":"([a-z]+)","seq":(\d{1,18}),"signature":[^,\n]*'
    rb',"task_id":(null|"[^"\\\n]*"),"time":"[^"\\\n]*","uid":\d+,"unit":(null|"[^"\\\n]*"),"v":1\}$',
    re.MULTILINE,
)
_PLAIN_KINDS = frozenset({b"approval", b"decision", b"finding", b"restore", b"step", b"task"})
_COLUMNS = [
    *("kid", "signer", "purpose", "public", "sealed", "not_before", "not_after", "state", "revoked_at_seq"),
    "endorsed_by",
]
_STATES = (CURRENT, RETIRED, REVOKED)


class Tables:
    """See the module. `watch` blocks of entries from `start` on, then `finish`."""

    def __init__(self, stored: Stored, start: int = 0, keys: KeyLog | None = None, sealed: int = 0) -> None:
        """`keys`: what the entries before `start` said. Rows about entries below `sealed` may be trimmed already."""
        self._stored = stored
        self._start = start
        self._sealed = sealed
        self.keys = keys or KeyLog()
        self._before = (self.keys.count, self.keys.chain)
        self._operations: list[Row] = []
        self._seals: dict[int, tuple[int, JsonDict]] = {}
        self._problems: list[Problem] = []
        self.size = start

    def watch(self, blocks: Iterable[tuple[int, Sequence[bytes]]]) -> Iterator[tuple[int, Sequence[bytes]]]:
        """The same blocks, each compared on its way."""
        for first, block in blocks:
            self.block(first, block)
            yield first, block

    def block(self, first: int, block: Sequence[bytes]) -> None:
        """Compare the tables with the entries from `first` on."""
        end = first + len(block)
        subjects: list[Row] = []
        signatures: list[Row] = []
        for seq, entry in self._about(first, block, subjects):
            self._parsed(seq, entry, subjects, signatures)
        subjects.sort()
        self._compare(SUBJECTS, "what Find looks it up by", subjects, self._stored.subjects(first, end))
        self._compare(SIGNATURES, "its signature beside it", signatures, self._stored.signatures(first, end))
        self.size = max(self.size, end)

    def _about(self, first: int, block: Sequence[bytes], subjects: list[Row]) -> list[tuple[int, bytes]]:
        """Fill `subjects` from the entries that need no parsing; the others."""
        rows = _ENTRY.findall(b"\n".join([entry[entry.rfind(_BEGIN) :] for entry in block]))
        if len(rows) != len(block):
            return list(enumerate(block, first))
        others = []
        for seq, (intent_id, kid, kind, number, task_id, unit) in enumerate(rows, first):
            if kid != b"null" or kind not in _PLAIN_KINDS or int(number) != seq:
                others.append((seq, block[seq - first]))
            elif intent_id != b"null" or task_id != b"null" or unit != b"null":
                subjects.append((seq, _text(task_id), _text(intent_id), _text(unit)))
        return others

    def _parsed(self, seq: int, entry: bytes, subjects: list[Row], signatures: list[Row]) -> None:
        try:
            obj = loads_object(entry, max_bytes=65535)
            about = (opt_str(obj, "task_id"), opt_str(obj, "intent_id"), opt_str(obj, "unit"))
            kind, kid, signature = get_str(obj, "kind"), opt_str(obj, "kid"), opt_str(obj, "signature")
            data = get_dict(obj, "data")
            if about != (None, None, None):
                subjects.append((seq, *about))
            if kid is not None and signature is not None:
                digest = sha256(context_of(kind) + canonical(data)).digest()
                signatures.append((seq, digest, kid, decode_base64(signature, "the signature")))
            if kind == "key":
                self._operations.append(self.keys.add(obj))
            seal = opt_dict(data, "sealed") if kind == "checkpoint" else None
            if seal is not None:
                self._seals[get_int(seal, "size")] = (seq, seal)
        except (FormatError, TrustError):
            # The audit says what is wrong with such an entry.
            return

    def _compare(self, code: str, what: str, expected: list[Row], stored: list[Row]) -> None:
        if stored == expected:
            return
        want, have = {row[0]: row for row in expected}, {row[0]: row for row in stored}
        for seq in sorted(want.keys() | have.keys()):
            row = have.get(seq)
            if row != want.get(seq) and (row is not None or seq >= self._sealed):
                how = "is gone" if row is None else "is not what the entry says"
                self._problem(code, seq, f"entry {seq}: {what} {how}")

    def _problem(self, code: str, seq: int | None, detail: str) -> None:
        if len(self._problems) < _MOST:
            self._problems.append(Problem(code=code, seq=seq, detail=detail))

    def finish(self, roster: Roster | None = None) -> list[Problem]:
        """Compare the rest; every row that differs, at most 100."""
        for table, seq in self._stored.strays(self.size):
            detail = f"the table {table} knows an entry {seq}, the ledger has {self.size}"
            self._problem("cut-tail" if seq > 0 else table.replace("_", "-"), self.size, detail)
        self._check_keys()
        self._check_operations()
        self._check_seals()
        if roster is not None:
            self._check_roster(roster)
        return self._problems

    def vouched(self, covered: int) -> bool:
        """Whether an entry below `covered` says what `sealed` says of the segment that ends at `start`."""
        at, said = self._seals.get(self._start, (covered, {}))
        rows = self._stored.seals()
        return at < covered and bool(rows) and rows[-1][1] == self._start and said == _facts(rows)[-1]

    def _check_keys(self) -> None:
        have = {row[0]: (*row[:3], _base64(row[3]), *row[4:]) for row in self._stored.key_rows()}
        want = {row[0]: row for row in self.keys.key_rows()}
        for kid in sorted(want.keys() | have.keys(), key=str):
            if kid not in want:
                self._problem(KEYS, None, f"no entry knows the key {kid!s} of crypto_keys")
            elif kid not in have:
                self._problem(KEYS, None, f"the key {kid} is gone from crypto_keys")
            elif want[kid] != have[kid]:
                pairs = zip(_COLUMNS, want[kid], have[kid], strict=True)
                wrong = [name for name, one, two in pairs if one != two]
                self._problem(KEYS, None, f"{', '.join(wrong)} of the key {kid} in crypto_keys: not what the log says")

    def _check_operations(self) -> None:
        rows = self._stored.key_operations()
        count, chain = self._before
        found = b""
        try:
            for row in rows[:count]:
                found = chained(found, row)
        except FormatError:
            found = b"?"
        if len(rows) < count or found != chain:
            self._problem(OPERATIONS, None, "operations before the sealed entries' end are not what the log says")
        rest = rows[count:]
        for at in range(max(len(rest), len(self._operations))):
            have, want = rest[at : at + 1], self._operations[at : at + 1]
            if have != want:
                which = f"operation {(want or have)[0][0]} in crypto_audit"
                how = "is gone" if not have else "is not what the log says" if want else "is in no entry"
                self._problem(OPERATIONS, None, f"{which} {how}")
                return

    def _check_seals(self) -> None:
        rows = self._stored.seals()
        for row, facts in zip(rows, _facts(rows), strict=True):
            size = row[1]
            if type(size) is int and size < self._start:
                continue
            if not facts or self._seals.get(size, (0, {}))[1] != facts:
                self._problem(SEALED, None, f"the seal of entries {row[0]} to {size}: not what the log says")
                return
        known = {row[1] for row in rows}
        for size, (seq, _said) in sorted(self._seals.items()):
            if size not in known:
                self._problem(SEALED, seq, f"the seal of the entries before {size} is gone; entry {seq} tells of it")

    def _check_roster(self, roster: Roster) -> None:
        """The roster may be newer than the log by a moment; older than it, or about other keys, it must not be."""
        for kid, row in self.keys.rows.items():
            key = roster.find(kid)
            if key is None or any(getattr(key, one) != row[one] for one in ("signer", "public", "not_before")):
                self._problem("roster", None, f"the roster does not know the key {kid} as the log does")
            elif _STATES.index(key.state) < _STATES.index(row["state"]):
                detail = f"the roster says that {kid} is {key.state}, the log has it {row['state']}: it is an older one"
                self._problem("roster", None, detail)


def _facts(rows: list[Row]) -> list[JsonDict]:
    """`seal_facts` of each row; {} from the first on that is no such row."""
    facts: list[JsonDict] = []
    chain = ""
    for row in rows:
        good = [type(value) for value in row] == [int, int, str, bytes, str] and not (facts and not facts[-1])
        try:
            facts.append(seal_facts(chain, row) if good else {})
        except (FormatError, UnicodeError):
            facts.append({})
        chain = str(facts[-1].get("chain"))
    return facts


def _base64(public: object) -> object:
    return encode_base64(public) if isinstance(public, bytes) else public


def _text(value: bytes) -> str | None:
    return None if value == b"null" else value[1:-1].decode(errors="surrogateescape")
