"""A host that is booted more than once: what a container keeps on a real disk, and its boots one after the other.

/etc, graced's state and the journal are kept; the rest is thrown away at each end, as ever. Never imports graced.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support import image
from tests.support.container import Container

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

KEPT = {"etc": "/etc", "graced": "/var/lib/graced", "journal": "/var/log/journal"}


@dataclass(frozen=True)
class Disk:
    """What is kept of a host made from `root`."""

    root: Path
    where: Path

    @classmethod
    def of(cls, root: Path, where: Path) -> Self:
        """A fresh one in the empty directory `where`, with a machine-id of its own."""
        image.copy(root / "etc", where / "etc")
        (where / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        for name in ("graced", "journal"):
            (where / name).mkdir(mode=0o755)
        return cls(root, where)

    def boot(self) -> Container:
        """The host's next boot: a container to enter. Its `stop()` is a hard kill, `poweroff()` an orderly end."""
        return Container(self.root, binds={self.where / name: inside for name, inside in KEPT.items()})
