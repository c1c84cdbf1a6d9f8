"""What Infrastructure says, and when."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from graced.kernels.infrastructure import InfrastructureKernel
from graced.runtime.loop import Loop


@pytest.mark.parametrize("stopped", [False, True])
def test_a_program_that_a_stop_ended_is_no_news(stopped: bool) -> None:
    loop = Loop()
    said: list[str] = []
    kernel = SimpleNamespace(loop=loop, stopping=False, log=lambda _level, text: said.append(text))
    InfrastructureKernel._complain(kernel, "/usr/bin/journalctl: -15")  # type: ignore[arg-type]
    # systemd signals the daemon first, but the end of what it asked may be seen before that.
    kernel.stopping = stopped
    loop.run_until(loop.spawn(loop.sleep(0.2)))
    assert said == ([] if stopped else ["/usr/bin/journalctl: -15"])
