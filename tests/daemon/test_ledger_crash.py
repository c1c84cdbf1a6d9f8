"""A real process serves io.graced.Ledger, is killed under load, again and again: nothing acknowledged is lost.

GRACED_NIGHTLY=1 in the environment makes it 200 kills.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from graced.base.errors import GracedError
from graced.cli.auditing import audit_database
from graced.trust.keys_tool import make_development_keys
from graced.varlink.client import Client
from graced.varlink.wire import VarlinkError

NOW = "2026-01-01T00:00:00.000Z"
LIMIT_SECONDS = 60.0
KILLS = 200 if os.environ.get("GRACED_NIGHTLY") == "1" else 25
REPOSITORY = str(Path(__file__).resolve().parents[2])
SERVER = """
import sys
from types import SimpleNamespace
from graced.base.clock import SystemClock
from graced.base.paths import Paths
from graced.runtime.loop import Loop
from graced.runtime.service import Service, listen_unix
from graced.supervisor.anchors import Anchors
from graced.supervisor.background import Background
from graced.supervisor.ledger import LedgerInterface
loop, paths = Loop(), Paths()
service = Service(loop, "ledger", "0", paths.share)
kernel = SimpleNamespace(loop=loop, paths=paths, service=service, clock=SystemClock())
ledger = LedgerInterface.for_kernel(kernel)
anchors = Anchors(loop, ledger.writer, {"ledger_anchor_file": f"{paths.lib}/heads", "ledger_anchor_url": ""})
anchors.on_answer = lambda found: print(found.answer, flush=True)
ledger.on_checkpoint = lambda _size, note: anchors.put(note)
ledger.keep_house(Background(loop), 1000)
service.add(ledger)
service.listen(listen_unix(paths.socket("io.graced.Ledger")))
print("ready", flush=True)
loop.spawn(anchors.check())
loop.run()
"""


def start(root: Path) -> subprocess.Popen[str]:
    env = {key: value for key, value in os.environ.items() if key not in {"INVOCATION_ID", "STATE_DIRECTORY"}}
    env.pop("CREDENTIALS_DIRECTORY", None)
    env |= {"GRACED_LIB": str(root / "lib"), "GRACED_RUN": str(root / "run"), "PYTHONPATH": REPOSITORY}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir(mode=0o755)
    make_development_keys(str(tmp_path / "lib"), NOW)
    return tmp_path


def socket_of(root: Path) -> str:
    return str(root / "run" / "io.graced.Supervisor")


def test_nothing_acknowledged_is_lost(root: Path) -> None:
    acknowledged: dict[int, int] = {}
    number = 0
    for kill_after in (1, 7, 40, 90, 150, 260):
        process = start(root)
        try:
            with Client(socket_of(root), timeout_s=LIMIT_SECONDS) as client:
                for sent in range(kill_after + 20):
                    if sent == kill_after:
                        process.send_signal(signal.SIGKILL)
                    try:
                        reply = client.call(
                            "io.graced.Ledger.Append",
                            {"kind": "step", "data": {"n": number}, "task_id": f"task_{number}"},
                        )
                    except GracedError:
                        break
                    acknowledged[reply["seq"]] = number
                    number += 1
        finally:
            process.kill()
            process.wait(LIMIT_SECONDS)
            assert process.stdout is not None
            process.stdout.close()
    process = start(root)
    try:
        with Client(socket_of(root), timeout_s=LIMIT_SECONDS) as client:
            for seq, value in acknowledged.items():
                (entry,) = client.call("io.graced.Ledger.Read", {"start": seq, "count": 1})["entries"]
                assert (entry["seq"], entry["data"]) == (seq, {"n": value})
            found = client.call("io.graced.Ledger.Find", {"task_id": "task_0"})["entries"]
            assert [entry["data"] for entry in found] == [{"n": 0}]
            assert client.call("io.graced.Ledger.Head")["size"] > max(acknowledged)
            assert {key["state"] for key in client.call("io.graced.Ledger.Keys")["keys"]} == {"current"}
            for bad in (
                {"kind": "task", "data": {}},
                {"kind": "nonsense", "data": {}},
                {"kind": "warrant", "data": {}},
                {"kind": "step", "data": {"x": "y" * 66000}},
                {"kind": "step"},
            ):
                with pytest.raises(VarlinkError):
                    client.call("io.graced.Ledger.Append", bad)
        live = audit_database(
            str(root / "lib/supervisor/ledger.db"), str(root / "lib/roster.json"), owners=(0, os.getuid())
        )
        assert live.ok, live
        assert live.entries > len(acknowledged) > 500
    finally:
        process.kill()
        process.wait(LIMIT_SECONDS)
        assert process.stdout is not None
        process.stdout.close()


def test_a_kill_is_never_taken_for_an_attack(root: Path) -> None:
    """Killed at any moment, also while it starts, signs or copies its log: no answer but that all is well."""
    dice = random.Random(7)
    files = str(root / "lib/supervisor/ledger.db"), str(root / "lib/roster.json")
    anchor_file = str(root / "lib/heads")
    entries = anchors = 0
    for number in range(KILLS):
        process = start(root)
        assert process.stdout is not None
        killer = threading.Timer(dice.choice((0.0, 0.02, 0.1, 0.3, 1.1)) * dice.random(), process.kill)
        # every other one is sure to have written something, however slow the machine is
        first = 3 if number % 2 else 0
        if not first:
            killer.start()
        try:
            with Client(socket_of(root), timeout_s=LIMIT_SECONDS) as client:
                for sent in itertools.count(1):
                    client.call("io.graced.Ledger.Append", {"kind": "step", "data": {"n": "x" * dice.randrange(900)}})
                    if sent == first:
                        killer.start()
        except GracedError:
            pass
        killer.join()
        process.wait(LIMIT_SECONDS)
        answer = process.stdout.read().strip()
        process.stdout.close()
        # what it found when it started: what was there before
        assert answer in ({"", "agrees"} if anchors else {"", "none", "unread", "agrees"})
        report = audit_database(*files, owners=(0, os.getuid()), anchor_file=anchor_file)
        assert report.ok, report
        assert report.anchor == ("agrees" if report.anchors else "none")
        assert report.entries >= entries
        entries, anchors = report.entries, report.anchors
    assert anchors
    assert entries > KILLS
