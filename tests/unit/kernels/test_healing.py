"""What Healing tells the task manager about a task that it is given twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from graced.kernels.healing import HealingKernel
from graced.runtime.loop import Future, Loop
from graced.varlink.wire import VarlinkError

if TYPE_CHECKING:
    from graced.heal.attempt import Heal


class Kernel(HealingKernel):
    """A heal lasts until the test ends it; the task manager knows only the attempt `leased`."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Loop()
        self._boot_id = ""
        self.leased = 1
        self.begun: list[tuple[int, Future]] = []
        self.told: list[tuple[str, int]] = []
        self.taken: list[tuple[str, int]] = []
        self.answers = Future()
        self.answers.set_result()

    async def _heal(self, heal: Heal) -> dict[str, Any]:
        end = Future()
        self.begun.append((heal.attempt, end))
        await end
        return heal.result("success")

    async def call(self, method: str, parameters: dict[str, Any] | None = None, timeout_s: float = 0) -> dict[str, Any]:
        assert parameters is not None
        told = method.rpartition(".")[2], parameters["attempt"]
        self.told.append(told)
        await self.answers
        if parameters["attempt"] != self.leased:
            raise VarlinkError("io.graced.HTM.NotLeased", {"task_id": parameters["task_id"]})
        self.taken.append(told)
        return {}

    def log(self, priority: int, message: str, message_id: str = "", **fields: Any) -> None:
        """To nobody."""

    def lease(self, attempt: int) -> None:
        self.leased = attempt
        context = {"unit": "nginx.service", "finding": "unit.failed"}
        self._on_lease({"lease": {"task_id": "task_1", "attempt": attempt, "context": context}})
        self.turn()

    def turn(self) -> None:
        for _ in range(10):
            self.loop.run_once(0)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_a_heal_is_the_answer_to_the_newer_lease_too(kernel: Kernel) -> None:
    kernel.lease(1)
    kernel.lease(2)
    kernel.lease(3)
    assert [attempt for attempt, _end in kernel.begun] == [1], "two heals of one task at once"
    kernel.begun[0][1].set_result()
    kernel.turn()
    assert kernel.told == [("Complete", 1), ("Complete", 3)]
    assert kernel.taken == [("Complete", 3)]
    assert kernel.heals == {}


def test_a_lease_that_comes_while_the_end_is_told_is_answered(kernel: Kernel) -> None:
    kernel.lease(1)
    kernel.leased = 0  # the task manager has just been started anew
    kernel.answers = Future()
    kernel.begun[0][1].set_result()
    kernel.turn()
    kernel.lease(2)
    kernel.answers.set_result()
    kernel.turn()
    assert kernel.taken == [("Complete", 2)]
    assert kernel.heals == {}


def test_a_lease_after_an_end_that_was_taken_is_a_heal_of_its_own(kernel: Kernel) -> None:
    kernel.lease(1)
    kernel.answers = Future()
    kernel.begun[0][1].set_result()
    kernel.turn()
    taken, kernel.leased = kernel.leased, 2
    kernel._on_lease({"lease": {"task_id": "task_1", "attempt": 2, "context": {"unit": "a.service", "finding": "x"}}})
    kernel.leased = taken
    kernel.answers.set_result()
    kernel.turn()
    assert [attempt for attempt, _end in kernel.begun] == [1, 2]
    kernel.leased = 2
    kernel.begun[1][1].set_result()
    kernel.turn()
    assert kernel.taken == [("Complete", 1), ("Complete", 2)]
    assert kernel.heals == {}
