"""How long and how much the queue keeps, where the ledger's heads go: the supervisor's options.

The work is in graced.supervisor.housekeeping and graced.supervisor.anchors.
"""

from __future__ import annotations

from graced.base.config import Option
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.config import Config

OPTIONS = (
    Option(
        "supervisor",
        "keep_finished_seconds",
        "duration_s",
        604800.0,
        "How long the queue keeps a finished task; older ones are in archive/ beside the queue.",
        low=60,
        high=315360000,
    ),
    Option(
        "supervisor",
        "keep_finished_count",
        "int",
        100_000,
        "How many done or cancelled tasks the queue keeps, and as many failed or dead ones; more under load.",
        low=100,
        high=100_000_000,
    ),
    Option(
        "supervisor",
        "archive_max_bytes",
        "size_bytes",
        256 << 20,
        "Size of the archive; the oldest of its files are deleted beyond it.",
        low=1 << 20,
    ),
    Option(
        "supervisor",
        "ledger_keep_entries",
        "int",
        200_000,
        "How many entries the ledger's database keeps at least; older ones are in ledger-archive/ beside it.",
        low=1000,
        high=1_000_000_000,
        reloadable=False,
    ),
    Option(
        "supervisor",
        "ledger_anchor_file",
        "str",
        "",
        "A file, best on another disk, that gets the ledger's signed heads beside the journal.",
        reloadable=False,
    ),
    Option(
        "supervisor",
        "ledger_anchor_url",
        "str",
        "",
        "An http or https address that gets the newest signed head by POST.",
        reloadable=False,
    ),
)


class Keep(Record):
    """The limits; see OPTIONS."""

    seconds: float = 604800.0
    count: int = 100_000
    archive_max_bytes: int = 256 << 20

    @classmethod
    def of(cls, config: Config) -> Keep:
        """From the configuration."""
        return cls(
            seconds=config["keep_finished_seconds"],
            count=config["keep_finished_count"],
            archive_max_bytes=config["archive_max_bytes"],
        )
