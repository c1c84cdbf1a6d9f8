"""Where people approve: requests are opened here, and a person's word is in the ledger before it counts.

Used by the Governance kernel only.
"""

from __future__ import annotations

from graced.base.errors import PolicyError
from graced.base.log import NOTICE, WARNING
from graced.base.messages import APPROVAL_ASKED, APPROVAL_SAID
from graced.model import event
from graced.runtime.approvals import MAX_OPEN
from graced.runtime.seldom import Seldom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.policy.approval import Request
    from graced.policy.decide import Decision, Plan
    from graced.runtime.approvals import Approvals
    from graced.runtime.kernel import Kernel
    from graced.runtime.scribe import Scribe


class Desk:
    """Joins the requests to the ledger, the bus and the journal."""

    def __init__(self, kernel: Kernel, approvals: Approvals, scribe: Scribe) -> None:
        self._kernel = kernel
        self._approvals = approvals
        self._scribe = scribe
        self._recording: set[int] = set()
        self._full = Seldom(kernel.loop.now_s)

    def ask(self, plan: Plan, decision: Decision, policy_digest: str, seconds: float) -> Request | None:
        """The request that a held decision waits for; opened, and said aloud, when there is none.

        None when too many wait already: they are not pushed out.
        """
        if self._approvals.is_full(plan, policy_digest):
            if self._full.take("", "") is not None:
                text = f"no approval is asked for {plan.unit}: {MAX_OPEN} requests wait already: gracectl approvals"
                self._kernel.log(WARNING, text, UNIT=plan.unit, GRACED_TASK_ID=plan.task_id)
            return None
        request, new = self._approvals.open(plan, policy_digest, decision, seconds)
        if new:
            people = "one person" if request.needed == 1 else f"{request.needed} people"
            self._kernel.log(
                NOTICE,
                f"{request.id}: {plan.playbook} on {plan.unit} waits for {people}: gracectl approve {request.id}",
                APPROVAL_ASKED,
                UNIT=plan.unit,
                GRACED_TASK_ID=plan.task_id,
            )
        return request

    async def say(self, number: int, uid: int, denied: str | None, policy_digest: str) -> Request:
        """A person's word on a request, `denied` the reason of a no. PolicyError when it does not count."""
        request = self._approvals.preview(number, uid, denied, policy_digest)
        if number in self._recording:
            raise PolicyError(f"somebody else's word on {request.id} is being recorded: try again", code="not-open")
        self._recording.add(number)
        word = "approved" if denied is None else "denied"
        try:
            data = {"id": request.id, "by_uid": uid, "word": word, "reason": denied, "rule": request.rule}
            data |= {"plan": request.plan, "plan_digest": request.digest, "policy_digest": request.policy_digest}
            data["needed"] = request.needed
            subject = {name: request.plan[name] for name in ("unit", "task_id", "intent_id")}
            await self._scribe.append("approval", data, subject)
            request = self._approvals.put_word(number, uid, denied, policy_digest)
        finally:
            self._recording.discard(number)
        task_id, unit = str(request.plan["task_id"]), str(request.plan["unit"])
        said = {"approval": request.id, "state": request.state, "task_id": task_id}
        self._kernel.publish(event.DECISION, said, subject=unit)
        self._kernel.log(
            NOTICE,
            f"{request.id} ({request.plan['playbook']} on {unit}) is {word} by uid {uid}"
            + (f": {denied}" if denied else ""),
            APPROVAL_SAID,
            UNIT=unit,
            GRACED_TASK_ID=task_id,
        )
        return request
