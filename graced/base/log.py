"""Log lines to the journal: the only importer of systemd-python.

A plain line goes to stderr with the kernel's ``<N>`` priority prefix, which systemd turns into PRIORITY=. A
record with fields or a MESSAGE_ID goes through journald's own socket; its client library is imported then, not
at boot. Programs log, library code raises.
"""

from __future__ import annotations

import os
import sys

ERR = 3
WARNING = 4
NOTICE = 5
INFO = 6
DEBUG = 7


def _journal_is_there() -> bool:
    return "JOURNAL_STREAM" in os.environ


def log(priority: int, message: str, message_id: str = "", **fields: object) -> None:
    """Write one record. `fields` become journal fields (upper-case names); without a journal they are appended."""
    line = message.replace("\n", " ")
    if (message_id or fields) and _journal_is_there():
        from systemd import journal

        extra = {name.upper(): str(value) for name, value in fields.items() if value is not None}
        if message_id:
            extra["MESSAGE_ID"] = message_id
        journal.send(message, PRIORITY=str(priority), SYSLOG_IDENTIFIER=identifier(), **extra)
        return
    if fields and not _journal_is_there():
        line += " " + " ".join(f"{name}={value}" for name, value in fields.items())
    prefix = f"<{priority}>" if _journal_is_there() else ""
    sys.stderr.write(f"{prefix}{line}\n")
    sys.stderr.flush()


def identifier() -> str:
    """The name this process logs under: the file name it was started from."""
    return os.path.basename(sys.argv[0]) or "graced"
