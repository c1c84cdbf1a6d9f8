"""What Memory keeps: incidents and their outcomes, documents, their chunks, a full-text index.

Invariants: a write that returned is on disk (synchronous=FULL); an incident that is closed never opens again and a
value that is known never becomes null; a document is found only when all its parts have come; the index holds
exactly the chunks. Only the Memory kernel opens it.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.base.errors import FormatError, StoreError
from graced.base.json import dumps, get_dict, get_float, get_int, get_str, loads, opt_str
from graced.store.db import open_database

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.base.clock import Clock
    from graced.base.json import JsonDict

MAX_TERMS = 32
MAX_CHUNK_CHARS = 16384
OUTCOMES = frozenset({"open", "healed", "failed", "held", "refused", "observed"})

_SCHEMA = """
CREATE TABLE incidents (
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, intent_id TEXT, task_id TEXT, unit TEXT NOT NULL,
  finding TEXT NOT NULL, severity TEXT, opened_at TEXT NOT NULL, closed_at TEXT, playbook TEXT, outcome TEXT NOT NULL,
  detect_ms REAL, heal_ms REAL, verified_by TEXT, reason TEXT, evidence TEXT);
CREATE INDEX incidents_by_unit ON incidents(unit, seq);
CREATE INDEX incidents_closed ON incidents(closed_at, seq) WHERE closed_at IS NOT NULL;
CREATE INDEX incidents_open ON incidents(seq) WHERE closed_at IS NULL;
CREATE VIEW outcomes AS SELECT finding, playbook, outcome, count(*) AS n, avg(heal_ms) AS mean_heal_ms,
  min(heal_ms) AS min_heal_ms, max(heal_ms) AS max_heal_ms FROM incidents GROUP BY finding, playbook, outcome;
CREATE TABLE documents (
  id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, source TEXT NOT NULL, path TEXT NOT NULL, uid INTEGER NOT NULL,
  mtime TEXT NOT NULL, size INTEGER NOT NULL, title TEXT NOT NULL, score REAL NOT NULL, provenance TEXT NOT NULL,
  ingested_at TEXT NOT NULL, parts INTEGER NOT NULL, parts_here INTEGER NOT NULL DEFAULT 0);
CREATE TABLE chunks (
  id INTEGER PRIMARY KEY, document_id INTEGER NOT NULL REFERENCES documents(id), ordinal INTEGER NOT NULL,
  start INTEGER NOT NULL, heading TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (document_id, ordinal));
CREATE VIRTUAL TABLE chunks_text USING fts5(heading, text, content='chunks', content_rowid='id',
  tokenize='porter unicode61');
"""
_MIGRATIONS = (_SCHEMA,)

_TEXTS = ("id", "intent_id", "task_id", "unit", "finding", "severity", "opened_at", "closed_at", "playbook", "outcome",
          "verified_by", "reason")  # fmt: skip
_NUMBERS = ("detect_ms", "heal_ms")
_FIELDS = (*_TEXTS, *_NUMBERS, "evidence")
_KNOWN = frozenset(_FIELDS)
_COLUMNS = ", ".join(_FIELDS)
# How far an incident has come: open, tried (held, refused or failed so far), over. It never goes back.
_OPEN = "open"


class MemoryStore:
    """The open database. Every method raises StoreError when the disk or the file fails, FormatError for bad data."""

    def __init__(self, path: str, clock: Clock, closed_incidents_kept: int = 10000) -> None:
        self._db = open_database(path, _MIGRATIONS, synchronous="FULL")
        self._clock = clock
        self.closed_incidents_kept = closed_incidents_kept
        self._counts: JsonDict = {}

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def self_test(self) -> None:
        """Ask every table and the index something; raises StoreError when one does not answer."""
        self._db.rows("SELECT count(*) FROM chunks_text WHERE chunks_text MATCH '\"graced\"'")
        self._db.rows("SELECT * FROM outcomes LIMIT 1")
        self.counts()

    # Incidents ---------------------------------------------------------------------------------------------

    def put_incident(self, incident: JsonDict) -> tuple[JsonDict, bool]:
        """Insert or update by id; the incident as it now is, and whether this call closed it.

        A repeat changes nothing. A report from an earlier stage (open after held, anything after closed) only fills
        in what was unknown. Closed incidents over the configured count are forgotten, the oldest first.
        """
        new = _check_incident(incident)
        with self._db.transaction():
            old = self._row("WHERE id = ?", (new["id"],))
            merged = new if old is None else _merge(old, new)
            if old is None:
                marks = ", ".join("?" * len(_FIELDS))
                self._db.execute(f"INSERT INTO incidents({_COLUMNS}) VALUES ({marks})", _values(merged))  # noqa: S608
            elif merged != old:
                sets = ", ".join(f"{name} = ?" for name in _FIELDS)
                self._db.execute(f"UPDATE incidents SET {sets} WHERE id = ?", (*_values(merged), new["id"]))  # noqa: S608
            closes = merged["closed_at"] is not None and (old is None or old["closed_at"] is None)
            if closes:
                self._db.execute(
                    "DELETE FROM incidents WHERE seq IN (SELECT seq FROM incidents WHERE closed_at IS NOT NULL "
                    "ORDER BY closed_at DESC, seq DESC LIMIT -1 OFFSET ?)",
                    (self.closed_incidents_kept,),
                )
        if old is None or closes:
            self._counts = {}
        return merged, closes

    def incidents(self, unit: str | None = None, *, open_only: bool = False, limit: int = 100) -> list[JsonDict]:
        """The newest incidents first."""
        where = [("unit = ?", unit)] if unit is not None else []
        clauses = [clause for clause, _ in where] + (["closed_at IS NULL"] if open_only else [])
        text = "WHERE " + " AND ".join(clauses) if clauses else ""
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM incidents {text} ORDER BY seq DESC LIMIT ?",  # noqa: S608  # constants only
            (*(value for _, value in where), limit),
        )
        return [_incident(row) for row in rows]

    def incident(self, incident_id: str) -> JsonDict | None:
        """One incident, None when there is none of that id."""
        return self._row("WHERE id = ?", (incident_id,)) if _encodable(incident_id) else None

    def _row(self, where: str, values: tuple[Any, ...]) -> JsonDict | None:
        rows = self._db.rows(f"SELECT {_COLUMNS} FROM incidents {where}", values)  # noqa: S608  # constants only
        return _incident(rows[0]) if rows else None

    # Documents ---------------------------------------------------------------------------------------------

    def put_document(self, document: JsonDict, chunks: list[Any]) -> tuple[int, bool]:
        """Insert by digest; the document's id and whether this call made it complete.

        `document`: digest, source, path, uid, mtime, size, title, score, provenance, and for a text over one
        message `part` (from 0) and `parts`. `chunks`: ordinal, start, heading, text. The same content again
        changes nothing. Part 0 of an incomplete document starts it anew; a part out of turn is a FormatError.
        """
        values, part, parts = _check_document(document)
        rows = [_check_chunk(chunk, index) for index, chunk in enumerate(chunks)]
        with self._db.transaction():
            known = self._db.rows("SELECT id, parts, parts_here FROM documents WHERE digest = ?", (values[0],))
            if known and known[0][1] == known[0][2]:
                return int(known[0][0]), False
            if known and part == 0:
                self._forget_document(int(known[0][0]))
            expected = (int(known[0][1]), int(known[0][2])) if known and part else (parts, 0)
            if expected != (parts, part):
                raise FormatError(f"document.part: part {expected[1]} of {expected[0]} is next", path="document.part")
            if part == 0:
                cursor = self._db.execute(
                    "INSERT INTO documents(digest, source, path, uid, mtime, size, title, score, provenance,"
                    " ingested_at, parts) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                    (*values, iso(self._clock.wall_us()), parts),
                )
                document_id = int(cursor.lastrowid or 0)
            else:
                document_id = int(known[0][0])
            self._insert_chunks(document_id, rows)
            self._db.execute("UPDATE documents SET parts_here = parts_here + 1 WHERE id = ?", (document_id,))
        self._counts = {}
        return document_id, part + 1 == parts

    def _insert_chunks(self, document_id: int, rows: list[tuple[int, int, str, str]]) -> None:
        taken = self._db.rows("SELECT max(ordinal) FROM chunks WHERE document_id = ?", (document_id,))[0][0]
        last = -1 if taken is None else int(taken)
        for index, row in enumerate(rows):
            if row[0] <= last:
                raise FormatError(f"chunks[{index}].ordinal must grow", path=f"chunks[{index}].ordinal")
            last = row[0]
        self._db.executemany(
            "INSERT INTO chunks(document_id, ordinal, start, heading, text) VALUES (?,?,?,?,?)",
            [(document_id, *row) for row in rows],
        )
        # By hand, not by triggers: with trusted_schema off SQLite lets no trigger touch a virtual table.
        self._db.execute(
            "INSERT INTO chunks_text(rowid, heading, text) SELECT id, heading, text FROM chunks"
            " WHERE document_id = ? AND ordinal > ?",
            (document_id, -1 if taken is None else taken),
        )

    def _forget_document(self, document_id: int) -> None:
        self._db.execute(
            "INSERT INTO chunks_text(chunks_text, rowid, heading, text) SELECT 'delete', id, heading, text FROM chunks"
            " WHERE document_id = ?",
            (document_id,),
        )
        self._db.execute("DELETE FROM chunks WHERE document_id = ?", (document_id,))
        self._db.execute("DELETE FROM documents WHERE id = ?", (document_id,))

    def documents(self, limit: int = 100) -> list[JsonDict]:
        """The newest complete documents first, with their number of chunks."""
        names = ("document_id", "digest", "source", "path", "uid", "mtime", "size", "title", "score", "provenance",
                 "ingested_at", "chunks")  # fmt: skip
        rows = self._db.rows(
            "SELECT id, digest, source, path, uid, mtime, size, title, score, provenance, ingested_at,"
            " (SELECT count(*) FROM chunks WHERE document_id = documents.id) FROM documents"
            " WHERE parts_here = parts ORDER BY id DESC LIMIT ?",
            (limit,),
        )
        found = [dict(zip(names, row, strict=True)) for row in rows]
        for one in found:
            one["provenance"] = loads(one["provenance"])
        return found

    def search(self, query: str, limit: int = 10) -> list[JsonDict]:
        """The chunks that match any word of `query` best (bm25, headings weigh twice); any text is a valid query.

        `score` is larger for better hits and comparable within one answer only; matches in `snippet` are in [ ].
        """
        expression = match_expression(query)
        if not expression:
            return []
        names = ("document_id", "digest", "source", "path", "title", "document_score", "ordinal", "heading", "snippet",
                 "score")  # fmt: skip
        rows = self._db.rows(
            "SELECT d.id, d.digest, d.source, d.path, d.title, d.score, c.ordinal, c.heading,"
            " snippet(chunks_text, 1, '[', ']', ' … ', 24), -bm25(chunks_text, 2.0, 1.0) AS rank_score"
            " FROM chunks_text JOIN chunks c ON c.id = chunks_text.rowid JOIN documents d ON d.id = c.document_id"
            " WHERE chunks_text MATCH ? AND d.parts_here = d.parts ORDER BY rank_score DESC, c.id LIMIT ?",
            (expression, limit),
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    # Numbers -----------------------------------------------------------------------------------------------

    def counts(self) -> JsonDict:
        """incidents, open, documents, chunks; counted once and again after a change."""
        if not self._counts:
            names = ("incidents", "open", "documents", "chunks")
            row = self._db.rows(
                "SELECT (SELECT count(*) FROM incidents), (SELECT count(*) FROM incidents WHERE closed_at IS NULL),"
                " (SELECT count(*) FROM documents WHERE parts_here = parts), (SELECT count(*) FROM chunks)"
            )[0]
            self._counts = dict(zip(names, row, strict=True))
        return dict(self._counts)

    def index_problem(self) -> str | None:
        """Compare the full-text index with the chunks, all of them; what is wrong, or None."""
        try:
            self._db.execute("INSERT INTO chunks_text(chunks_text, rank) VALUES ('integrity-check', 1)")
        except StoreError as error:
            return error.message
        return None

    def stats(self) -> JsonDict:
        """`counts` and `outcomes`: one object per finding, playbook and outcome with its number and heal times."""
        names = ("finding", "playbook", "outcome", "count", "mean_heal_ms", "min_heal_ms", "max_heal_ms")
        rows = self._db.rows("SELECT * FROM outcomes ORDER BY n DESC, finding, playbook, outcome LIMIT 1000")
        by_outcome = dict(self._db.rows("SELECT outcome, count(*) FROM incidents GROUP BY outcome ORDER BY outcome"))
        return {
            **self.counts(),
            "incidents_by_outcome": by_outcome,
            "outcomes": [dict(zip(names, row, strict=True)) for row in rows],
        }


def match_expression(query: str) -> str:
    """An FTS5 expression for text that people typed: at most 32 distinct words, quoted, any of them may match."""
    words = "".join(char if char.isalnum() else " " for char in query[:4096]).split()
    return " OR ".join(f'"{word}"' for word in list(dict.fromkeys(words))[:MAX_TERMS])


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_text(value: str | None, path: str) -> str | None:
    if value is not None and not _encodable(value):
        raise FormatError(f"{path} holds a lone surrogate", path=path)
    return value


def _check_incident(incident: JsonDict) -> JsonDict:
    """All fields of an incident, null where absent; FormatError names what is wrong."""
    for name in incident:
        if name not in _KNOWN:
            raise FormatError(f"incident.{name} is not a field of an incident", path=f"incident.{name}")
    new: JsonDict = {name: _check_text(opt_str(incident, name, "incident"), f"incident.{name}") for name in _TEXTS}
    for name in ("id", "unit", "finding", "opened_at", "outcome"):
        if not get_str(incident, name, "incident"):
            raise FormatError(f"incident.{name} is empty", path=f"incident.{name}")
    if new["outcome"] not in OUTCOMES:
        raise FormatError(f"incident.outcome: one of {', '.join(sorted(OUTCOMES))}", path="incident.outcome")
    if new["outcome"] == "open" and new["closed_at"] is not None:
        raise FormatError("incident.outcome: a closed incident is not open", path="incident.outcome")
    for name in _NUMBERS:
        value = None if incident.get(name) is None else get_float(incident, name, "incident")
        if value is not None and not 0 <= value < 1e15:
            raise FormatError(f"incident.{name} is out of range", path=f"incident.{name}")
        new[name] = value
    evidence = incident.get("evidence")
    dumps(evidence)
    new["evidence"] = evidence
    return new


def _stage(incident: JsonDict) -> int:
    if incident["closed_at"] is not None:
        return 2
    return 0 if incident["outcome"] == _OPEN else 1


def _merge(old: JsonDict, new: JsonDict) -> JsonDict:
    """The newer report wins unless it is from an earlier stage or the incident is over; then it fills gaps only."""
    forward = _stage(new) >= _stage(old) and _stage(old) < 2
    first, second = (new, old) if forward else (old, new)
    merged = {name: second[name] if first[name] is None else first[name] for name in _FIELDS}
    merged["opened_at"] = old["opened_at"]
    if not forward:
        merged["closed_at"] = old["closed_at"]
    return merged


def _values(incident: JsonDict) -> tuple[Any, ...]:
    evidence = incident["evidence"]
    return (*(incident[name] for name in _FIELDS[:-1]), None if evidence is None else dumps(evidence).decode())


def _incident(row: tuple[Any, ...]) -> JsonDict:
    found = dict(zip(_FIELDS, row, strict=True))
    found["evidence"] = None if found["evidence"] is None else loads(found["evidence"])
    return found


def _check_document(document: JsonDict) -> tuple[tuple[Any, ...], int, int]:
    path = "document"
    digest = get_str(document, "digest", path)
    if len(digest) != 64 or digest.strip("0123456789abcdef"):
        raise FormatError("document.digest: 64 hex digits (SHA-256) are needed", path="document.digest")
    score = get_float(document, "score", path)
    if not 0 <= score <= 1:
        raise FormatError("document.score must lie in 0..1", path="document.score")
    numbers = [get_int(document, name, path) for name in ("uid", "size")]
    part = get_int(document, "part", path) if "part" in document else 0
    parts = get_int(document, "parts", path) if "parts" in document else 1
    if not 0 <= part < parts <= 100_000 or not all(0 <= number < 1 << 62 for number in numbers):
        raise FormatError("document.part, parts, uid or size is out of range", path="document.part")
    source, where, mtime, title = (
        _check_text(get_str(document, name, path), f"{path}.{name}") for name in ("source", "path", "mtime", "title")
    )
    provenance = dumps(get_dict(document, "provenance", path)).decode()
    return (digest, source, where, numbers[0], mtime, numbers[1], title, score, provenance), part, parts


def _check_chunk(chunk: Any, index: int) -> tuple[int, int, str, str]:
    path = f"chunks[{index}]"
    if not isinstance(chunk, dict):
        raise FormatError(f"{path}: an object is needed, not {type(chunk).__name__}", path=path)
    ordinal, start = get_int(chunk, "ordinal", path), get_int(chunk, "start", path)
    text = get_str(chunk, "text", path)
    heading = opt_str(chunk, "heading", path) or ""
    _check_text(text, f"{path}.text")
    _check_text(heading, f"{path}.heading")
    if not (0 <= ordinal < 1 << 31 and 0 <= start < 1 << 62 and len(text) <= MAX_CHUNK_CHARS):
        raise FormatError(f"{path}: ordinal, start or length is out of range", path=path)
    return ordinal, start, heading, text
