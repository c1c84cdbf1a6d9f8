"""What every bench gets: how long it may take, and machines that see the measuring scripts."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import image
from tests.support.container import Container

if TYPE_CHECKING:
    from collections.abc import Iterator

INSIDE = Path(__file__).parent / "inside"
WHERE = "/srv/bench"
STATE = "/var/lib/graced"
DISK = "/srv/disk"


@dataclass(frozen=True)
class Bench:
    """One run of `make bench`. `quick` is for developing the benches: too few repetitions for a figure."""

    deb: Path
    suite: str
    quick: bool
    idle_seconds: int

    def times(self, full: int, quick: int) -> int:
        """How often to repeat."""
        return quick if self.quick else full

    def machine(self, *, binds: dict[Path, str] | None = None, base: Path | None = None) -> Container:
        """A machine with graced (or the image `base`) that sees the scripts; not started."""
        root = base or image.installed(self.suite, self.deb)
        return Container(root, binds={INSIDE: f"{WHERE}/inside", **(binds or {})})

    @contextlib.contextmanager
    def bare(self) -> Iterator[Container]:
        """A machine that runs, on a disk of its own as a host has: no mounts of the bench, no overlay, no state in RAM.

        systemd reads every mount, and all that is said of it, some 30 times for a sandbox.
        """
        source = image.installed(self.suite, self.deb)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=image.cache_dir()) as work:
            root = Path(work) / "root"
            image.copy(source, root)
            with Container(root, calm=False, volatile=False) as machine:
                shutil.copytree(INSIDE, machine.path(f"{WHERE}/inside"))
                yield machine


@contextlib.contextmanager
def on_disk(*daemons: str) -> Iterator[tuple[dict[Path, str], str]]:
    """State directories, and DISK for the measuring scripts, on this machine's disk, and what file system that is."""
    Path("build").mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="bench-disk-", dir=Path("build").resolve()))
    try:
        binds = {root / name: f"{STATE}/{name}" for name in daemons} | {root / "disk": DISK}
        for path in binds:
            path.mkdir()
        command = ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(root)]
        kind = subprocess.run(command, capture_output=True, text=True, check=True)
        yield binds, kind.stdout.strip()
    finally:
        shutil.rmtree(root)


def inside(
    machine: Container, module: str, *arguments: str, timeout: float, user: str | None = None, modules: str = ""
) -> Any:
    """Runs a measuring script as a unit of its own inside; its answer. AssertionError says why there is none.

    `modules` is a directory inside with Python modules that it may import.
    """
    properties = {"WorkingDirectory": WHERE} | ({"User": user} if user else {})
    properties |= {"Environment": f"PYTHONPATH={modules}"} if modules else {}
    command = ["python3", "-B", "-m", f"inside.{module}", *arguments]
    done = machine.unit(command, timeout=timeout, properties=properties)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}{machine.report()}")
    return json.loads(done.stdout.splitlines()[-1])


def adopt(machine: Container, *names: str) -> None:
    """Starts graced and the daemons, and adopts them."""
    machine.systemctl("start", "graced.target", *(f"{name}.service" for name in names)).ok()
    for name in names:
        machine.run(["gracectl", "adopt", name]).ok()
