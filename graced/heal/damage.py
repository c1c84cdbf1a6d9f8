"""What happened to a config file since its last-known-good copy: a pure decision over two images of it.

``edited`` may be a person's intent and is judged by a validator; ``damaged`` cannot be anybody's intent.
"""

from __future__ import annotations

from graced.base.record import Record

SAME = "same"
EDITED = "edited"
MISSING = "missing"
EXTRA = "extra"
METADATA = "metadata"
DAMAGED = "damaged"


class Facts(Record):
    """One file: `kind` is ``file``, ``symlink`` or ``unreadable``; `data` its content, or the link's
    target.
    """

    kind: str
    data: bytes
    uid: int
    gid: int
    mode: int


class Finding(Record):
    """`state` is one of this module's words, `reason` says why, `harmful` whether no person can have meant
    it.
    """

    state: str
    reason: str = ""
    harmful: bool = False


def compare(now: Facts | None, good: Facts | None) -> Finding:
    """Judge the present file against its last-known-good copy; None is "not there"."""
    if now is None:
        return Finding(SAME) if good is None else Finding(MISSING, "the file is gone")
    if now.kind == "unreadable":
        return Finding(DAMAGED, now.data.decode(errors="replace") or "not a readable file", harmful=True)
    if good is None:
        return Finding(EXTRA, "not in the last-known-good set")
    if now.kind != good.kind:
        return Finding(EDITED, f"a {now.kind} where a {good.kind} was")
    if now.data == good.data:
        return _metadata(now, good)
    reason = "" if now.kind == "symlink" else damage(now.data, good.data)
    if reason:
        return Finding(DAMAGED, reason, harmful=True)
    return Finding(EDITED, "the content differs")


def damage(now: bytes, good: bytes) -> str:
    """Why `now` cannot be an edit of `good`, or "" when it can."""
    if now == good:
        return ""
    if b"\0" in now and b"\0" not in good:
        return "contains NUL bytes"
    if not now and good:
        return "empty, it was not"
    if len(now) < len(good) and good.startswith(now):
        if not now.endswith(b"\n") and good[len(now) : len(now) + 1] != b"\n":
            return "cut off in the middle of a line"
        if len(now) * 2 < len(good):
            return "cut off before its half"
    return ""


def _metadata(now: Facts, good: Facts) -> Finding:
    if now.kind == "symlink":
        return Finding(SAME)
    if (now.uid, now.gid, now.mode) == (good.uid, good.gid, good.mode):
        return Finding(SAME)
    changes = []
    if now.uid != good.uid:
        changes.append(f"owner {good.uid} became {now.uid}")
    if now.gid != good.gid:
        changes.append(f"group {good.gid} became {now.gid}")
    if now.mode != good.mode:
        changes.append(f"mode {good.mode:04o} became {now.mode:04o}")
    gained_write = now.mode & ~good.mode & 0o022
    lost_read = good.mode & ~now.mode & 0o440
    harmful = now.uid != good.uid or now.gid != good.gid or bool(gained_write or lost_read)
    return Finding(METADATA, ", ".join(changes), harmful)
