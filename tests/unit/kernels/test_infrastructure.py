"""What Infrastructure says, and when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from graced.kernels.infrastructure import InfrastructureKernel

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("leaving", [{}, {"stopping": True}, {"_leaving": True}])
def test_a_program_that_a_stop_ended_is_no_news(leaving: dict[str, bool]) -> None:
    later: list[Callable[[], None]] = []
    said: list[str] = []
    kernel = SimpleNamespace(
        loop=SimpleNamespace(call_later=lambda _seconds, callback: later.append(callback)),
        log=lambda _level, text: said.append(text),
        stopping=False,
        _leaving=False,
    )
    InfrastructureKernel._complain(cast("InfrastructureKernel", kernel), "/usr/bin/journalctl: -15")
    # systemd signals the daemon first, but the end of what it asked may be seen before that.
    vars(kernel).update(leaving)
    for callback in later:
        callback()
    assert said == ([] if leaving else ["/usr/bin/journalctl: -15"])
