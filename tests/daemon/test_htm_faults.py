"""The Nth disk operation fails, for every N: the queue is as before it or as after it, and says so; never a third way.

The scripted day and what is compared are in tests/daemon/htm_faults.py, the failing disk in tests/support/faultfs.c.
GRACED_NIGHTLY=1 in the environment runs every kind at every operation; otherwise some are sampled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NIGHTLY = os.environ.get("GRACED_NIGHTLY") == "1"
MEMORY = "/dev/shm"
PARTS = {"eio": 4}
HALVES = 2
STRIDES = {
    "eio": PARTS["eio"],
    "enospc": 8,
    "short": 12,
    "unwritable": 16,
    "full": 16,
    "dead": 20,
    "crash": 8,
    "torn": 12,
}
RUNS = [(kind, half, stride) for kind, stride in STRIDES.items() for half in range(1, PARTS.get(kind, HALVES) + 1)]
"""Each kind in two tests, from the first and the second operation on; "eio" in four, and meets every operation."""
OPERATIONS_MIN = 400
LIMIT_SECONDS = 280


@pytest.fixture(scope="module")
def failing_disk(tmp_path_factory):
    """faultfs.c as a library to preload."""
    library = tmp_path_factory.mktemp("faultfs") / "faultfs.so"
    source = f"{ROOT}/tests/support/faultfs.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", library, source], check=True)
    return library


@pytest.mark.parametrize(("kind", "first", "stride"), RUNS, ids=[f"{kind}-{first}" for kind, first, _ in RUNS])
def test_the_nth_disk_operation_fails(failing_disk, kind, first, stride):
    stride = PARTS.get(kind, HALVES) if NIGHTLY else stride
    # nothing is synced, so memory is as good a place as a disk
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as base:
        program = [sys.executable, "-B", f"{ROOT}/tests/daemon/htm_faults.py", kind, base, str(first), str(stride)]
        ran = subprocess.run(
            program, cwd=ROOT, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ROOT, "LD_PRELOAD": str(failing_disk)},
            capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["failures"] == []
    assert report["operations"] > OPERATIONS_MIN
    assert report["runs"] == len(range(first, report["operations"] + 1, stride))
    assert sum(report["where"].values()) == report["runs"]
    if kind not in {"crash", "torn"}:
        # a disk that fails is noticed: hardly any operation is one whose failure nobody needs to hear of
        assert report["refusals"] + report["where"].get("gave up", 0) > report["runs"] / 2
