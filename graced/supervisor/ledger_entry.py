"""What is written into the ledger, and its one byte form.

The form is the canonical JSON of one object (`graced.base.json.canonical` gives the same bytes, a test compares them);
put together by hand it costs a third. Used by the supervisor's ledger.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.base.errors import FormatError
from graced.base.json import canonical_text, string_text
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.clock import Clock
    from graced.base.json import JsonDict


class Entry(Record):
    """What is written down, before it has a number. `uid` and `actor` are the peer's own, never claimed.

    `payload` is the canonical form of `data` where somebody has made it already.
    """

    kind: str
    data: JsonDict
    actor: str
    uid: int
    unit: str | None = None
    task_id: str | None = None
    intent_id: str | None = None
    kid: str | None = None
    signature: str | None = None
    payload: bytes | None = None

    if not TYPE_CHECKING:
        # Record's own constructor takes three times as long, and a burst makes a hundred thousand of these a second.
        def __init__(
            self,
            kind,
            data,
            actor,
            uid,
            unit=None,
            task_id=None,
            intent_id=None,
            kid=None,
            signature=None,
            payload=None,
        ) -> None:
            fields = self.__dict__
            fields["kind"] = kind
            fields["data"] = data
            fields["actor"] = actor
            fields["uid"] = uid
            fields["unit"] = unit
            fields["task_id"] = task_id
            fields["intent_id"] = intent_id
            fields["kid"] = kid
            fields["signature"] = signature
            fields["payload"] = payload


def _text(value: str | None) -> str:
    return "null" if value is None else string_text(value)


class Encoder:
    """Makes the bytes of entries. Those of one turn of the loop carry one time: reading two clocks costs as much as all
    the rest of an entry's head.
    """

    __slots__ = ("_after", "_before", "_boot_id", "_clock", "_heads", "_tails")

    def __init__(self, clock: Clock, boot_id: str) -> None:
        self._clock = clock
        self._boot_id = string_text(boot_id)
        self._before = ""
        self._after = ""
        self._heads: dict[str, str] = {}
        self._tails: dict[tuple[int, str | None], str] = {}

    def next_turn(self) -> None:
        """The next entry reads the clocks again."""
        self._heads.clear()
        self._tails.clear()

    def _head(self, actor: str) -> str:
        if not self._heads:
            self._before = f',"boot_id":{self._boot_id},"boottime_us":{self._clock.boottime_us()},"data":'
            self._after = f',"time":"{iso(self._clock.wall_us())}","uid":'
            self._tails.clear()
        head = self._heads[actor] = f'{{"actor":{string_text(actor)}{self._before}'
        return head

    def _tail(self, uid: int, unit: str | None) -> str:
        tail = self._tails[uid, unit] = f'{self._after}{uid},"unit":{_text(unit)},"v":1}}'
        return tail

    def encode(self, entry: Entry, seq: int) -> bytes:
        """The bytes of entry number `seq`: canonical JSON. Raises FormatError when it is no JSON."""
        try:
            data = canonical_text(entry.data) if entry.payload is None else entry.payload.decode()
            head = self._heads.get(entry.actor) or self._head(entry.actor)
            tail = self._tails.get((entry.uid, entry.unit)) or self._tail(entry.uid, entry.unit)
            intent_id, kid, signature, task_id = entry.intent_id, entry.kid, entry.signature, entry.task_id
            return (
                f'{head}{data},"intent_id":{"null" if intent_id is None else string_text(intent_id)}'
                f',"kid":{"null" if kid is None else string_text(kid)},"kind":{string_text(entry.kind)}'
                f',"seq":{seq},"signature":{"null" if signature is None else string_text(signature)}'
                f',"task_id":{"null" if task_id is None else string_text(task_id)}{tail}'
            ).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"not a JSON value: {error}") from error
