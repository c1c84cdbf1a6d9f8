"""A person's word on one plan: asked for, given by so many different people, used once, or refused.

An approval is bound to the digest of the exact plan and to the digest of the policy it was asked under: a changed
plan, playbook, profile or policy needs a new one. It ends with its time and with the boot. Pure; used by Governance.
"""

from __future__ import annotations

from graced.base.digest import sha256
from graced.base.errors import FormatError, PolicyError
from graced.base.json import canonical
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.policy.decide import Plan

OPEN = "open"
GRANTED = "granted"
REFUSED = "denied"
USED = "used"
EXPIRED = "expired"
LIVE = (OPEN, GRANTED, REFUSED)
"""The states that still say something about a plan."""

PREFIX = "approval_"


class Sanction(Record):
    """What people have said about a plan: who is for it, and who is against it and why."""

    uids: tuple[int, ...] = ()
    denied_by: int | None = None
    reason: str = ""


class Request(Record):
    """One request for approval. Times are ages in µs (limits.py), `opened_at` RFC 3339 for people.

    `digest` binds it (see `digest_of`), `needed` is how many different people it takes, `grants` their uids so far.
    """

    number: int
    digest: str
    policy_digest: str
    plan: dict[str, object]
    rule: str
    reason: str
    needed: int
    opened_at: str
    expires_us: int
    boot_id: str
    state: str = OPEN
    grants: tuple[int, ...] = ()
    denied_by: int | None = None
    denied_reason: str = ""

    @property
    def id(self) -> str:
        """``approval_7``."""
        return f"{PREFIX}{self.number}"

    @property
    def sanction(self) -> Sanction:
        """What it says while it is live."""
        return Sanction(self.grants, self.denied_by, self.denied_reason)


def digest_of(plan: Plan, policy_digest: str) -> str:
    """SHA-256 (hex) of the whole plan and the policy in force."""
    return sha256(canonical({"plan": plan.to_json(), "policy_digest": policy_digest})).hexdigest()


def number_of(ident: str) -> int:
    """``approval_7`` or ``7`` as 7. Raises FormatError."""
    digits = ident.removeprefix(PREFIX)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 15):
        raise FormatError(f"{ident!r} is not the id of an approval, such as {PREFIX}7")
    return int(digits)


def current(request: Request, now_us: int, boot_id: str) -> Request:
    """The request as it stands now: its time or its boot may be over."""
    if request.state in LIVE and (now_us >= request.expires_us or request.boot_id != boot_id):
        return request.replace(state=EXPIRED)
    return request


def grant(request: Request, uid: int) -> Request:
    """One more person is for it. Raises PolicyError: `not-open`, `same-person`."""
    if request.state == OPEN and uid in request.grants:
        raise PolicyError(f"uid {uid} has approved {request.id} already: another person has to", code="same-person")
    if request.state != OPEN:
        raise PolicyError(f"{request.id} is {request.state} already", code="not-open")
    grants = (*request.grants, uid)
    return request.replace(grants=grants, state=GRANTED if len(grants) >= request.needed else OPEN)


def refuse(request: Request, uid: int, reason: str) -> Request:
    """A person is against it; also after others approved, until it is used. Raises PolicyError: `not-open`."""
    if request.state not in {OPEN, GRANTED}:
        raise PolicyError(f"{request.id} is {request.state} already", code="not-open")
    return request.replace(state=REFUSED, denied_by=uid, denied_reason=reason)


def use(request: Request) -> Request:
    """It became a warrant and never becomes another. Raises PolicyError: `not-granted`."""
    if request.state != GRANTED:
        raise PolicyError(f"{request.id} is {request.state}, not granted", code="not-granted")
    return request.replace(state=USED)


def overtaken(request: Request) -> Request:
    """Its plan was allowed: whatever people have said so far is used up, also where the rules no longer ask for it."""
    if request.state == GRANTED:
        return use(request)
    return request.replace(state=USED if request.grants else EXPIRED) if request.state == OPEN else request


def asked_more(request: Request, needed: int) -> Request:
    """The same plan takes more people now (another rule applies at this time): the words given so far stay."""
    return request.replace(needed=needed, state=OPEN) if needed > len(request.grants) else request
