"""Garbage in the main config file, then what makes it count: a restart of the unit, a reload of a daemon of graced."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

from chaos.journal import now_us
from chaos.shell import ChaosError, run
from chaos.targets import Target

NAME = "config"
GARBAGE = b"%% chaos: this is not a configuration {{{\n"
RESTART_TIMEOUT_S = 120.0


def prepare(target: Target) -> dict[str, Any]:
    """The content, owner and mode to put back."""
    path = target.config.resolve()
    if not path.exists():
        if not target.kernel:
            raise ChaosError(f"{target.unit}: its main config file {path} does not exist")
        return {"path": str(path), "content": None}
    stat = path.stat()
    content = path.read_bytes()
    if content.startswith(GARBAGE):
        raise ChaosError(f"{path} still holds what an earlier run wrote: graced-chaos rollback, or restore it by hand")
    return {
        "path": str(path),
        "content": base64.b64encode(content).decode(),
        "uid": stat.st_uid,
        "gid": stat.st_gid,
        "mode": stat.st_mode & 0o7777,
    }


def inject(target: Target, undo: dict[str, Any]) -> int:
    """Write the garbage in place and make it count; CLOCK_MONOTONIC in µs just before the restart."""
    # As an editor saves: same inode, same owner. New bytes each time: the same edit twice would be an admin's will.
    garbage = GARBAGE + str(now_us()).encode() + b"\n"
    fd = os.open(undo["path"], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # Its first bytes name it from the first moment on, so that a killed runner's file is known again.
        os.write(fd, garbage)
        os.ftruncate(fd, len(garbage))
    finally:
        os.close(fd)
    stamp = now_us()
    run("systemctl", "--no-block", "reload" if target.kernel else "restart", target.unit)
    return stamp


def revert(target: Target, undo: dict[str, Any]) -> bool:
    """Put the old content back where the garbage still is, and let the unit use it; what someone else has put there
    since stays. Whether nothing of the fault is left."""
    if _ours(undo):
        _put_back(undo)
        if target.state() not in {"inactive", "failed"}:
            verb = "reload" if target.kernel else "restart"
            run("systemctl", "reset-failed", target.unit)
            run("systemctl", verb, target.unit, timeout_s=RESTART_TIMEOUT_S)
    target.bring_back()
    return not _ours(undo) and target.state() != "failed"


def restored(undo: dict[str, Any]) -> bool:
    """Whether content, owner and mode are as they were before the fault."""
    path = Path(undo["path"])
    if undo["content"] is None:
        return not path.exists()
    if not path.exists():
        return False
    stat = path.stat()
    same = path.read_bytes() == base64.b64decode(undo["content"])
    return same and [stat.st_uid, stat.st_gid, stat.st_mode & 0o7777] == [undo["uid"], undo["gid"], undo["mode"]]


def _ours(undo: dict[str, Any]) -> bool:
    path = Path(undo["path"])
    return path.exists() and path.read_bytes().startswith(GARBAGE)


def _put_back(undo: dict[str, Any]) -> None:
    path = Path(undo["path"])
    if undo["content"] is None:
        path.unlink()
        return
    # In one step: a runner killed here too must find either the garbage or the old content.
    new = path.with_name(f".{path.name}.graced-chaos")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(base64.b64decode(undo["content"]))
        os.fchown(fd, undo["uid"], undo["gid"])
        os.fchmod(fd, undo["mode"])
        os.fsync(fd)
    finally:
        os.close(fd)
    new.replace(path)
