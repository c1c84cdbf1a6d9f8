"""Shell scripts and spelling."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


# Words of the field, and the names of roff requests.
WORDS = "keypair,als,bu,ue,nd,nmae,caf"


def shell_scripts() -> list[str]:
    """Every tracked or new file that says it is a shell script."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file():
            with path.open("rb") as file:
                if file.readline().startswith((b"#!/bin/sh", b"#!/bin/bash", b"#!/usr/bin/env bash")):
                    found.append(name)
    return found


def test_shellcheck() -> None:
    scripts = shell_scripts()
    assert "packaging/launchers/graced-rescue" in scripts
    done = subprocess.run(["shellcheck", *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def test_spelling() -> None:
    done = subprocess.run(
        [
            "codespell",
            f"--ignore-words-list={WORDS}",
            "--skip=./build,./.git,*.pyc,./.hypothesis,./.mypy_cache,./.ruff_cache",
            ".",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout + done.stderr == ""
