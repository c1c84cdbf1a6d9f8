"""Words for people."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """``1 task``, ``3 tasks``; `plural` where an s is not enough."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
