"""A host that goes from one release of Debian to the next with graced at work: systemd, Python and nginx are exchanged
under it, and it heals before, right after, and once it was started anew.

GRACED_NIGHTLY=1 in the environment adds the test; it fetches 70 MB.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from tests.bench.inside.names import UNITS
from tests.support import image
from tests.support.adopted import Adopted
from tests.support.container import Container

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = image.SUITES
UPGRADE_SECONDS = 900.0


def _about_to_be_upgraded(root: Path) -> None:
    """Everything that the next release brings is fetched, nothing is unpacked: the machine itself has no network."""
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    sources = root / "etc/apt/sources.list"
    sources.write_text(sources.read_text().replace(OLD, NEW))
    image.chroot(root, ["apt-get", "-qq", "update"])
    image.chroot(root, ["apt-get", "-qq", "--download-only", "full-upgrade"])


def _healed(machine: Container, nginx: Adopted) -> None:
    with nginx.healed():
        nginx.kill("KILL")
    assert machine.run(["gracectl", "status", "--json=short"]).json()["overall"] == "healthy"
    machine.run(["gracectl", "audit", "verify"]).ok()


def _a_host_goes_to_the_next_release(deb: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    try:
        image.copy(image.installed(OLD, deb), root)
        _about_to_be_upgraded(root)
        with Container(root) as machine:
            machine.systemctl("start", "graced.target").ok()
            nginx = Adopted(machine, "nginx")
            nginx.adopt()
            _healed(machine, nginx)
            upgrade = "apt-get -qq --no-download -o Dpkg::Options::=--force-confold full-upgrade"
            machine.sh(f"DEBIAN_FRONTEND=noninteractive {upgrade}", timeout=UPGRADE_SECONDS).ok()
            machine.sh("apt-get -qq --purge autoremove", timeout=UPGRADE_SECONDS).ok()
            assert machine.sh(". /etc/os-release; echo $VERSION_CODENAME").stdout.strip() == NEW
            _healed(machine, nginx)
            assert {machine.show(unit, "NRestarts")["NRestarts"] for unit in UNITS} == {"0"}
            machine.systemctl("restart", "graced.target").ok()
            _healed(machine, nginx)
            assert not machine.complaints()
    finally:
        shutil.rmtree(root, ignore_errors=True)


if os.environ.get("GRACED_NIGHTLY") == "1":
    test_a_host_goes_to_the_next_release = _a_host_goes_to_the_next_release
