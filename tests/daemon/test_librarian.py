"""Memory and Librarian as real processes: a file dropped into the inbox is found, and nothing acknowledged is lost."""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time

import pytest

from graced.base.errors import WireError
from graced.varlink.client import Client
from graced.varlink.wire import VarlinkError
from tests.support.healthy import Healthy

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TEXT = """# Restarting nginx

When the worker crashed, first read the last lines of its journal and note the signal. Then test the configuration as
the account the daemon runs under, because a file that only root can read is a common reason for a failed reload.
If the check passes, restart the unit and look at both the status page and the error log for one quiet minute.
A certificate that expired overnight shows up here too; renew it before anything else and tell whoever owns the name.
"""
LIMIT_S = 60.0
ANSWER_SECONDS = 0.1


class Host:
    """Daemons of one test, in directories of their own; every one is ended at the end."""

    def __init__(self, base):
        self.inbox = base / "lib" / "inbox"
        self.inbox.mkdir(parents=True)
        (base / "etc").mkdir()
        self.config = base / "etc" / "graced.toml"
        self.run = base / "run"
        self.env = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ROOT,
            "GRACED_RUN": str(self.run),
            "GRACED_LIB": str(base / "lib"),
            "GRACED_ETC": str(base / "etc"),
            "GRACED_SHARE": f"{ROOT}/graced/share",
            "PYTHONWARNINGS": "error",
        }
        self.processes = {}

    def start(self, name):
        """Start a daemon and wait until it answers (its socket is bound just before READY)."""
        process = subprocess.Popen(
            [sys.executable, "-c", f"from graced.kernels.{name} import main; main()"],
            env=self.env,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes[name] = process
        self.until(lambda: self.answers(name))
        return process

    def answers(self, name):
        assert self.processes[name].poll() is None, self.processes[name].stderr.read()
        try:
            return self.call(f"io.graced.{name.title()}", "org.varlink.service.GetInfo", {})
        except WireError:
            return None

    def call(self, interface, method, parameters):
        with Client(str(self.run / interface), timeout_s=LIMIT_S) as client:
            return client.call(method, parameters)

    def memory(self, method, **parameters):
        return self.call("io.graced.Memory", f"io.graced.Memory.{method}", parameters)

    def librarian(self, method, **parameters):
        return self.call("io.graced.Librarian", f"io.graced.Librarian.{method}", parameters)

    def healthy(self, name, method):
        """A client of a daemon that is answered all the time."""
        interface = f"io.graced.{name.title()}"
        calls = [(f"{interface}.{method}", {})]
        return Healthy(str(self.run / interface), self.processes[name].pid, calls, ANSWER_SECONDS)

    def until(self, condition):
        """Ask again until it is true; the pause is a poll, the limit a failure."""
        end = time.monotonic() + LIMIT_S
        while not (found := condition()):
            assert time.monotonic() < end, "it did not happen in time"
            select.select([], [], [], 0.02)
        return found

    def kill(self, name):
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)
        process.stderr.close()

    def stop(self, name):
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=LIMIT_S)
        return process.returncode, errors

    def drop(self, name, data):
        """A file as tools write it: under another name first, then moved into place."""
        hidden = self.inbox / f".{name}"
        hidden.write_bytes(data)
        hidden.rename(self.inbox / name)


@pytest.fixture
def host(tmp_path):
    made = Host(tmp_path)
    yield made
    for name in list(made.processes):
        made.kill(name)


def test_a_dropped_file_is_found_by_its_words(host):
    host.start("memory")
    host.start("librarian")
    host.drop("runbook.md", TEXT.encode())
    (hit,) = host.until(lambda: host.memory("Search", query="why did the worker crash?")["hits"])
    assert (hit["title"], hit["heading"]) == ("Restarting nginx", "Restarting nginx")
    host.until(lambda: host.librarian("Status")["waiting"] == 0)
    assert [path.name for path in (host.inbox / ".taken").iterdir()] == ["runbook.md"]
    (document,) = host.memory("Documents")["documents"]
    assert document["uid"] == document["provenance"]["uid"] == os.getuid()
    assert document["provenance"]["package"] is None
    assert document["provenance"]["quality"]["total"] == document["score"] >= 0.5
    (item,) = host.librarian("Intake")["items"]
    assert (item["verdict"], item["sha256"]) == ("accepted", document["digest"])
    assert host.stop("librarian") == (0, "")
    assert host.stop("memory") == (0, "")


def test_refused_files_keep_their_reason(host, tmp_path):
    host.config.write_text('[librarian]\nmax_bytes = "2K"\n')
    (tmp_path / "secret").write_text(TEXT)
    host.start("memory")
    host.start("librarian")
    host.drop("program", b"\x7fELF and so on")
    host.drop("noise.txt", random.Random(1).randbytes(300).hex().encode())
    host.drop("large.txt", b"word " * 1000)
    (host.inbox / "link.txt").symlink_to(tmp_path / "secret")
    host.librarian("Scan")
    host.until(lambda: host.librarian("Status")["rejected"] == 4)
    reasons = {item["path"].rsplit("/", 1)[1]: item["reason"] for item in host.librarian("Intake")["items"]}
    assert "ELF" in reasons["program"]
    assert "below the threshold" in reasons["noise.txt"]
    assert reasons["large.txt"] == "5000 bytes, at most 2048 are taken"
    assert "cannot be opened" in reasons["link.txt"]
    host.until(lambda: len(list((host.inbox / ".rejected").iterdir())) == 8)
    assert "ELF" in (host.inbox / ".rejected" / "program.reason").read_text()
    assert host.memory("Stats")["stats"]["documents"] == 0
    code, errors = host.stop("librarian")
    assert code == 0
    assert errors.count("was refused") == 4


def test_files_wait_while_memory_is_away_and_for_the_librarian(host):
    host.drop("early.md", TEXT.encode())
    os.utime(host.inbox / "early.md", (1_700_000_000, 1_700_000_000))
    host.start("librarian")
    host.until(lambda: "Memory is away" in (host.librarian("Status")["last_error"] or ""))
    assert (host.inbox / "early.md").exists()
    host.start("memory")
    host.until(lambda: host.memory("Search", query="worker")["hits"])
    host.until(lambda: host.librarian("Status")["last_error"] is None)
    assert not (host.inbox / "early.md").exists()


def test_a_folder_stays_in_place_and_is_read_once(host, tmp_path):
    folder = tmp_path / "runbooks"
    folder.mkdir()
    (folder / "a.md").write_text(TEXT)
    os.utime(folder / "a.md", (1_700_000_000, 1_700_000_000))
    host.config.write_text(f"[librarian]\nfolders = [{json.dumps(str(folder))}]\n")
    host.start("memory")
    host.start("librarian")
    host.until(lambda: host.librarian("Status")["accepted"] == 1)
    assert host.stop("librarian")[0] == 0
    host.start("librarian")
    (folder / "b.md").write_text(TEXT + "More of it.")
    host.until(lambda: host.librarian("Status")["accepted"] == 2)
    assert sorted(path.name for path in folder.iterdir()) == ["a.md", "b.md"]
    assert host.memory("Stats")["stats"]["documents"] == 2
    assert len(host.librarian("Intake")["items"]) == 2


def test_replies_do_not_wait_for_a_large_file(host):
    host.start("memory")
    host.start("librarian")
    rng = random.Random(3)
    words = ["".join(rng.choices("etaoinshrdlucmfw", k=rng.randint(2, 9))) for _ in range(900)]
    text = "".join(f"<p>{' '.join(rng.choices(words, k=40))}.</p>\n" for _ in range(16_000))
    host.drop("large.html", f"<html><body>{text}</body></html>".encode()[: 4 << 20])
    # bounded by slices, not by the seconds the file takes
    with host.healthy("librarian", "Status"), host.healthy("memory", "Stats"):
        host.until(lambda: host.librarian("Status")["accepted"] + host.librarian("Status")["rejected"])
    assert host.librarian("Status")["accepted"], host.librarian("Intake")
    assert host.memory("Stats")["stats"]["chunks"] > 1000


def test_acknowledged_incidents_survive_sigkill(host):
    incident = {
        "id": "incident_0",
        "unit": "nginx.service",
        "finding": "unit.failed",
        "outcome": "open",
        "opened_at": "2026-11-22T10:00:00.000Z",
    }
    for round_number in range(3):
        process = host.start("memory")
        acknowledged = []
        with Client(str(host.run / "io.graced.Memory"), timeout_s=LIMIT_S) as client:
            for number in range(40):
                incident = {**incident, "id": f"incident_{round_number}_{number}"}
                client.call("io.graced.Memory.PutIncident", {"incident": incident})
                acknowledged.append(incident["id"])
        process.send_signal(signal.SIGKILL)
        host.kill("memory")
        host.start("memory")
        assert all(host.memory("Incident", id=name)["incident"]["id"] == name for name in acknowledged)
        host.kill("memory")


def test_errors_of_the_interface(host):
    host.start("memory")
    with pytest.raises(VarlinkError) as found:
        host.memory("Incident", id="incident_404")
    assert (found.value.name, found.value.parameters) == ("NoSuchIncident", {"id": "incident_404"})
    for method, parameters in [
        ("Incidents", {"limit": 0}),
        ("Search", {}),
        ("PutIncident", {"incident": {"id": 1}}),
        ("PutDocument", {"document": {}, "chunks": []}),
    ]:
        with pytest.raises(VarlinkError) as found:
            host.memory(method, **parameters)
        assert found.value.name == "InvalidRequest", method
    assert host.memory("Search", query="\"' OR NEAR(")["hits"] == []


def test_a_damaged_database_is_refused_with_a_way_out(host, tmp_path):
    host.start("memory")
    assert host.stop("memory")[0] == 0
    (tmp_path / "lib" / "memory" / "memory.db").write_bytes(b"not a database" * 100)
    done = subprocess.run(
        [sys.executable, "-c", "from graced.kernels.memory import main; main()"],
        env=host.env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 78
    assert "damaged" in done.stderr
    assert "restore it from a backup" in done.stderr
