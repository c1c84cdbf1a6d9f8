"""What a daemon imports before READY: nothing that only people, failures or later minutes need."""

import subprocess
import sys

import pytest

from tests.lint.test_floors import ROOT

DAEMONS = (
    "graced.supervisor.main",
    *(
        f"graced.kernels.{name}"
        for name in ("code", "governance", "healing", "infrastructure", "librarian", "memory", "verification")
    ),
)
# Each costs a daemon 1 to 30 ms of its start; their compiled halves, or an import at first use, do.
DEAR = """
    argparse asyncio bisect collections contextlib dataclasses datetime enum functools hashlib heapq inspect json
    jeepney logging nacl operator psutil random re selectors shutil signal socket sqlite3 ssl string subprocess
    tempfile threading tomllib traceback types typing urllib
"""
LOOK = "import sys; sys.path.append({root!r}); import {name}; print(*sys.modules)"


@pytest.mark.parametrize("name", DAEMONS)
def test_a_daemon_starts_without_dear_modules(name):
    code = LOOK.format(root=str(ROOT), name=name)
    done = subprocess.run(
        ["/usr/bin/python3", "-ISB", "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert name in loaded
    assert sorted(loaded.intersection(DEAR.split())) == []


def test_sqlite_needs_no_functools():
    """The one function that `_sqlite3` takes from it works as the real one, and later importers get the real module."""
    code = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "from graced.store.sqlite import sqlite3\n"
        "assert 'functools' not in sys.modules\n"
        "one = sqlite3.connect(':memory:', cached_statements=5)\n"
        "assert [one.execute(f'SELECT {n % 7}').fetchone()[0] for n in range(70)] == [n % 7 for n in range(70)]\n"
        "import functools\n"
        "assert functools.lru_cache(maxsize=2)(abs)(-1) == 1\n"
        "import sqlite3 as whole\n"
        "assert whole.Connection is sqlite3.Connection\n"
    )
    subprocess.run(["/usr/bin/python3", "-ISB", "-c", code], check=True, timeout=60)
    subprocess.run([sys.executable, "-B", "-c", "import functools\n" + code.replace("not in", "in")], check=True)
