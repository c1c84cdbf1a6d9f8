"""Runs the whole suite against one package, several containers at a time, and says how it went in one line.

usage: python3 -m tests.support.run_all --deb FILE [--jobs N] [--only DIRECTORY] [-k PATTERN]
A skipped test is a failure: everything here is supported on every machine that runs it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.support import image

ROOT = Path(__file__).parents[2]
DIRECTORIES = ("lint", "unit", "daemon", "package", "system")
TEST_TIMEOUT_SECONDS = 300
MOST_CHARS = 500
"""Of what a test said when it failed, from its beginning and from its end, once more at the end of the output."""


def main() -> int:
    """Returns 0 when every test passed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--deb", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--only", choices=DIRECTORIES)
    parser.add_argument("-k", default="")
    options = parser.parse_args()

    wanted = [options.only] if options.only else DIRECTORIES
    directories = [f"tests/{name}" for name in wanted if (ROOT / "tests" / name).is_dir()]
    if {"package", "system"} & set(wanted):
        # Both images at once, before the tests that would wait for them.
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda suite: image.installed(suite, options.deb), image.SUITES))
    report = ROOT / "build" / "junit.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-B", "-m", "pytest", "-q", "--import-mode=importlib", f"--junitxml={report}"]
    command += [f"--timeout={TEST_TIMEOUT_SECONDS}", "-n", str(options.jobs)]
    command += ["-k", options.k] if options.k else []
    environment = {**os.environ, "GRACED_DEB": str(options.deb.resolve())}
    code = subprocess.run([*command, *directories], cwd=ROOT, env=environment, check=False).returncode
    return summary(report, code)


def summary(report: Path, code: int) -> int:
    """Prints the last line, from pytest's own report; returns the exit code."""
    if not report.exists():
        print("0 passed, 1 failed (pytest did not finish)")
        return code or 1
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    total, skipped = (sum(int(suite.get(key, "0")) for suite in suites) for key in ("tests", "skipped"))
    bad = set()  # a test whose teardown fails, too, is told twice
    for suite in suites:
        for case in suite.iter("testcase"):
            for ended in (*case.iter("failure"), *case.iter("error"), *case.iter("skipped")):
                bad.add((case.get("classname"), case.get("name")))
                text = (ended.get("message") or "").strip()
                print(f"{case.get('classname')}::{case.get('name')}: {text[:MOST_CHARS]}")
                if len(text) > MOST_CHARS:
                    print(f"    [...] {text[-MOST_CHARS:]}")
    print(f"{total - len(bad)} passed, {len(bad)} failed" + (f" ({skipped} of them skipped)" if skipped else ""))
    return 1 if bad or code else 0


if __name__ == "__main__":
    sys.exit(main())
