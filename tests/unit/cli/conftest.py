"""A fake graced: Varlink sockets in a temporary run directory, and a systemctl that says what the test wants."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from graced.cli import units
from graced.cli.main import gracectl
from graced.model.daemons import KERNELS
from graced.varlink.wire import Decoder, VarlinkError, encode

Answer = dict[str, Any] | list[dict[str, Any]] | VarlinkError


class FakeGraced:
    """Answers methods from a table on the socket of each interface; remembers the calls.

    A list is a stream that has not ended: each of its replies says that more follow.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Answer | Callable[[dict[str, Any]], Answer]] = {}
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closing = False

    def serve(self, interface: str) -> None:
        self._closing = False
        path = self.run / interface
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        self._sockets.append(listener)
        self._start(self._accept, listener)

    def _start(self, target: Callable[[socket.socket], None], sock: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(sock,))
        thread.start()
        self._threads.append(thread)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                if self._closing:
                    connection.close()
                    return
                self._sockets.append(connection)
                self._start(self._answer, connection)

    def _answer(self, connection: socket.socket) -> None:
        decoder = Decoder()
        try:
            while data := connection.recv(65536):
                for message in decoder.feed(data):
                    connection.sendall(self._replies(message["method"], message["parameters"]))
        except OSError:
            return

    def _replies(self, method: str, parameters: dict[str, Any]) -> bytes:
        self.calls.append((method, parameters))
        answer = self.answers.get(method.removeprefix("io.graced."), VarlinkError("org.varlink.x.MethodNotFound"))
        if callable(answer):
            answer = answer(parameters)
        if isinstance(answer, VarlinkError):
            return encode({"error": answer.error, "parameters": answer.parameters})
        if isinstance(answer, list):
            return b"".join(encode({"parameters": one, "continues": True}) for one in answer)
        return encode({"parameters": answer})

    def close(self) -> None:
        with self._lock:
            self._closing = True
            sockets, threads = self._sockets, self._threads
            self._sockets, self._threads = [], []
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        for sock in sockets:
            sock.close()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A temporary host: /run, /etc and /usr/share of graced."""
    for name in ("run", "etc", "share", "lib"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"GRACED_{name.upper()}", str(tmp_path / name))
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    return tmp_path


@pytest.fixture
def graced(run: Path) -> Iterator[FakeGraced]:
    fake = FakeGraced(run / "run")
    for interface in ("Supervisor", "Infrastructure", "Governance", "Memory", "Healing", "Code"):
        fake.serve(f"io.graced.{interface}")
    row = {"state": "active", "pid": 7, "ready_ms": 90.0, "restarts": 0, "watchdog_resets": 0, "last_error": None}
    fake.answers = {
        "Infrastructure.Kernels": {"kernels": [{"name": name, **row} for name in KERNELS]},
        "Supervisor.Status": {"version": "0.1.0", "state": "running", "reasons": []},
        "Governance.State": {"paused": False},
        "Memory.Incidents": {"incidents": []},
        "HTM.Stats": {"stats": {"modes": {}}},
        "Code.Refused": {"files": []},
    }
    yield fake
    fake.close()


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """Units as `systemctl show` would tell them; all daemons of graced are well."""
    table: dict[str, dict[str, str]] = {}
    for number, name in enumerate(KERNELS):
        table[f"graced-{name}.service"] = {
            "LoadState": "loaded",
            "ActiveState": "active",
            "SubState": "running",
            "Result": "success",
            "MainPID": str(100 + number),
            "NRestarts": "0",
            "InactiveExitTimestampMonotonic": "1000000",
            "ActiveEnterTimestampMonotonic": "1123400",
        }

    def show(arguments: list[str]) -> str:
        assert arguments[0] == "show"
        names = arguments[arguments.index("--") + 1 :]
        gone = {"LoadState": "not-found", "ActiveState": "inactive", "MainPID": "0"}
        blocks = [{"Id": name, **table.get(name, gone)} for name in names]
        return "\n\n".join("\n".join(f"{key}={value}" for key, value in block.items()) for block in blocks) + "\n"

    monkeypatch.setattr(units, "systemctl", show)
    return table


class Run:
    """How one run of gracectl ended."""

    def __init__(self, result: Result) -> None:
        self.exit_code = result.exit_code
        self.stdout = result.stdout
        self.stderr = result.stderr

    @property
    def json(self) -> Any:
        """The JSON on stdout: one line."""
        assert self.stdout.count("\n") == 1
        return json.loads(self.stdout)


@pytest.fixture
def ctl() -> Callable[..., Run]:
    """Run gracectl; every run must be free of escape bytes and of tracebacks."""
    runner = CliRunner(mix_stderr=False) if "mix_stderr" in CliRunner.__init__.__code__.co_varnames else CliRunner()

    def call(*arguments: str) -> Run:
        result = runner.invoke(gracectl, arguments)
        assert "\x1b" not in result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Run(result)

    return call
