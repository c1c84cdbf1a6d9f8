"""The real exporter process on a socket passed as systemd passes it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
from graced.exporter.main import main
main()
"""


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    (tmp_path / "run").mkdir()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    env = {key: value for key, value in os.environ.items() if key not in {"INVOCATION_ID", "JOURNAL_STREAM"}}
    env |= {
        "PYTHONPATH": str(ROOT),
        "LISTEN_FDS": "1",
        "GRACED_RUN": str(tmp_path / "run"),
        "GRACED_ETC": str(tmp_path),
    }
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c", START, str(listener.fileno())],
        env=env, pass_fds=(listener.fileno(),), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    listener.close()
    yield process, f"http://127.0.0.1:{port}"
    if process.poll() is None:
        process.kill()
    process.communicate(timeout=60)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


def test_alone_it_says_that_graced_is_down_and_leaves_cleanly(exporter) -> None:
    process, url = exporter
    page = get(f"{url}/metrics")
    assert "\ngraced_up 0.0\n" in page
    assert 'graced_kernel_up{kernel="supervisor"} 0.0' in page
    assert "graced_tasks" not in page
    assert "/metrics" in get(f"{url}/")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
