"""Words for people."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """``1 task``, ``3 tasks``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
