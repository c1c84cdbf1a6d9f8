"""The requests for approval, on disk before they count. Joins the policy engine's values to their store.

Used by the Governance kernel only.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.base.errors import FormatError, PolicyError, StoreError
from graced.policy.approval import (
    EXPIRED,
    LIVE,
    OPEN,
    REFUSED,
    Request,
    Sanction,
    asked_more,
    current,
    digest_of,
    grant,
    overtaken,
    refuse,
)
from graced.policy.limits import SECOND_US
from graced.store.governance import MAX_APPROVALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.clock import Clock
    from graced.base.json import JsonDict
    from graced.policy.decide import Decision, Plan
    from graced.store.governance import GovernanceStore

NOBODY = Sanction()
MAX_OPEN = 100
"""Requests that wait for people at the same time; whoever asks for more cannot push those of others out."""


class Approvals:
    """All requests that are kept. Methods that change something raise StoreError."""

    def __init__(self, store: GovernanceStore, clock: Clock, age_us: Callable[[], int], boot: str) -> None:
        self._store = store
        self._clock = clock
        self._age_us = age_us
        self._boot = boot
        try:
            loaded = [Request.from_json(one, "approval") for one in store.approvals()]
        except FormatError as error:
            raise StoreError(f"a request for approval is damaged: {error.message}", code="damaged") from error
        self._requests = {request.number: request for request in loaded}
        self._live = {request.digest: request.number for request in loaded if request.state in LIVE}
        self._next = store.next_approval()

    def _now(self, number: int) -> Request:
        request = current(self._requests[number], self._age_us(), self._boot)
        if request.state not in LIVE and self._live.get(request.digest) == number:
            del self._live[request.digest]
        self._requests[number] = request
        return request

    def of_plan(self, plan: Plan, policy_digest: str) -> Request | None:
        """The live request for exactly this plan under this policy."""
        if not self._live:
            return None
        number = self._live.get(digest_of(plan, policy_digest))
        request = None if number is None else self._now(number)
        return request if request is not None and request.state in LIVE else None

    def sanction(self, plan: Plan, policy_digest: str) -> Sanction:
        """What people have said about exactly this plan under this policy."""
        request = self.of_plan(plan, policy_digest)
        return NOBODY if request is None else request.sanction

    def is_full(self, plan: Plan, policy_digest: str) -> bool:
        """Whether no request can be opened for a plan, because so many wait."""
        if self.of_plan(plan, policy_digest) is not None:
            return False
        return sum(self._now(number).state == OPEN for number in list(self._live.values())) >= MAX_OPEN

    def open(self, plan: Plan, policy_digest: str, decision: Decision, seconds: float) -> tuple[Request, bool]:
        """The request that this held decision waits for, and whether it is new."""
        found = self.of_plan(plan, policy_digest)
        if found is not None:
            asked = asked_more(found, decision.approvals)
            if asked != found:
                self._put(asked)
            return asked, False
        request = Request(
            number=self._next,
            digest=digest_of(plan, policy_digest),
            policy_digest=policy_digest,
            plan=plan.to_json(),
            rule=decision.rule,
            reason=decision.reason,
            needed=decision.approvals,
            opened_at=iso(self._clock.wall_us()),
            expires_us=self._age_us() + int(seconds * SECOND_US),
            boot_id=self._boot,
        )
        self._put(request)
        self._next += 1
        self._live[request.digest] = request.number
        for number in [one for one in self._requests if one <= request.number - MAX_APPROVALS]:
            gone = self._requests.pop(number)
            if self._live.get(gone.digest) == number:
                del self._live[gone.digest]
        return request, True

    def get(self, number: int) -> Request:
        """As it stands now. Raises PolicyError `no-such-approval`."""
        if number not in self._requests:
            raise PolicyError(f"there is no approval_{number}", code="no-such-approval")
        return self._now(number)

    def preview(self, number: int, uid: int, denied: str | None, policy_digest: str) -> Request:
        """What it would be after this person's word (`denied`: the reason of a no); nothing is kept. PolicyError."""
        request = self.get(number)
        if request.state in LIVE and request.policy_digest != policy_digest:
            text = f"{request.id} was asked under another policy: gracectl approvals shows the new request"
            raise PolicyError(text, code="not-open")
        return grant(request, uid) if denied is None else refuse(request, uid, denied)

    def put_word(self, number: int, uid: int, denied: str | None, policy_digest: str) -> Request:
        """Keep a person's word. Raises PolicyError as `preview`, StoreError."""
        request = self.preview(number, uid, denied, policy_digest)
        self._put(request)
        return request

    def spend(self, plan: Plan, policy_digest: str) -> Request | None:
        """The plan was allowed: its request is used up. As it was before; None when there was none."""
        request = self.of_plan(plan, policy_digest)
        if request is None or request.state == REFUSED:
            return None
        self._put(overtaken(request))
        del self._live[request.digest]
        return request

    def give_back(self, request: Request) -> None:
        """No warrant came of it: it is again as `spend` found it."""
        self._put(request)
        self._live[request.digest] = request.number

    def _put(self, request: Request) -> None:
        self._store.put_approval(request.number, request.to_json())
        self._requests[request.number] = request

    def _shown(self, number: int, policy_digest: str) -> Request:
        """As it stands now; one that was asked under another policy waits for nobody any more."""
        request = self._now(number)
        if request.state in LIVE and request.policy_digest != policy_digest:
            return request.replace(state=EXPIRED)
        return request

    def listed(self, policy_digest: str, *, everything: bool) -> list[JsonDict]:
        """For people, newest last: those that wait for somebody under the policy in force, or all that are kept."""
        found = [self._shown(number, policy_digest) for number in sorted(self._requests)]
        now_us = self._age_us()
        return [
            {
                "id": one.id,
                "state": one.state,
                "unit": one.plan["unit"],
                "playbook": one.plan["playbook"],
                "finding": one.plan["finding"],
                "risk": one.plan["risk"],
                "tier": one.plan["tier"],
                "task_id": one.plan["task_id"],
                "rule": one.rule,
                "reason": one.reason,
                "needed": one.needed,
                "approved_by": list(one.grants),
                "denied_by": one.denied_by,
                "denied_reason": one.denied_reason or None,
                "plan_digest": one.digest,
                "opened_at": one.opened_at,
                "expires_seconds": max(0.0, (one.expires_us - now_us) / SECOND_US) if one.state in LIVE else None,
            }
            for one in found
            if everything or one.state == "open"
        ]
