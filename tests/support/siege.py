"""What an attacker does inside a machine, and what it looks like from outside that nothing came of it.

Attackers are real accounts without capabilities, each attack a transient unit with that account. Never imports graced:
the one script that does, the thief's, runs inside.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.container import Container

KERNELS = ("supervisor", "infrastructure", "governance", "memory", "librarian", "verification", "healing", "code")
DAEMONS = tuple(f"_graced-{name}" for name in (*KERNELS, "exporter"))
IN_SUPERVISOR = ("Bus", "HTM", "Ledger")

# Whole content of these; of what a daemon may write there only what root made.
CONTENT = ("/etc", "/root", "/home", "/usr/local", "/usr/lib/graced", "/usr/share/graced", "/usr/lib/systemd/system")
CONTENT += ("/var/lib/graced/keys", "/var/lib/graced/keys-public", "/var/lib/graced/roster.json", "/var/spool/cron")
CONTENT += ("/var/lib/graced/actuator/lkg", "/run/systemd/system", "/run/graced")
# Only names, owners, modes, sizes and times.
NAMES = ("/usr/bin", "/usr/sbin", "/usr/lib/python3", "/var/www")
SHALLOW = ("/", "/var", "/var/lib", "/var/lib/graced", "/run", "/usr", "/boot", "/opt", "/srv")


def socket_of(interface: str) -> str:
    """The socket that serves an interface."""
    return f"/run/graced/io.graced.{'Supervisor' if interface in IN_SUPERVISOR else interface}"


def as_account(machine: Container, account: str, script: str, given: Any, timeout: float = 60.0) -> Any:
    """Runs Python as an account, in a unit of its own and without any capability; what it printed."""
    command = ["python3", "-I", "-c", script, json.dumps(given)]
    bounds = {"User": account, "CapabilityBoundingSet": "", "AmbientCapabilities": ""}
    return machine.unit(command, timeout=timeout, properties=bounds).json()


# argv[1]: [socket, method, parameters]; each on a connection of its own. Prints what was said.
ASK = """
import json, socket, sys
said = []
for path, method, parameters in json.loads(sys.argv[1]):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        try:
            sock.connect(path)
        except PermissionError:
            said.append({"error": "not even a connection"})
            continue
        sock.sendall(json.dumps({"method": method, "parameters": parameters}).encode() + b"\\0")
        data = b""
        while not data.endswith(b"\\0"):
            chunk = sock.recv(65536)
            assert chunk, (method, "closed")
            data += chunk
        said.append(json.loads(data[:-1]))
print(json.dumps(said))
"""

# argv[1]: what to go for. Prints what worked; nothing may.
ASSAULT = """
import ctypes, json, os, socket, subprocess, sys
goal = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
worked = []


def attempt(what, function, *arguments):
    try:
        function(*arguments)
    except OSError:
        return
    worked.append(what)


def succeed(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), "refused")


def bind(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def read(path):
    with open(path, "rb") as file:
        file.read(1)


def impersonate():
    # In a mount namespace of its own somebody can put what he likes over /run/graced; only he sees it.
    pid = os.fork()
    if pid == 0:
        if libc.unshare(0x10020000) == 0:
            libc.mount(b"/tmp", b"/run/graced", None, 0x1000, None)
        os._exit(0)
    os.waitpid(pid, 0)


for path in goal["files"]:
    attempt("open " + path, lambda p: os.close(os.open(p, os.O_WRONLY | os.O_APPEND)), path)
    attempt("chmod " + path, os.chmod, path, 0o666)
    attempt("rename " + path, os.rename, path, path + ".away")
for path in goal["sockets"]:
    attempt("unlink " + path, os.unlink, path)
    attempt("bind " + path, bind, path)
    attempt("chmod " + path, os.chmod, path, 0o666)
for path in goal["directories"]:
    attempt("create in " + path, lambda p: os.close(os.open(p + "/zz-attack.toml", os.O_CREAT | os.O_WRONLY)), path)
    attempt("link in " + path, os.symlink, "/etc/shadow", path + "/zz-link")
    attempt("bind in " + path, bind, path + "/zz-socket")
    attempt("rename " + path, os.rename, path, path + ".away")
    attempt("mount on " + path, lambda p: succeed(libc.mount(b"/tmp", p.encode(), None, 0x1000, None)), path)
for path in goal["secrets"]:
    attempt("read " + path, read, path)
    attempt("list " + path, os.listdir, path)
for pid in goal["pids"]:
    for number in (0, 18):
        attempt(f"signal {number} to {pid}", os.kill, pid, number)
    for name in ("mem", "environ", "maps", "fd/0", "root/etc"):
        attempt(f"read {name} of {pid}", read, f"/proc/{pid}/{name}")
    attempt(f"trace {pid}", lambda p: succeed(libc.ptrace(0x4206, p, None, None)), pid)
attempt("setuid", os.setuid, 0)
attempt("setgid", os.setgid, 0)
attempt("setgroups", os.setgroups, [0])
impersonate()
for command in goal["commands"]:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    if done.returncode == 0:
        worked.append(" ".join(command))
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    fields = "".join(f"{name}={value}\\n" for name, value in goal["record"].items() if "\\n" not in value).encode()
    for name, value in goal["record"].items():
        if "\\n" in value:
            fields += name.encode() + b"\\n" + len(value.encode()).to_bytes(8, "little") + value.encode() + b"\\n"
    sock.sendto(fields, "/run/systemd/journal/socket")
print(json.dumps(worked))
"""

# argv[1]: path, how. The owner of a file puts something else in its place, or ("back") its own content again.
SWAP = """
import json, os, shutil, sys
given = json.loads(sys.argv[1])
path, how = given["path"], given["how"]
kept, other = "/var/lib/redis/kept", path + ".other"
if how != "back":
    if not os.path.exists(kept):
        shutil.copyfile(path, kept)
    os.unlink(path)
if how == "link":
    os.symlink("/etc/shadow", path)
elif how == "name":
    with open(path, "w") as file:
        file.write("rubbish " * 100)
    os.chmod(path, 0o640)
    os.link(path, other)
elif how == "pipe":
    os.mkfifo(path)
elif how == "directory":
    os.mkdir(path)
else:
    os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o640)
    with open(kept, "rb") as old, open(fd, "wb") as new:
        new.write(old.read())
    os.chmod(path, 0o640)
    for name in os.listdir(os.path.dirname(path)):
        if name != os.path.basename(path):
            os.unlink(os.path.join(os.path.dirname(path), name))
print("null")
"""

# argv[1]: path. Swaps the file for a link or rubbish, as fast as it can, until the file "stop" is beside it.
RACE = """
import json, os, sys
path = json.loads(sys.argv[1])["path"]
here = os.path.dirname(path)
print("racing", flush=True)
turn = 0
while not os.path.exists(here + "/stop"):
    turn += 1
    new = f"{here}/.next"
    try:
        if turn % 3 == 0:
            os.symlink("/etc/shadow", new)
        elif turn % 3 == 1:
            os.symlink("/etc/passwd", new)
        else:
            with open(new, "w") as file:
                file.write(f"rubbish {turn} " * 50)
            os.chmod(new, 0o640)
        os.rename(new, path)
    except OSError:
        pass
"""

# argv[1]: sockets, how many calls. Holds connections, leaves messages half done, sends rubbish, and calls and calls.
FLOOD = """
import json, socket, sys
given = json.loads(sys.argv[1])
print("flooding", flush=True)
held, counts = [], {"refused": 0, "other": 0}


def connect(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(path)
    return sock


for path in given["sockets"] if "forged" not in given else ():
    for _ in range(40):
        try:
            held.append(connect(path))
            held[-1].sendall(b'{"method": "io.graced')
        except OSError:
            pass
forged = given.get("forged")
method = "io.graced.Actuator.Execute" if forged else "org.varlink.service.GetInfo"
for path in given["sockets"]:
    sock = None
    for _ in range(given["calls"]):
        try:
            if sock is None:
                sock = connect(path)
            sock.sendall(json.dumps({"method": method, "parameters": forged or {}}).encode() + b"\\0")
            data = b""
            while not data.endswith(b"\\0"):
                chunk = sock.recv(65536)
                if not chunk:
                    raise OSError("closed")
                data += chunk
            counts["refused" if "error" in json.loads(data[:-1]) else "other"] += 1
        except OSError:
            # The daemon has enough of us.
            counts["refused"] += 1
            sock = None
print(json.dumps(counts))
"""

# argv[1]: seed (hex), which cases to try. Signs warrants as Governance would and hands them to the actuator. A case:
# playbook, changes of a sound warrant, `key` (stolen, own, none), `edit` after the signature. Prints the replies.
THIEF = """
import hashlib, json, os, sys, time
sys.path.insert(0, "/usr/lib/python3/dist-packages")
from graced.base.json import canonical
from graced.trust.keys import Signer, encode_base64
from graced.varlink.client import Client
from graced.varlink.wire import VarlinkError

given = json.loads(sys.argv[1])
stolen, own = Signer(bytes.fromhex(given["seed"]), "governance", "t"), Signer(os.urandom(32), "governance", "t")


def digest(kind, name):
    for root in ("/etc/graced", "/usr/share/graced"):
        try:
            with open(f"{root}/{kind}/{name}.toml", "rb") as file:
                return hashlib.sha256(file.read()).hexdigest()
        except FileNotFoundError:
            continue
    return ""


def warrant(case):
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    unit, playbook = case.get("unit", "nginx.service"), case.get("playbook", "kill-and-restart")
    profile = unit.removesuffix(".service")
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip().replace("-", "")
    return {
        "v": 1, "task_id": "task_1", "intent_id": None, "unit": unit, "playbook": playbook,
        "playbook_digest": digest("playbooks", playbook), "profile": profile,
        "profile_digest": digest("profiles", profile), "steps": [0, 1, 2], "tier": 3, "boot_id": boot,
        "not_before_boottime_us": now, "not_after_boottime_us": now + 110_000_000, "nonce": os.urandom(16).hex(),
        "policy_rule": "none", "policy_digest": "none",
        **{name: now + value["now"] if isinstance(value, dict) else value for name, value in case["changes"].items()},
    }


said = []
with Client("/run/graced/io.graced.Actuator", 60.0) as client:
    for case in given["cases"]:
        parameters = case.get("parameters")
        if parameters is None:
            signer = own if case.get("key") in {"own", "forged"} else stolen
            paper = warrant(case)
            signature = encode_base64(signer.sign(b"graced-warrant-v1\\n", canonical(paper)))
            kid = own.kid if case.get("key") == "own" else stolen.kid
            parameters = {"warrant": {**paper, **case.get("edit", {})}, "kid": kid, "signature": signature}
        for _ in range(case.get("times", 1)):
            try:
                said.append(client.call("io.graced.Actuator.Execute", parameters))
            except VarlinkError as error:
                said.append({"error": error.name, **error.parameters})
print(json.dumps(said))
"""

# argv[1]: seed (hex), signer. Says with the stolen key that the attacker's own key follows it. Prints the reply.
USURP = """
import json, os, sys, time
sys.path.insert(0, "/usr/lib/python3/dist-packages")
from graced.trust.keys import SEAL_BYTES, Signer
from graced.trust.rotation import VALIDITY_SECONDS, make_rotation
from graced.varlink.client import Client
from graced.varlink.wire import VarlinkError

given = json.loads(sys.argv[1])
stolen = Signer(bytes.fromhex(given["seed"]), given["signer"], "t")
now_us = time.time_ns() // 1000
rotation, _key = make_rotation(stolen, os.urandom(SEAL_BYTES), now_us, VALIDITY_SECONDS, "root", 0, "x")
with Client("/run/graced/io.graced.Actuator", 60.0) as client:
    try:
        print(json.dumps(client.call("io.graced.Actuator.RotateKey", rotation.to_json())))
    except VarlinkError as error:
        print(json.dumps({"error": error.name, **error.parameters}))
"""

# Runs inside as root: Governance's private key, as somebody who stole key file and seal would have it.
STEAL = """
import sys
sys.path.insert(0, "/usr/lib/python3/dist-packages")
from graced.trust.keys import unseal_key
keys = "/var/lib/graced/keys/governance."
print(unseal_key(open(keys + "key", "rb").read(), open(keys + "seal", "rb").read())[1].hex())
"""


def start(machine: Container, account: str, script: str, given: Any) -> subprocess.Popen[str]:
    """As `as_account`, but goes on meanwhile; the caller ends it and reads what it printed."""
    run = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--property=User={account}"]
    command = [*run, "--property=CapabilityBoundingSet=", "--", "python3", "-I", "-c", script, json.dumps(given)]
    return machine.popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)


# argv[1]: path, text. Adds to a file, or puts one into a directory.
SCRIBBLE = """
import json, os, sys
given = json.loads(sys.argv[1])
path = given["path"]
with open(path + "/zz-mine.toml" if os.path.isdir(path) else path, "a") as file:
    file.write(given["text"])
print("null")
"""


@contextlib.contextmanager
def writable(machine: Container, path: str, account: str, text: str) -> Iterator[None]:
    """In the body everybody may write the file or directory at `path`, and an account has done so."""
    there = machine.path(path)
    mode, data = stat.S_IMODE(there.stat().st_mode), None if there.is_dir() else there.read_bytes()
    there.chmod(0o777 if data is None else 0o666)
    try:
        as_account(machine, account, SCRIBBLE, {"path": path, "text": text})
        yield
    finally:
        if data is None:
            (there / "zz-mine.toml").unlink(missing_ok=True)
        else:
            there.write_bytes(data)
        there.chmod(mode)


def lasting(machine: Container) -> list[str]:
    """The services that are there and stay: their processes are part of the fingerprint."""
    listed = machine.systemctl("list-units", "--type=service", "--state=loaded", "--plain", "--no-legend", "--full")
    passing = ("run-", "graced-actuator.", "graced-rescue.", "graced-watch@", "systemd-tmpfiles-clean.", "user")
    return sorted(line.split()[0] for line in listed.ok().stdout.splitlines() if not line.startswith(passing))


def fingerprint(machine: Container, units: list[str]) -> dict[str, str]:
    """What must be the same after an attack: files with owners and modes, mounts, and the state of `units`."""
    root = machine.path("")
    found: dict[str, str] = {}
    for place in (*CONTENT, *NAMES):
        for path in _below(root, place):
            found[str(path)[len(str(root)) :]] = _looks(path, content=place in CONTENT)
    for place in SHALLOW:
        names = sorted(name for name in os.listdir(f"{root}{place}") if not name.startswith("graced-trial-"))
        found[place + "/"] = " ".join([*names, _looks(root / place[1:], content=False)])
    lines = machine.path("/proc/1/mountinfo").read_text().splitlines()
    found["mounts"] = "\n".join(sorted(" ".join(line.split()[3:6]) for line in lines))
    properties = "--property=Id,ActiveState,MainPID,NRestarts,FragmentPath,DropInPaths,UnitFileState"
    for block in machine.systemctl("show", properties, *units).ok().stdout.split("\n\n"):
        found["unit " + next(line for line in block.splitlines() if line.startswith("Id="))[3:]] = block
    return found


def _below(root: Path, place: str) -> Iterator[Path]:
    start = root / place[1:]
    if not start.is_dir() or start.is_symlink():
        yield from [start] if os.path.lexists(start) else []
        return
    for directory, names, files in os.walk(start):
        names[:] = [name for name in names if name != "__pycache__"]
        yield from (type(root)(directory) / name for name in ("", *names, *files))


def _looks(path: Path, *, content: bool) -> str:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return "gone"
    text = f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid}"
    if stat.S_ISLNK(found.st_mode):
        return f"{text} -> {path.readlink()}"
    if stat.S_ISSOCK(found.st_mode):
        return f"{text} inode {found.st_ino}"
    if not stat.S_ISREG(found.st_mode):
        return text
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if content else ""
    return f"{text} {found.st_nlink} {found.st_size} {digest}"


def difference(before: dict[str, str], after: dict[str, str], but: tuple[str, ...] = ()) -> list[str]:
    """What differs, apart from keys that begin with one of `but`."""
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return [f"{name}: {before.get(name)} -> {after.get(name)}" for name in names if not name.startswith(but or ("\0",))]
