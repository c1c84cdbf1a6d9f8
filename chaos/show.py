"""What people see: the table at the end, and graced's own words while it heals."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from chaos import journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TextIO

    from chaos.journal import Record

NOTICE = 5
WIDTH = 118
INDENT = " " * 27
# What the supervisor and Infrastructure say has its stage from what it is; the others have one each.
EVENTS = {journal.INCIDENT_OPENED: "detected", journal.INCIDENT_CLOSED: "closed"}
STAGES = {
    "graced-infrastructure.service": "observed",
    "graced-governance.service": "decided",
    "graced-healing.service": "healing",
    "graced-actuator.service": "repaired",
    "graced-verification.service": "verified",
}
COLOURS = {"systemd": "2", "detected": "33", "decided": "36", "repaired": "34", "verified": "32", "closed": "1;32"}
RED, GREEN, BOLD, DIM = "31", "32", "1", "2"


class Paint:
    """Colour for a terminal, nothing at all for a file or a pipe."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def __call__(self, text: str, code: str | None) -> str:
        """`text` in the SGR colour `code`."""
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code else text


class Live:
    """Prints what systemd and graced say about one unit, with the ms since the fault. A listener for Follower.

    The fault's own stamp is only known when it was made, so what comes earlier is held back until `begin`.
    """

    def __init__(self, out: TextIO, paint: Paint) -> None:
        self._out = out
        self._paint = paint
        self._unit = ""
        self._since_us = 0
        self._held: list[Record] = []

    def expect(self, unit: str) -> None:
        """The next fault will be on `unit`."""
        self._unit, self._since_us = unit, 0
        self._held.clear()

    def begin(self, since_us: int) -> None:
        """The fault was made."""
        self._since_us = since_us
        held, self._held = self._held, []
        for record in held:
            self(record)

    def __call__(self, record: Record) -> None:
        """One record of the journal."""
        if not self._since_us:
            self._held.append(record)
        elif journal.stamp_us(record) >= self._since_us and about(record, self._unit):
            self._print(record)

    def _print(self, record: Record) -> None:
        stage = stage_of(record)
        elapsed_ms = (journal.stamp_us(record) - self._since_us) / 1000
        text = journal.message(record).removeprefix("graced: ")
        first, *rest = textwrap.wrap(text, WIDTH - len(INDENT)) or [""]
        line = f"  {elapsed_ms:>+9.1f} ms  {self._paint(f'{stage:<10}', COLOURS.get(stage))}  {first}"
        print("\n".join([line, *(INDENT + one for one in rest)]), file=self._out, flush=True)


def about(record: Record, unit: str) -> bool:
    """Whether systemd or a daemon of graced says something worth a line about `unit`."""
    if record.get("_PID") == "1":
        told = int(record.get("PRIORITY", 7)) <= NOTICE or record.get("MESSAGE_ID") == journal.STARTED
        return record.get("UNIT") == unit and told
    if not str(record.get("_SYSTEMD_UNIT", "")).startswith("graced-") or int(record.get("PRIORITY", 7)) > NOTICE:
        return False
    if record.get("MESSAGE_ID") == journal.ANOMALY:
        # The opening of the incident says the same, earlier.
        return False
    subjects = {record.get(key) for key in ("_SYSTEMD_UNIT", "UNIT", "GRACED_UNIT", "OBJECT_SYSTEMD_UNIT")}
    return unit in subjects or unit in journal.message(record)


def stage_of(record: Record) -> str:
    """Who speaks, as the part it has in a heal."""
    if record.get("_PID") == "1":
        return "systemd"
    service = str(record.get("_SYSTEMD_UNIT", ""))
    event = EVENTS.get(str(record.get("MESSAGE_ID")))
    return event or STAGES.get(service, service.removeprefix("graced-").removesuffix(".service"))


def milliseconds(value: object) -> str:
    """A duration for people; what is not known is a dash."""
    return f"{value:.1f} ms" if isinstance(value, float) else "-"


def table(rows: Sequence[dict[str, object]], paint: Callable[[str, str | None], str], first: Iterable[str] = ()) -> str:
    """The rows as `Row.to_json` gives them, one line each; `first` names extra columns for the left."""
    keys = [*first, "unit", "fault"]
    head = [*(key.upper() for key in keys), "DETECTED", "HEALED", "BOOT", "LIMIT", "RESULT"]
    body = [
        [
            *(str(row[key]) for key in keys),
            *(milliseconds(row[key]) for key in ("detected_ms", "healed_ms", "boot_ms")),
            f"{row['limit_ms']:.0f} ms",
            result(row),
        ]
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head) - 1)]
    lines = []
    for cells, row in zip([head, *body], [None, *rows], strict=True):
        text = "  ".join(
            cell.ljust(width) if column < len(keys) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=False))
        )
        code = BOLD if row is None else GREEN if row["passed"] else RED
        lines.append(f"{text}  {paint(cells[-1], code)}")
    passed = sum(row["passed"] is True for row in rows)
    lines.append(paint(f"{passed} of {len(rows)} healed in time", GREEN if passed == len(rows) else RED))
    return "\n".join(lines)


def result(row: dict[str, object]) -> str:
    """The last cell: who healed it, or what is wrong."""
    if row["passed"]:
        return f"ok, {row['by']}"
    return f"FAILED: {row['error'] or 'too late'}"
