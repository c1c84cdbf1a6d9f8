"""A Debian in a virtual machine whose power can be cut: what a container cannot show, at fifty times the price.

QEMU without KVM, so that it runs anywhere. The root file system is an ext4 image made from a directory, written past
this machine's page cache (cache=none). A cut is SIGKILL to QEMU: all that the guest had only in its memory is lost,
as with real power; what it had handed to its disk is not, even where it never asked the disk to flush. So a test here
shows that what must be kept is written in time and in order by the guest, not what a disk does with its own cache.

Needs root, qemu-system-x86 and e2fsprogs. Never imports graced.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import image
from tests.support.container import Done

if TYPE_CHECKING:
    from typing import Self

PACKAGES = ("linux-image-cloud-amd64", "initramfs-tools", "udev")
DISK_BYTES = 3 << 30
BOOT_SECONDS = 900.0
# Only to be deleted by hand: what changes in _build() without a change of PACKAGES.
RECIPE = 1

# Runs commands for the test: one line of JSON in, one out. A command's input is empty.
AGENT = """\
import json, os, subprocess, time
while not os.path.exists("/dev/virtio-ports/testbed"):
    time.sleep(0.1)
port = open("/dev/virtio-ports/testbed", "r+b", buffering=0)
port.write(b'{"ready":true}\\n')
data = b""
while True:
    data += port.read(65536)
    while b"\\n" in data:
        line, _, data = data.partition(b"\\n")
        asked = json.loads(line)
        try:
            limit = asked["timeout"]
            done = subprocess.run(asked["argv"], stdin=subprocess.DEVNULL, capture_output=True, timeout=limit)
            code, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as late:
            code, out, err = 124, late.stdout or b"", b"too late"
        said = {"code": code, "out": out.decode(errors="replace"), "err": err.decode(errors="replace")}
        rest = json.dumps(said).encode() + b"\\n"
        while rest:
            rest = rest[port.write(rest):]
"""
AGENT_UNIT = """\
[Unit]
Description=testbed agent
[Service]
ExecStart=/usr/bin/python3 -I /usr/lib/testbed-agent
Environment=HOME=/root
[Install]
WantedBy=multi-user.target
"""
# Here a second is what a moment is elsewhere: no daemon is hung because it is slow.
PATIENCE = "[Service]\nWatchdogSec=300s\nTimeoutStartSec=900s\n"


@dataclass(frozen=True)
class Machine:
    """What a virtual machine is made of; the disk is the first of all boots and never written."""

    disk: Path
    kernel: Path
    initrd: Path

    @classmethod
    def of(cls, suite: str, deb: Path) -> Self:
        """Debian `suite` with `deb` installed; built when it is not there."""
        digest = hashlib.sha256(f"{RECIPE} {suite} {PACKAGES}".encode() + deb.read_bytes()).hexdigest()[:12]
        target = image.cache_dir() / f"vm-{suite}-{digest}"
        with image.locked(target):
            if not target.exists():
                for old in image.cache_dir().glob(f"vm-{suite}-*/"):
                    shutil.rmtree(old)
                _build(image.installed(suite, deb, PACKAGES), target)
        return cls(target / "disk.img", target / "vmlinuz", target / "initrd.img")


def _build(root: Path, target: Path) -> None:
    building = target.with_suffix(".new")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    tree = building / "root"
    image.copy(root, tree)
    (tree / "usr/lib/testbed-agent").write_text(AGENT)
    (tree / "etc/systemd/system/testbed-agent.service").write_text(AGENT_UNIT)
    image.chroot(tree, ["systemctl", "enable", "testbed-agent.service"])
    patience = tree / "etc/systemd/system/graced-.service.d/testbed.conf"
    patience.parent.mkdir(parents=True)
    patience.write_text(PATIENCE)
    (tree / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (tree / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
    (tree / "etc/hostname").write_text("vm\n")
    (tree / "var/log/journal").mkdir(exist_ok=True)
    for name in ("vmlinuz", "initrd.img"):
        (found,) = sorted((tree / "boot").glob(f"{name}-*"))
        shutil.copy(found, building / name)
    disk = building / "disk.img"
    with open(disk, "xb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(tree), str(disk)], check=True, stdin=subprocess.DEVNULL)
    shutil.rmtree(tree)
    building.rename(target)


@dataclass
class Vm:
    """One host with a disk of its own in the directory `where`, booted again and again. `acks` is a file that the
    guest writes through /dev/virtio-ports/acks: what is in it left the guest before its power was cut."""

    machine: Machine
    where: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _agent: socket.socket | None = field(default=None, init=False)
    _pending: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        self.disk = self.where / "disk.img"
        self.acks = self.where / "acks"
        self.console = self.where / "console"
        subprocess.run(["cp", "--sparse=always", str(self.machine.disk), str(self.disk)], check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def boot(self) -> None:
        """Power on; returns when the guest takes commands. AssertionError with the console when it does not."""
        path = self.where / "agent"
        path.unlink(missing_ok=True)
        # QEMU 7.2 spoils the flags in cmpxchg16b, which panics a kernel of Debian 13 now and then.
        command = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,cx16=off"]
        command += ["-m", "1024", "-smp", "2", "-display", "none", "-no-reboot", "-nic", "none"]
        command += ["-kernel", str(self.machine.kernel), "-initrd", str(self.machine.initrd)]
        command += ["-append", "root=/dev/vda rw console=ttyS0 panic=-1 systemd.show_status=no"]
        command += ["-drive", f"file={self.disk},if=virtio,format=raw,cache=none"]
        command += ["-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console"]
        command += ["-device", "virtio-serial"]
        command += ["-chardev", f"socket,id=agent,path={path},server=on,wait=off"]
        command += ["-device", "virtserialport,chardev=agent,name=testbed"]
        command += ["-chardev", f"file,id=acks,path={self.acks},append=on"]
        command += ["-device", "virtserialport,chardev=acks,name=acks"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + BOOT_SECONDS
        self._connect(path, deadline)
        self._answer(deadline)

    def _connect(self, path: Path, deadline: float) -> None:
        self._pending = b""
        self._agent = socket.socket(socket.AF_UNIX)
        while True:
            assert self._process is not None
            assert self._process.poll() is None, "QEMU has ended"
            assert time.monotonic() < deadline, "QEMU does not listen"
            try:
                self._agent.connect(os.fspath(path))
            except OSError:
                time.sleep(0.05)
            else:
                return

    def _answer(self, deadline: float) -> dict[str, Any]:
        assert self._agent is not None
        while b"\n" not in self._pending:
            self._agent.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self._agent.recv(1 << 16)
            except TimeoutError as error:
                raise AssertionError(f"no answer in time\n{self.report()}") from error
            assert data, f"the machine is gone\n{self.report()}"
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def run(self, argv: list[str], *, timeout: float = 600.0) -> Done:
        """Runs a command inside as root."""
        assert self._agent is not None
        self._agent.settimeout(30.0)
        self._agent.sendall(json.dumps({"argv": argv, "timeout": timeout}).encode() + b"\n")
        said = self._answer(time.monotonic() + timeout + 30.0)
        return Done(argv, said["code"], said["out"], said["err"])

    def sh(self, script: str, *, timeout: float = 600.0) -> Done:
        """Runs a shell script inside."""
        return self.run(["/bin/sh", "-ec", script], timeout=timeout)

    def wait(self, what: str, script: str, *, timeout: float = 900.0) -> None:
        """Runs a shell script inside until it succeeds."""
        done = self.sh(f"until ({script}) >/dev/null 2>&1; do sleep 0.5; done", timeout=timeout)
        if done.returncode:
            journal = self.sh("journalctl -q --no-pager -b -o short-monotonic | tail -n 150").stdout
            raise AssertionError(
                f"not within {timeout} s: {what}\n{self.sh(f'({script}) 2>&1 || :').stdout}\n{journal}"
            )

    def write(self, inside: str, text: str) -> None:
        """Writes a small file, and has it on the disk."""
        self.run(["python3", "-c", "import sys; open(sys.argv[1], 'w').write(sys.argv[2])", inside, text]).ok()
        self.run(["sync", inside]).ok()

    def cut(self) -> None:
        """The power is gone, now."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._agent is not None:
            self._agent.close()
            self._agent = None

    def poweroff(self) -> None:
        """An orderly end."""
        assert self._process is not None
        self.run(["systemctl", "--no-block", "poweroff"]).ok()
        self._process.wait(timeout=BOOT_SECONDS)
        self.cut()

    def report(self) -> str:
        """The end of the console."""
        return self.console.read_text(errors="replace")[-4000:] if self.console.exists() else "no console"
