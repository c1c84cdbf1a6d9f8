"""Plans that were not allowed: what was last said about each, and a look whether the answer would be another one now.

Whoever asks again and again gets the answer each time; ledger, journal and bus hear of it when it changes. A heal that
is held sleeps long; when something lets it go on (approval, policy, window, pause, host) its task is told to ask again.
Used by the Governance kernel only.
"""

from __future__ import annotations

from graced.model import event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeAlias

    from graced.base.json import JsonDict
    from graced.policy.decide import Plan
    from graced.runtime.kernel import Kernel

    Answer: TypeAlias = tuple[object, ...]
    """What makes two answers the same: words of a decision, never sentences or times."""

LOOK_SECONDS = 5.0
TELL_AGAIN_SECONDS = 30.0
LOST_SECONDS = 1800.0
"""A held plan that nobody has asked about for so long belongs to a task that is gone."""
MAX_PLANS = 512


class _Told:
    __slots__ = ("answer", "asked_s", "held", "number", "plan", "tell_s")

    def __init__(self, plan: Plan, answer: Answer, number: object, asked_s: float, *, held: bool) -> None:
        self.plan = plan
        self.answer = answer
        self.number = number
        self.asked_s = asked_s
        self.tell_s = asked_s
        self.held = held


class Waiting:
    """`look` gives a function that answers a plan as of now, nothing counted or recorded."""

    def __init__(self, kernel: Kernel, look: Callable[[], Coroutine[Any, Any, Callable[[Plan], Answer]]]) -> None:
        self._kernel = kernel
        self._look = look
        self._told: dict[Plan, _Told] = {}
        self._looking = False

    @property
    def held(self) -> list[Plan]:
        """The plans that wait."""
        return [one.plan for one in self._told.values() if one.held]

    def is_news(self, plan: Plan, answer: Answer, number: object) -> bool:
        """Whether this plan was last answered otherwise, or is asked under another request for approval."""
        told = self._told.get(plan)
        return told is None or (told.answer, told.number) != (answer, number)

    def note(self, plan: Plan, answer: Answer, number: object, *, held: bool) -> None:
        """It was answered so, now; `held`: the heal sleeps until something changes."""
        self._told.pop(plan, None)
        self._told[plan] = _Told(plan, answer, number, self._kernel.loop.now_s(), held=held)
        if len(self._told) > MAX_PLANS:
            del self._told[next(iter(self._told))]
        self._plan_look()

    def forget(self, plan: Plan) -> None:
        """It was allowed."""
        self._told.pop(plan, None)

    def _plan_look(self) -> None:
        if not self._looking and self.held:
            self._looking = True
            self._kernel.loop.call_later(LOOK_SECONDS, lambda: self._kernel.loop.spawn(self.look_again()))

    async def look_again(self) -> None:
        """Tell the tasks whose answer would be another one now to ask again."""
        try:
            answer_now = await self._look()
            now_s = self._kernel.loop.now_s()
            for plan, told in list(self._told.items()):
                if not told.held:
                    continue
                if now_s - told.asked_s > LOST_SECONDS:
                    del self._told[plan]
                elif now_s >= told.tell_s and answer_now(plan) != told.answer:
                    # The bus may lose it, and the heal may be on its way to sleep: until it asks, it is told again.
                    told.tell_s = now_s + TELL_AGAIN_SECONDS
                    self._tell(plan)
        finally:
            self._looking = False
            self._plan_look()

    def _tell(self, plan: Plan) -> None:
        data: JsonDict = {"ask_again": True, "task_id": plan.task_id, "playbook": plan.playbook}
        self._kernel.publish(event.DECISION, data, subject=plan.unit, intent_id=plan.intent_id)

    def tell_all(self) -> None:
        """After a start nothing is known of what was held before: everybody asks again."""
        self._kernel.publish(event.DECISION, {"ask_again": True, "task_id": None})
