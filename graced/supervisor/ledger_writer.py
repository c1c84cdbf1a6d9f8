"""The one writer of the ledger: numbers entries, keeps the Merkle tree, commits groups, signs heads.

Invariants: an entry is acknowledged after the commit that holds it; the first entries and the first checkpoint are one
transaction, so a ledger without a checkpoint is always a fault; every signer's key is activated by a `key` entry before
it can sign anything here. Opening checks the stored tree against its newest signed head. Used by `supervisor.ledger`.
"""

from __future__ import annotations

from graced.base.digest import sha256
from graced.base.errors import FormatError, GracedError, StoreError, TrustError
from graced.base.json import canonical, get_dict, get_int, get_str, loads_object, opt_dict
from graced.base.record import Record
from graced.store.ledger import MAX_ENTRY_BYTES
from graced.supervisor.ledger_entry import Encoder, Entry
from graced.trust.keys import LEDGER, MUST_BE_SIGNED, PURPOSES, SIGNER_OF, context_of, decode_base64, verify
from graced.trust.merkle import HASH_BYTES, Tree, leaf_hash, leaf_hashes, widths
from graced.trust.note import Checkpoint, parse_checkpoint, parse_note, sign_checkpoint, signed_by

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from graced.base.clock import Clock
    from graced.store.ledger import LedgerStore
    from graced.trust.keyfiles import KeyRecord
    from graced.trust.keys import Signer
    from graced.trust.roster import Roster, RosterKey

UNIT = "graced-supervisor.service"
"""What entries about the ledger itself are found by."""
_KEPT = ("signer", "not_before", "not_after", "state", "revoked_at_seq", "endorsed_by")
_OPERATIONS = {"current": "activate", "retired": "retire", "revoked": "revoke"}


class Head(Record):
    """A signed head: size, root (32 bytes) and the note."""

    size: int
    root: bytes
    note: str


class LedgerWriter:
    """See the module. `open` first; then `stage` entries and `commit` them; `checkpoint` signs the head."""

    def __init__(self, store: LedgerStore, signer: Signer, roster: Roster, clock: Clock, boot_id: str) -> None:
        self._store = store
        self._signer = signer
        self._roster = roster
        self._clock = clock
        self._tree = Tree()
        self._encoder = Encoder(clock, boot_id)
        self._staged: list[Entry] = []
        self._data: list[bytes] = []
        self.head = Head(size=0, root=b"", note="")
        self.found_size = 0
        """Entries that were there when it was opened: a head over more of them is of a state that is gone."""
        self.suspects: list[str] = []
        """What the tables of keys contradicted each other in when it was opened."""

    @property
    def roster(self) -> Roster:
        """The public keys that count."""
        return self._roster

    @property
    def size(self) -> int:
        """Entries on disk."""
        return self._tree.size

    @property
    def news(self) -> bool:
        """Whether there are entries on disk that no signed head covers."""
        return self._tree.size > self.head.size

    @property
    def staged(self) -> int:
        """Entries waiting for the next commit."""
        return len(self._staged)

    def open(self, uid: int, records: Iterable[KeyRecord] = ()) -> None:
        """Check the stored ledger, take over changes of the roster, sign what a crash left unsigned.

        Raises StoreError (code "ledger-broken") when the rows are not what
        was signed, TrustError when the signer's key is not the roster's current ledger key.
        """
        self._check_signer()
        self._load()
        self.found_size = self._tree.size
        self.suspects = self._contradictions()
        self._sync_keys(uid, records)
        self.checkpoint()

    def _check_signer(self) -> None:
        current = self._roster.current(LEDGER)
        if current.kid != self._signer.kid:
            raise TrustError(
                f"this key is {self._signer.kid}, the roster's current ledger key is {current.kid}",
                hint="run /usr/lib/graced/graced-keys as root",
                code="not-current",
            )

    def _load(self) -> None:
        size = self._store.size()
        last = self._store.last_checkpoint()
        if last is None:
            if size:
                raise _broken("it has entries and no checkpoint")
            return
        head = self._check_head(*last)
        if head.size > size:
            raise _broken(f"a signed head covers {head.size} entries, only {size} are there")
        tree = Tree(head.size, self._levels(head.size))
        if tree.root() != head.root:
            raise _broken(f"the entries up to {head.size} are not what was signed")
        self.head = head
        for seq, entry in self._store.entries(head.size, size - head.size):
            if seq != tree.size:
                raise _broken(f"entry {tree.size} is missing")
            tree.append(leaf_hash(entry))
        if tree.size != size:
            raise _broken(f"entries from {tree.size} on are missing")
        for level, n, hashes in tree.take_tiles():
            if self._store.tile(level, n)[: len(hashes)] != hashes:
                raise _broken(f"tile {n} of level {level} does not fit the entries")
        self._tree = tree

    def _check_head(self, size: int, text: str) -> Head:
        try:
            note = parse_note(text)
            checkpoint = parse_checkpoint(note.text)
            keys = [key for key in self._roster.keys if key.signer == LEDGER]
            signed = any(signed_by(note, self._roster.origin, key.public_bytes()) for key in keys)
        except (FormatError, TrustError) as error:
            raise _broken(f"the checkpoint at {size}: {error.message}") from error
        if not signed or checkpoint.origin != self._roster.origin or checkpoint.size != size or not size:
            raise _broken(f"the checkpoint at {size} is not one of this ledger by a key of the roster")
        return Head(size=size, root=checkpoint.root, note=text)

    def returns(self) -> list[tuple[int, int]]:
        """(entries it was put back to, entries it had had) of each time that the ledger tells of, the newest first.

        Raises StoreError.
        """
        found = []
        for seq, entry in self._store.find({"unit": UNIT}, self.size):
            if b'"rolled_back":' in entry:
                try:
                    back = opt_dict(get_dict(loads_object(entry), "data"), "rolled_back")
                    found += [] if back is None else [(get_int(back, "size"), get_int(back, "lost"))]
                except FormatError as error:
                    raise _broken(f"entry {seq}: {error.message}") from error
        return found

    def is_sealed(self, size: int) -> bool:
        """Whether the root at `size` would need entries that are in the archive."""
        return size <= self._store.sealed_size()

    def root_at(self, size: int) -> bytes:
        """The root over the first `size` entries as stored. Raises StoreError when they are not all there."""
        return Tree(size, self._levels(size)).root()

    def _levels(self, size: int) -> list[bytes]:
        """The open tile of each level at `size`: level 0 from the entries, the others from stored tiles."""
        levels = []
        for level, width in enumerate(widths(size)):
            if level == 0:
                hashes = b"".join([leaf_hash(entry) for _seq, entry in self._store.entries(size - width, width)])
            else:
                hashes = self._store.tile(level, (size >> (8 * level)) >> 8)[: width * HASH_BYTES]
            if len(hashes) != width * HASH_BYTES:
                raise _broken(f"entries or tiles before {size} are missing")
            levels.append(hashes)
        return levels

    def _sync_keys(self, uid: int, records: Iterable[KeyRecord]) -> None:
        """Bring `crypto_keys` to what the roster says; every change is audited and written to the ledger."""
        kept = {record.key.kid: record for record in records}
        known = {row["kid"]: row for row in self._store.key_rows()}
        # Retirements first, so that at every position at most one key of a signer is active.
        changed = [
            key
            for key in sorted(self._roster.keys, key=lambda key: key.state == "current")
            if key.kid not in known
            or any(known[key.kid][name] != getattr(key, name) for name in ("state", "not_after", "revoked_at_seq"))
        ]
        for key in changed:
            if key.state == "current" and key.kid in known and known[key.kid]["state"] != "current":
                raise TrustError(
                    f"the roster makes {key.kid} current again, which was retired: it is an older one",
                    hint="run /usr/lib/graced/graced-keys as root",
                    code="roster",
                )
        if not changed:
            return
        self._store.db.begin()
        try:
            for key in changed:
                self._record_key(key, kept.get(key.kid), uid, is_new=key.kid not in known)
            self._write_staged(sign=True)
            self._store.db.commit()
        except GracedError:
            self._store.db.rollback()
            raise

    def _contradictions(self) -> list[str]:
        """Keys of which crypto_keys says something else than the last operation in crypto_audit does.

        What follows makes crypto_keys right by the roster; that it was wrong must not go unseen.
        """
        said = {one["kid"]: one["details"] for one in self._store.key_audit(None, -1)}
        facts = {row["kid"]: row for row in self._store.key_rows()}
        found = []
        for kid in sorted(said.keys() | facts.keys(), key=str):
            row = facts.get(kid, {})
            kept = {name: row.get(name) for name in _KEPT}
            try:
                details = loads_object(str(said.get(kid)))
                if kept != {name: details.get(name) for name in _KEPT}:
                    raise FormatError("they differ")
            except FormatError:
                found.append(f"crypto_keys and crypto_audit contradict each other about the key {kid!s}")
        return found

    def adopt(self, roster: Roster, signer: Signer, uid: int, records: Iterable[KeyRecord]) -> None:
        """Take over a changed roster, and this ledger's own new key; what is staged already is written before.

        Raises StoreError or TrustError: nothing changed, the former roster and key stay in force.
        """
        before, staged = (self._roster, self._signer, self._tree, self.head), len(self._staged)
        self._roster, self._signer = roster, signer
        try:
            self._check_signer()
            self._sync_keys(uid, records)
        except GracedError:
            self._roster, self._signer, self._tree, self.head = before
            del self._staged[staged:], self._data[staged:]
            raise

    def _record_key(self, key: RosterKey, record: KeyRecord | None, uid: int, *, is_new: bool) -> None:
        operation = _OPERATIONS[key.state]
        facts = key.to_json()
        endorsement = {} if record is None else record.endorsement()
        digest = None if record is None else sha256(record.sealed).hexdigest()
        data = {"operation": operation, **facts, **endorsement, "sealed_digest": digest}
        self.stage(Entry(kind="key", data=data, actor="supervisor", uid=uid))
        # The tables say what the entry says, its time included: so every row can be told from an edited one.
        written = loads_object(self._data[-1])
        self._store.put_key(facts, None if record is None else record.sealed, key.public_bytes(), PURPOSES[key.signer])
        self._store.put_audit(
            get_str(written, "time"),
            get_int(written, "boottime_us"),
            "record" if is_new and operation != "activate" else operation,
            key.kid,
            # Who asked is in the roster, which is root's; where it names nobody, root changed it.
            key.changed_by or "root",
            key.changed_by_uid or 0,
            canonical(facts).decode(),
        )

    def check(self, entry: Entry) -> None:
        """Whether the signature an entry carries (or lacks) may stand. Raises FormatError saying why not."""
        if entry.kid is None or entry.signature is None:
            if entry.kind in MUST_BE_SIGNED or entry.kid is not None or entry.signature is not None:
                raise FormatError(f"a {entry.kind} needs kid and signature", path="$.signature")
            return
        try:
            key = self._roster.key_for(entry.kid)
            signature = decode_base64(entry.signature, "the signature")
        except TrustError as error:
            raise FormatError(error.message, path="$.kid") from error
        if key.signer != SIGNER_OF.get(entry.kind):
            raise FormatError(f"{key.signer} does not sign a {entry.kind}", path="$.kid")
        if not verify(key.public_bytes(), context_of(entry.kind), _payload(entry), signature):
            raise FormatError(f"the signature is not {entry.kid}'s over this data", path="$.signature")

    def stage(self, entry: Entry) -> int:
        """Queue an entry for the next commit; its number if nothing before it fails.

        Raises FormatError when it is no JSON or larger than 65535 bytes.
        """
        seq = self._tree.size + len(self._staged)
        data = self._encoder.encode(entry, seq)
        if len(data) > MAX_ENTRY_BYTES - 20:  # room for the digits of another number
            raise FormatError(f"a ledger entry has at most {MAX_ENTRY_BYTES - 20} bytes, this one {len(data)}")
        self._staged.append(entry)
        self._data.append(data)
        return seq

    def next_turn(self) -> None:
        """Entries that are staged from here on carry a new time."""
        self._encoder.next_turn()

    def seal(self, entry: Entry, put: Callable[[], object]) -> None:
        """Write everything staged, then `entry` and, in its transaction, what `put` writes. Raises StoreError, as
        `commit` does or with nothing but the staged entries written.
        """
        self.commit()
        self.stage(entry)
        try:
            self.commit(put)
        except StoreError:
            self._forget_staged()
            raise

    def commit(self, also: Callable[[], object] | None = None) -> None:
        """Write everything staged, durably. Raises StoreError: nothing was written, everything is still staged."""
        if not self._staged:
            return
        self._store.db.begin()
        before = self._tree
        try:
            self._write_staged(sign=False)
            if also is not None:
                also()
            self._store.db.commit()
        except StoreError:
            self._tree = before
            self._store.db.rollback()
            raise
        self._forget_staged()

    def _forget_staged(self) -> None:
        self._staged.clear()
        self._data.clear()
        self._encoder.next_turn()

    def drop(self, wanted: Iterable[Entry]) -> None:
        """After a failed commit: keep only `wanted`, with new numbers."""
        self._forget_staged()
        for entry in wanted:
            self.stage(entry)

    def _write_staged(self, *, sign: bool) -> None:
        tree = self._tree.copy()
        first = tree.size
        tree.extend(leaf_hashes(self._data))
        self._store.put_entries(list(enumerate(self._data, first)))
        self._store.put_tiles(tree.take_tiles())
        tasks, subjects, signatures = [], [], []
        for number, entry in enumerate(self._staged, first):
            task_id, intent_id, unit, kid = entry.task_id, entry.intent_id, entry.unit, entry.kid
            if intent_id is not None or unit is not None:
                subjects.append((number, task_id, intent_id, unit))
            elif task_id is not None:
                tasks.append((number, task_id))
            if kid is not None and entry.signature is not None:
                digest = sha256(context_of(entry.kind) + _payload(entry)).digest()
                signatures.append((digest, kid, decode_base64(entry.signature, "the signature"), number))
        self._store.put_subjects(tasks, subjects)
        self._store.put_signatures(signatures)
        self._tree = tree
        if sign:
            self._sign()
            self._forget_staged()

    def _sign(self) -> None:
        root = self._tree.root()
        note = sign_checkpoint(Checkpoint(origin=self._roster.origin, size=self._tree.size, root=root), self._signer)
        self._store.put_checkpoint(self._tree.size, note)
        self.head = Head(size=self._tree.size, root=root, note=note)

    def checkpoint(self) -> bool:
        """Sign and store the head when there is news; whether it did. Raises StoreError: the old head stays."""
        if not self.news:
            return False
        before = self.head
        self._store.db.begin()
        try:
            self._sign()
            self._store.db.commit()
        except StoreError:
            self.head = before
            self._store.db.rollback()
            raise
        return True


def _payload(entry: Entry) -> bytes:
    return canonical(entry.data) if entry.payload is None else entry.payload


def _broken(detail: str) -> StoreError:
    return StoreError(
        f"the ledger was changed from outside: {detail}",
        hint="'gracectl audit verify' tells what; restore ledger.db from a backup, nothing is overwritten",
        code="ledger-broken",
    )
