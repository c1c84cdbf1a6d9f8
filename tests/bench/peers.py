"""What runs nginx elsewhere, with the same corrupted configuration: systemd alone, supervisord, monit, from Debian."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tests.bench.bench import Bench, inside
from tests.bench.figures import Figure, figure
from tests.support import image

PACKAGES = ("supervisor", "monit")
DENY = "#!/bin/sh\nexit 101\n"


def peers(bench: Bench) -> list[Figure]:
    """How often a client was served again within the time watched."""
    seconds = bench.times(30, 8)
    with bench.machine(base=_image(bench.suite)) as machine:
        found = inside(machine, "peers", str(seconds), timeout=300)
    return [
        figure(
            f"peer_{one['peer']}_served_again",
            "answers",
            [float(one["answers"])],
            goal="comparison: never",
            ok=one["answers"] == 0,
            note=f"{one['way']}, watched {one['watched_s']:.0f} s; "
            f"a killed nginx it brings back in {one['kill_ms']:.0f} ms",
        )
        for one in found
    ]


def _image(suite: str) -> Path:
    """The base image with the peers installed, none of them enabled."""
    base = image.base(suite)
    key = hashlib.sha256(" ".join([base.name, *PACKAGES]).encode()).hexdigest()[:12]
    target = image.cache_dir() / f"peers-{suite}-{key}"
    if not target.exists():
        with image.locked(target):
            if not target.exists():
                building = target.with_suffix(".new")
                shutil.rmtree(building, ignore_errors=True)
                image.copy(base, building)
                _install(building)
                building.rename(target)
    return target


def _install(root: Path) -> None:
    # In a directory tree nothing may start: what starts there runs on this machine.
    deny, settings = root / "usr/sbin/policy-rc.d", root / "etc/apt/apt.conf.d/99bench"
    deny.write_text(DENY)
    deny.chmod(0o755)
    settings.write_text("".join(f"{line.removeprefix('--aptopt=')}\n" for line in image._apt_options()))
    image.chroot(root, ["apt-get", "update", "-qq"])
    image.chroot(root, ["apt-get", "install", "-qq", "--no-install-recommends", *PACKAGES])
    image.chroot(root, ["systemctl", "disable", "supervisor", "monit"])
    for path in (deny, settings):
        path.unlink()
