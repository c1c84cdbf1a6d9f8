"""What Governance signs: decisions, approvals and warrants, each in the ledger before it counts.

Used by the Governance kernel only.
"""

from __future__ import annotations

import os

from graced.base.json import canonical
from graced.policy.limits import SECOND_US
from graced.trust.keys import WARRANT_CONTEXT, context_of, encode_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.json import JsonDict
    from graced.policy.decide import Decision, Plan
    from graced.runtime.kernel import Kernel
    from graced.runtime.signing import SigningKey

WARRANT_SECONDS = 30
_APPEND = "io.graced.Ledger.Append"
_APPEND_SECONDS = 2.0


class Scribe:
    """Signs with Governance's key and appends to the ledger."""

    def __init__(self, kernel: Kernel, signer: SigningKey, boot: str) -> None:
        self._kernel = kernel
        self._signer = signer
        self._boot = boot

    def warrant(self, plan: Plan, decision: Decision, policy_digest: str) -> JsonDict:
        """A warrant for an allowed plan, good from now on for WARRANT_SECONDS."""
        now_us = self._kernel.clock.boottime_us()
        return {
            "v": 1,
            "task_id": plan.task_id,
            "intent_id": plan.intent_id,
            "unit": plan.unit,
            "playbook": plan.playbook,
            "playbook_digest": plan.playbook_digest,
            "profile": plan.profile,
            "profile_digest": plan.profile_digest,
            "steps": list(plan.steps),
            "tier": plan.tier,
            "boot_id": self._boot,
            "not_before_boottime_us": now_us,
            "not_after_boottime_us": now_us + WARRANT_SECONDS * SECOND_US,
            "nonce": os.urandom(16).hex(),
            "policy_rule": decision.rule,
            "policy_digest": policy_digest,
        }

    async def record(
        self, plan: Plan, data: JsonDict, warrant: JsonDict | None, meanwhile: Callable[[], object] | None = None
    ) -> JsonDict:
        """Decision and warrant into the ledger; the warrant with `kid` and `signature`. Raises GracedError.

        `meanwhile` is what must be done before it counts, too: its wait for the disk is the ledger's own.
        """
        signed: JsonDict = await self._signer.during(self._record(plan, data, warrant, meanwhile))
        return signed

    async def _record(
        self, plan: Plan, data: JsonDict, warrant: JsonDict | None, meanwhile: Callable[[], object] | None
    ) -> JsonDict:
        subject = {"unit": plan.unit, "task_id": plan.task_id, "intent_id": plan.intent_id}
        entries = [self._entry("decision", data, subject, self._sign(context_of("decision"), data))]
        signed: JsonDict = {}
        if warrant is not None:
            signature = self._sign(WARRANT_CONTEXT, warrant)
            # The key that signed, whatever is rotated by the time the answer leaves.
            signed = {"warrant": warrant, "kid": self._signer.kid, "signature": signature}
            entries.append(self._entry("warrant", warrant, subject, signature))
        await self._kernel.links.calls(_APPEND, entries, _APPEND_SECONDS, meanwhile)
        return signed

    async def append(self, kind: str, data: JsonDict, subject: JsonDict) -> JsonDict:
        """One signed entry. `subject` is what Ledger.Find finds it by. Raises GracedError."""
        reply: JsonDict = await self._signer.during(self._sign_and_append(kind, data, subject))
        return reply

    async def _sign_and_append(self, kind: str, data: JsonDict, subject: JsonDict) -> JsonDict:
        entry = self._entry(kind, data, subject, self._sign(context_of(kind), data))
        return await self._kernel.call(_APPEND, entry, _APPEND_SECONDS)

    def _entry(self, kind: str, data: JsonDict, subject: JsonDict, signature: str) -> JsonDict:
        return {"kind": kind, **subject, "data": data, "kid": self._signer.kid, "signature": signature}

    def _sign(self, context: bytes, data: JsonDict) -> str:
        return encode_base64(self._signer.sign(context, canonical(data)))
