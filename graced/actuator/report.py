"""Where people read about an act: the journal of the healed unit, and the terminals of whoever edited the
file.

Records carry OBJECT_SYSTEMD_UNIT=, so `journalctl -u UNIT` shows them. Telling a terminal is best effort
and never waits.
"""

from __future__ import annotations

import os

from graced.base.log import NOTICE, log
from graced.base.messages import CONFIG_REJECTED, HEAL_ACT, ROLLBACK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.base.json import JsonDict

_MAX_OUTPUT_CHARS = 2000
_OTHERS_MAY_WRITE = 0o020


def acted(unit: str, act: JsonDict) -> None:
    """One record for the whole act."""
    verbs = ", ".join(f"{step['verb']} {'ok' if step['ok'] else 'failed'}" for step in act["steps"])
    log(
        NOTICE,
        f"graced: {act['playbook']} on {unit}: {verbs}. Why and with which result: gracectl explain {act['task_id']}",
        HEAL_ACT,
        OBJECT_SYSTEMD_UNIT=unit,
        UNIT=unit,
        TASK_ID=act["task_id"],
        PLAYBOOK=act["playbook"],
        GRACED_TASK_ID=act["task_id"],
        GRACED_PLAYBOOK=act["playbook"],
        GRACED_ACT_ID=act["act_id"],
    )


def rejected(unit: str, act: JsonDict, path: str, kept: str, reason: str) -> None:
    """One record per rejected file: where it is now, why, and what to do."""
    words = reason[:_MAX_OUTPUT_CHARS]
    log(
        NOTICE,
        f"graced: {path} did not work for {unit} and was replaced by the last known good copy. The rejected file is "
        f"{kept}. Reason: {words} Correct that file and copy it back; the same content again within 10 minutes is "
        "left alone.",
        CONFIG_REJECTED,
        OBJECT_SYSTEMD_UNIT=unit,
        UNIT=unit,
        TASK_ID=act["task_id"],
        GRACED_TASK_ID=act["task_id"],
        GRACED_PLAYBOOK=act["playbook"],
        GRACED_PATH=path,
        GRACED_REJECTED=kept,
        GRACED_VALIDATOR=words,
    )


def rolled_back(unit: str, act_id: str, task_id: str, reason: str, problems: list[str]) -> None:
    """One record for an undo."""
    rest = f" Left alone: {'; '.join(problems)}" if problems else ""
    log(
        NOTICE,
        f"graced: the repair {act_id} of {unit} was undone: {reason}.{rest}",
        ROLLBACK,
        OBJECT_SYSTEMD_UNIT=unit,
        UNIT=unit,
        TASK_ID=task_id,
        GRACED_TASK_ID=task_id,
        GRACED_ACT_ID=act_id,
    )


def tell_editor(uid: int, text: str, terminals: Iterable[str] | None = None) -> int:
    """Write `text` to every terminal of account `uid` that accepts messages; how many took it.

    For uid 0 that is every terminal: who edited as root cannot be told from here. `terminals` are paths (None:
    all pseudo-terminals there are).
    """
    told = 0
    line = f"\r\n{text}\r\n".encode("ascii", "replace")
    for path in _pseudo_terminals() if terminals is None else terminals:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            status = os.fstat(fd)
            if uid in {0, status.st_uid} and status.st_mode & _OTHERS_MAY_WRITE and os.isatty(fd):
                os.write(fd, line)
                told += 1
        except OSError:
            # A full or vanished terminal: best effort.
            continue
        finally:
            os.close(fd)
    return told


def _pseudo_terminals() -> list[str]:
    try:
        return [f"/dev/pts/{name}" for name in os.listdir("/dev/pts") if name.isdigit()]
    except OSError:
        return []
