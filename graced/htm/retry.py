"""What a failed attempt leads to: another one after a random pause, or the dead letter box.

Backoff with full jitter (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015): a pause drawn
evenly from 0 to the cap, so that many tasks that failed together do not come back together.
"""

from __future__ import annotations

BASE_US = 1_000_000
CAP_US = 300_000_000
MAX_ATTEMPTS = 5


def backoff_us(failures: int, jitter: float) -> int:
    """The pause after the `failures`-th failure (1 = first); `jitter` in [0, 1) comes from outside."""
    ceiling_us = min(CAP_US, BASE_US << min(max(failures, 1) - 1, 20))
    return int(ceiling_us * jitter)


def poisoned(failures: int, max_attempts: int) -> bool:
    """Has it used up its attempts?"""
    return failures >= max_attempts
