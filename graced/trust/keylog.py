"""What a log's `key` entries say, in order, and what the tables of keys must therefore hold.

The supervisor's tables `crypto_keys` and `crypto_audit` are a view of these entries, and so is the summary that a seal
of archived entries carries: whoever reads the log behind it goes on from there. Pure; used by the writer, by sealing
and by every check of the tables.
"""

from __future__ import annotations

from graced.base.digest import sha256
from graced.base.errors import FormatError
from graced.base.json import canonical, get_dict, get_int, get_str, get_strs, loads_object, opt_int, opt_str
from graced.trust.keys import PURPOSES
from graced.trust.roster import RosterKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self, TypeAlias

    from graced.base.json import JsonDict

    # Columns of crypto_keys in order, the sealed blob as its SHA-256 in hex; and those of crypto_audit.
    KeyRow: TypeAlias = tuple[str, str, str, str, str | None, str, str | None, str, int | None, str | None]
    AuditRow: TypeAlias = tuple[int, str, int, str, str, str, int, str]

ACTIVATE = "activate"
_FIRST = "record"
_MAX_BYTES = 1 << 22


class KeyLog:
    """See the module. `active`: signer to kid; `ended`: kids that were replaced, retired or revoked."""

    __slots__ = ("active", "chain", "count", "ended", "rows")

    def __init__(self) -> None:
        self.active: dict[str, str] = {}
        self.ended: set[str] = set()
        self.rows: dict[str, JsonDict] = {}
        self.count = 0
        self.chain = b""

    def add(self, obj: JsonDict) -> AuditRow:
        """Take in the next `key` entry; the row of crypto_audit that belongs to it. Raises FormatError."""
        data = get_dict(obj, "data")
        operation, signer, kid = get_str(data, "operation"), get_str(data, "signer"), get_str(data, "kid")
        facts = {name: data.get(name) for name in RosterKey._fields}
        key = RosterKey.from_json(facts)
        if operation == ACTIVATE:
            self.ended.update({self.active.get(signer, kid)} - {kid})
            self.active[signer] = kid
        else:
            self.ended.add(kid)
        said = _FIRST if kid not in self.rows and operation != ACTIVATE else operation
        first = {**facts, "sealed_digest": opt_str(data, "sealed_digest")}
        later = {name: facts[name] for name in ("not_after", "state", "revoked_at_seq")}
        self.rows[kid] = {**self.rows.get(kid, first), **later}
        self.count += 1
        row = (
            self.count,
            get_str(obj, "time"),
            get_int(obj, "boottime_us"),
            said,
            kid,
            key.changed_by or "root",
            key.changed_by_uid or 0,
            canonical(facts).decode(),
        )
        self.chain = chained(self.chain, row)
        return row

    def key_rows(self) -> list[KeyRow]:
        """What crypto_keys must hold, by kid."""
        return [
            (
                kid,
                row["signer"],
                PURPOSES.get(row["signer"], ""),
                row["public"],
                row["sealed_digest"],
                row["not_before"],
                row["not_after"],
                row["state"],
                row["revoked_at_seq"],
                row["endorsed_by"],
            )
            for kid, row in sorted(self.rows.items())
        ]

    def text(self) -> str:
        """All of it as text, for `parse`."""
        obj = {
            "v": 1,
            "active": self.active,
            "ended": sorted(self.ended),
            "rows": self.rows,
            "count": self.count,
            "chain": self.chain.hex(),
        }
        return canonical(obj).decode()

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `text`; "" is the beginning of a log. Raises FormatError."""
        log = cls()
        if not text:
            return log
        obj = loads_object(text, max_bytes=_MAX_BYTES, path="keys")
        if get_int(obj, "v", "keys") != 1:
            raise FormatError("keys: a version this graced does not know")
        log.active = {name: get_str(get_dict(obj, "active", "keys"), name) for name in get_dict(obj, "active", "keys")}
        log.ended = set(get_strs(obj, "ended", "keys"))
        rows = get_dict(obj, "rows", "keys")
        for kid in rows:
            row = get_dict(rows, kid, "keys.rows")
            RosterKey.from_json({name: row.get(name) for name in RosterKey._fields}, f"keys.rows.{kid}")
            opt_str(row, "sealed_digest", f"keys.rows.{kid}")
            opt_int(row, "revoked_at_seq", f"keys.rows.{kid}")
        log.rows = rows
        log.count = get_int(obj, "count", "keys")
        try:
            log.chain = bytes.fromhex(get_str(obj, "chain", "keys"))
        except ValueError as error:
            raise FormatError("keys.chain: not hexadecimal") from error
        return log


def chained(chain: bytes, row: AuditRow) -> bytes:
    """The hash over all rows of crypto_audit so far."""
    return sha256(chain + canonical(list(row))).digest()


def seal_facts(before: str, row: tuple[int, int, str, bytes, str]) -> JsonDict:
    """What the log says about a sealed segment (first, size, file, digest, keys), and with it about all before.

    `before`: the `chain` of the segment before it, "" for the first.
    """
    first, size, file, digest, keys = row
    said: JsonDict = {"first": first, "size": size, "file": file, "digest": digest.hex()}
    said["keys"] = sha256(keys.encode()).hexdigest()
    return {**said, "chain": sha256(before.encode() + canonical(said)).hexdigest()}
