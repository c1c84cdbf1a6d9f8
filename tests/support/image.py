"""Debian images for the testbed, built once and cached outside the checkout.

Two layers per suite: a base (Debian, the adopted daemons and everything graced depends on, keyed by the package
list) and, on top, the installed .deb (keyed by its content). Images are never booted writable, so they stay as built.
Needs root. Used by the container module, the package tests and the make targets.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SUITES = ("bookworm", "trixie")
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "procps", "iproute2", "curl", "adduser"),
    *("nginx", "redis-server"),
    *("python3", "python3-click", "python3-jeepney", "python3-nacl", "python3-prometheus-client", "python3-psutil"),
    *("python3-sdnotify", "python3-systemd"),
)
# Only to be deleted by hand: what changes in build_base() without a change of PACKAGES.
RECIPE = 1
KEEP_LAYERS = 8


def cache_dir() -> Path:
    """Where images live: $GRACED_TESTBED or /var/cache/graced-testbed."""
    path = Path(os.environ.get("GRACED_TESTBED", "/var/cache/graced-testbed"))
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Holds a lock file beside `path`."""
    with open(f"{path}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def _base_path(suite: str) -> Path:
    key = hashlib.sha256(" ".join([str(RECIPE), suite, *PACKAGES]).encode()).hexdigest()[:12]
    return cache_dir() / f"base-{suite}-{key}"


def is_built(suite: str) -> bool:
    """Whether the base image is there already: building it takes a while."""
    return _base_path(suite).exists()


def base(suite: str) -> Path:
    """The directory of the base image of `suite`; builds it when it is not there."""
    target = _base_path(suite)
    # Who finds it needs no lock: a machine that is up holds it, and the next one is not to wait for its end.
    if not target.exists():
        with locked(target):
            if not target.exists():
                _build_base(suite, target)
    return target


def extended(suite: str, packages: tuple[str, ...]) -> Path:
    """The directory of a base image with more Debian packages, whose daemons do not start by themselves."""
    below = base(suite)
    key = hashlib.sha256(" ".join([below.name, *packages]).encode()).hexdigest()[:12]
    target = cache_dir() / f"base-{suite}-{key}"
    with locked(target):
        if not target.exists():
            building = target.with_suffix(".new")
            shutil.rmtree(building, ignore_errors=True)
            copy(below, building)
            shutil.copy("/etc/resolv.conf", building / "etc" / "resolv.conf")
            policy = building / "usr" / "sbin" / "policy-rc.d"
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
            chroot(building, ["apt-get", "-qq", "update"])
            chroot(building, ["apt-get", "-qq", "install", "--no-install-recommends", *packages])
            chroot(building, ["apt-get", "clean"])
            policy.unlink()
            for package in packages:
                if (building / "usr/lib/systemd/system" / f"{package}.service").exists():
                    chroot(building, ["systemctl", "disable", package])
            building.rename(target)
    return target


def installed(suite: str, deb: Path, packages: tuple[str, ...] = ()) -> Path:
    """The directory of an image with `deb` installed, as an administrator would in a chroot, beside `packages`."""
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()[:12]
    below = extended(suite, packages) if packages else base(suite)
    target = cache_dir() / f"graced-{below.name.removeprefix('base-')}-{digest}"
    if not target.exists():
        with locked(target):
            if not target.exists():
                _forget_old(suite)
                building = target.with_suffix(".new")
                shutil.rmtree(building, ignore_errors=True)
                copy(below, building)
                install(building, deb)
                building.rename(target)
    os.utime(target)
    return target


def copy(image: Path, to: Path) -> None:
    """A full copy of an image, sharing blocks where the file system can."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(image), str(to)], check=True)


def install(root: Path, deb: Path) -> None:
    """Installs `deb` into the directory tree `root` with dpkg alone: the base holds every dependency."""
    inside = root / "tmp" / deb.name
    shutil.copy(deb, inside)
    try:
        chroot(root, ["dpkg", "--install", f"/tmp/{deb.name}"])
    finally:
        inside.unlink()


def chroot(root: Path, argv: list[str]) -> str:
    """Runs a command in a directory tree, without systemd; returns its output, raises with it when it fails."""
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    done = subprocess.run(
        ["chroot", str(root), *argv],
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"{argv} in {root}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def _build_base(suite: str, target: Path) -> None:
    building = target.with_suffix(".new")
    shutil.rmtree(building, ignore_errors=True)
    command = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        # No daemon of the image starts unless a test says so.
        "--customize-hook=chroot $1 systemctl disable nginx redis-server",
        "--customize-hook=rm -f $1/etc/machine-id && : > $1/etc/machine-id",
        "--customize-hook=rm -rf $1/var/cache/apt/archives $1/usr/share/doc/*",
        # Every line counts in a test, so none is dropped.
        "--customize-hook=mkdir -p $1/etc/systemd/journald.conf.d",
        r"--customize-hook=printf '[Journal]\nRateLimitIntervalSec=0\n' > $1/etc/systemd/journald.conf.d/testbed.conf",
        *_apt_options(),
        suite,
        str(building),
        _mirror(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        shutil.rmtree(building, ignore_errors=True)
        raise AssertionError(f"mmdebstrap {suite}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    building.rename(target)


def _mirror() -> str:
    """The Debian mirror this machine uses itself, so that a proxy or a local mirror is honoured."""
    if "GRACED_MIRROR" in os.environ:
        return os.environ["GRACED_MIRROR"]
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    )
    for uri in done.stdout.split():
        if uri.rstrip("/").endswith("/debian"):
            return uri
    return "http://deb.debian.org/debian"


def _apt_options() -> list[str]:
    """Proxy and validity settings of this machine's apt, for the apt that fills the image."""
    done = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True)
    wanted = ("Acquire::http::Proxy ", "Acquire::https::Proxy ", "Acquire::Check-Valid-Until ", "Acquire::Check-Date ")
    return [f"--aptopt={line}" for line in done.stdout.splitlines() if line.startswith(wanted)]


def _forget_old(suite: str) -> None:
    """Removes package layers that nobody builds or uses, but the newest. Lock files stay: others may wait on them."""
    layers = [path for path in cache_dir().glob(f"graced-{suite}-*") if path.is_dir()]
    layers.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for layer in layers[KEEP_LAYERS:]:
        # A layer being built has the lock of what it will be.
        with open(f"{layer.with_suffix('')}.lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(layer)
