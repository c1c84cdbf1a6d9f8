"""io.graced.Ledger: appending to the signed record, on the supervisor's loop; reading it is `ledger_reading`.

Entries of one loop turn are one transaction; answers leave after it. A head is signed at most once a second while there
is news, and goes to the journal too: a database cannot prove that its own tail is still there. Who wrote an entry is
the peer's uid and role, never a name it claims.
"""

from __future__ import annotations

import os

from graced.base.clock import boot_id
from graced.base.errors import FormatError, StoreError, TrustError
from graced.base.json import canonical, get_dict, get_str, loads_object, opt_str
from graced.base.log import ERR, INFO, WARNING, log
from graced.base.messages import LEDGER_BROKEN, LEDGER_CHECKPOINT
from graced.runtime.peer import ADMIN, READ
from graced.runtime.signing import SigningKey
from graced.store.ledger import FILE_NAME, LedgerStore
from graced.supervisor.ledger_entry import Entry
from graced.supervisor.ledger_reading import LedgerReading, limit_of
from graced.supervisor.ledger_writer import LedgerWriter
from graced.trust.keyfiles import read_records
from graced.trust.keys import LEDGER, encode_base64
from graced.varlink.wire import VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from graced.base.json import JsonDict
    from graced.runtime.kernel import Kernel
    from graced.runtime.loop import Loop
    from graced.runtime.service import Call, Service
    from graced.store.ledger_archive import Segment
    from graced.supervisor.background import Background
    from graced.supervisor.logkeeper import LogKeeper
    from graced.supervisor.sealing import Sealing
    from graced.supervisor.table_check import TableCheck
    from graced.trust.keyfiles import KeyRecord
    from graced.trust.roster import Roster

CHECKPOINT_SECONDS = 1.0
MAX_KEPT = 4096
CRITICAL = 2

_OWN = frozenset({"finding", "task", "key", "checkpoint"})
_KINDS = {
    "governance": frozenset({"decision", "warrant", "approval"}),
    "verification": frozenset({"verdict"}),
    "healing": frozenset({"step", "restore"}),
    # The actuator is root. Root could become any account anyway; it stays the recorded actor, and what must be
    # signed needs that signer's key all the same.
    "root": frozenset({"step", "restore", "decision", "warrant", "approval", "verdict"}),
}


class LedgerInterface(LedgerReading):
    """See the module. `append` is for the supervisor itself, `failure` why entries cannot be written just now."""

    acl = {
        "Append": frozenset(_KINDS),
        "Head": READ,
        "Read": READ,
        "Find": READ,
        "Keys": READ,
        "KeyHistory": READ,
        "RotateKey": ADMIN,
    }

    def __init__(self, loop: Loop, service: Service, store: LedgerStore, writer: LedgerWriter) -> None:
        """`writer` is open. Commits run in `service.before_flush`, before answers leave."""
        super().__init__(loop, store, writer)
        self._waiting: list[tuple[Entry, Call | None]] = []
        self._retry_at_s = 0.0
        self._signed_at_s = -CHECKPOINT_SECONDS
        self._sign_planned = False
        self.key: SigningKey | None = None
        self._roster: Roster | None = None
        self._public_directory = ""
        self.failure: str | None = None
        self.lost = 0
        self.on_checkpoint: Callable[[int, str], None] | None = None
        self.log_keeper: LogKeeper | None = None
        self.sealing: Sealing | None = None
        self.tables: TableCheck | None = None
        self.on_tables: Callable[[list[str]], object] = _nothing
        service.before_flush.append(self.commit)

    @classmethod
    def for_kernel(cls, kernel: Kernel) -> Self:
        """Open, check and serve the supervisor's ledger. Raises StoreError or TrustError: the self-test failed."""
        state = kernel.paths.state("supervisor")
        key = SigningKey(kernel, LEDGER)
        roster = key.roster()
        public_directory = f"{kernel.paths.lib}/keys-public"
        store = LedgerStore.open(f"{state}/{FILE_NAME}")
        writer = LedgerWriter(store, key.signer, roster, kernel.clock, boot_id())
        try:
            before = store.last_checkpoint()
            writer.open(os.getuid(), _records(public_directory))
        except StoreError as error:
            store.close()
            if error.code == "ledger-broken":
                log(CRITICAL, str(error), LEDGER_BROKEN)
            raise
        interface = cls(kernel.loop, kernel.service, store, writer)
        interface.key, interface._roster, interface._public_directory = key, roster, public_directory
        key.on_look = interface.refresh
        if before is None or writer.head.size > before[0]:
            kernel.loop.call_soon(interface.announce)
        return interface

    # Varlink ------------------------------------------------------------------------------------------------

    def Append(self, call: Call) -> JsonDict:
        parameters = call.parameters
        kind = get_str(parameters, "kind")
        allowed = frozenset().union(*(_KINDS.get(role, frozenset()) for role in call.peer.roles))
        if kind not in allowed:
            if kind not in _OWN and not any(kind in kinds for kinds in _KINDS.values()):
                raise FormatError(f"$.kind: {kind!r} is not a kind of entry", path="$.kind")
            needed = sorted(role for role, kinds in _KINDS.items() if kind in kinds)
            raise VarlinkError(f"{self.name}.PermissionDenied", {"method": f"Append {kind}", "needed": needed})
        if self.failure is not None and self._loop.now_s() < self._retry_at_s:
            raise VarlinkError(f"{self.name}.Unavailable", {"reason": self.failure})
        data = get_dict(parameters, "data")
        entry = Entry(
            kind=kind,
            data=data,
            actor=call.peer.name,
            uid=call.peer.uid,
            unit=opt_str(parameters, "unit"),
            task_id=opt_str(parameters, "task_id"),
            intent_id=opt_str(parameters, "intent_id"),
            kid=opt_str(parameters, "kid"),
            signature=opt_str(parameters, "signature"),
            payload=canonical(data),
        )
        if entry.kid is not None:
            self.refresh()
        self._writer.check(entry)
        seq = self._writer.stage(entry)
        self._waiting.append((entry, call))
        return {"seq": seq}

    def KeyHistory(self, call: Call) -> JsonDict:
        limit = limit_of(call)
        self.refresh()
        return {"operations": self._store.key_audit(opt_str(call.parameters, "kid"), limit)}

    async def RotateKey(self, call: Call) -> JsonDict:
        if self.key is None:
            raise VarlinkError(f"{self.name}.Unavailable", {"reason": "this ledger has no key of its own"})
        reply = await self.key.rotate(call.peer.name, call.peer.uid, opt_str(call.parameters, "reason") or "")
        self.refresh()
        return reply

    # The supervisor's own -----------------------------------------------------------------------------------

    def append(
        self,
        kind: str,
        data: JsonDict,
        *,
        unit: str | None = None,
        task_id: str | None = None,
        intent_id: str | None = None,
    ) -> None:
        """Write an entry of the supervisor: on disk at the end of this turn, or retried until it is.

        Raises FormatError when it is no JSON or too large.
        """
        entry = Entry(
            kind=kind, data=data, actor="supervisor", uid=os.getuid(), unit=unit, task_id=task_id, intent_id=intent_id
        )
        self._writer.stage(entry)
        self._waiting.append((entry, None))

    def keep_house(self, background: Background, keep_entries: int) -> None:
        """From now on the thread copies the write-ahead log, and old entries move to the archive. Raises StoreError."""
        from graced.supervisor.logkeeper import LogKeeper
        from graced.supervisor.sealing import Sealing
        from graced.supervisor.table_check import TableCheck

        self._background = background
        keeper = LogKeeper(self._loop, background, self._store.db)
        keeper.start()
        self.log_keeper = keeper
        self.sealing = Sealing(self._loop, background, self._store, keep_entries, keeper.committed, self._seal)
        self.sealing.start()
        self.tables = TableCheck(self._loop, self._store, self._writer, self.on_tables)
        self.tables.start()

    def _seal(self, segment: Segment, keys: str) -> None:
        from graced.supervisor.sealing import seal_entry

        entry = Entry("checkpoint", seal_entry(self._store, segment, keys), "supervisor", os.getuid())
        self._writer.seal(entry, lambda: self._store.put_sealed(segment, keys))
        if self.log_keeper is not None:
            self.log_keeper.committed()
        self._plan_checkpoint()

    @property
    def house_error(self) -> str:
        """Why the database is not kept small, or that its tables were edited; "" while all is well."""
        parts = (one and one.error for one in (self.log_keeper, self.sealing, self.tables))
        return "; ".join(part for part in parts if part)

    def refresh(self) -> None:
        """Take over a changed roster: every change of keys becomes an entry before the new key's first signature.

        Raises TrustError or StoreError: the former roster stays in force, and the next call tries again.
        """
        if self.key is None or self.key.check() is None:
            return
        roster = self.key.roster()
        if roster is not self._roster:
            self._writer.adopt(roster, self.key.signer, os.getuid(), _records(self._public_directory))
            self._roster = roster

    @property
    def writer(self) -> LedgerWriter:
        """What writes it."""
        return self._writer

    @property
    def size(self) -> int:
        """Entries on disk."""
        return self._writer.size

    def tells(self, kind: str, intent_id: str) -> bool:
        """Whether there is an entry of this kind about an intent; the archive is not asked. Raises StoreError."""
        rows = self._store.find({"intent_id": intent_id}, self.size)
        return any(loads_object(entry, path="entry").get("kind") == kind for _seq, entry in rows)

    @property
    def head_size(self) -> int:
        """Entries the newest signed head covers."""
        return self._writer.head.size

    def commit(self) -> None:
        """Write what this turn staged; on failure callers get an error and the supervisor's own entries are kept."""
        self._writer.next_turn()
        if not self._waiting or (self.failure is not None and self._loop.now_s() < self._retry_at_s):
            return
        try:
            self._writer.commit()
        except StoreError as error:
            self._failed(error)
            return
        self._waiting.clear()
        if self.failure is not None:
            log(WARNING, "the ledger can be written again")
            self.failure = None
        if self.log_keeper is not None:
            self.log_keeper.committed()
        self._plan_checkpoint()

    def _failed(self, error: StoreError) -> None:
        refusal = VarlinkError(f"{self.name}.Unavailable", {"reason": str(error)})
        kept: list[Entry] = []
        for entry, call in self._waiting:
            if call is None:
                kept.append(entry)
            else:
                call.withdraw(refusal)
        self.lost += max(0, len(kept) - MAX_KEPT)
        kept = kept[-MAX_KEPT:]
        self._waiting = [(entry, None) for entry in kept]
        self._writer.drop(kept)
        if self.failure is None:
            log(ERR, f"the ledger cannot be written: {error}")
        self.failure = str(error)
        self._retry_at_s = self._loop.now_s() + CHECKPOINT_SECONDS
        # A timer makes a turn happen; the turn's end commits.
        self._loop.call_later(CHECKPOINT_SECONDS, _nothing)

    def _plan_checkpoint(self) -> None:
        if self._sign_planned:
            return
        self._sign_planned = True
        due_s = self._signed_at_s + CHECKPOINT_SECONDS - self._loop.now_s()
        self._loop.call_later(max(0.0, due_s), self._checkpoint)

    def _checkpoint(self) -> None:
        self._sign_planned = False
        self._signed_at_s = self._loop.now_s()
        try:
            self.refresh()
            if self._writer.checkpoint():
                self.announce()
                if self.log_keeper is not None:
                    self.log_keeper.committed()
            if self.sealing is not None:
                self.sealing.look(self._writer.head.size)
            self.failure = None
        except (StoreError, TrustError) as error:
            self.failure = str(error)
            self._plan_checkpoint()

    def announce(self) -> None:
        """Write the signed head to the journal, where rolling back the database does not reach."""
        head = self._writer.head
        log(
            INFO,
            f"ledger head: {head.size} entries",
            LEDGER_CHECKPOINT,
            GRACED_LEDGER_SIZE=head.size,
            GRACED_LEDGER_ROOT=encode_base64(head.root),
            GRACED_CHECKPOINT=head.note,
        )
        if self.on_checkpoint is not None:
            self.on_checkpoint(head.size, head.note)

    def stop_house(self) -> None:
        """Before the background thread is closed."""
        if self.sealing is not None:
            self.sealing.stop()
        if self.tables is not None:
            self.tables.stop()
        if self.log_keeper is not None:
            self.log_keeper.stop()

    def close_thread(self) -> None:
        """On the background thread, at its end."""
        if self.log_keeper is not None:
            self.log_keeper.close()

    def close(self) -> None:
        """Last: write and sign what is left. Raises StoreError when that fails (nothing acknowledged is lost)."""
        try:
            self._writer.commit()
            self.refresh()
            if self._writer.checkpoint():
                self.announce()
        except TrustError as error:
            # Revoked while it ran: what is written is covered by the successor's first head.
            log(WARNING, f"ledger: the last head is left to the next start: {error.message}")
        finally:
            self._store.close()


def _records(directory: str) -> list[KeyRecord]:
    """The key records; none when they cannot be read: a copy for the tables, nothing else needs them."""
    try:
        return list(read_records(directory))
    except TrustError as error:
        log(WARNING, f"ledger: {error}")
        return []


def _nothing(*_args: object) -> None:
    """Only wakes the loop; nobody listens."""
