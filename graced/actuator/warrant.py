"""May this act happen? Governance's signature, this boot, this half minute, once, and within what an admin
allowed.

A warrant only names things. What the names mean is read by the actuator itself from root's files, so a
stolen warrant key can do no more than the admin allowed for that unit. Refusals carry one word
(`reason`), listed in docs/SECURITY.md. Pure but for `Nonces`, which is durable.
"""

from __future__ import annotations

import os

from graced.actuator.lkg import get_file, put_file
from graced.base.errors import FormatError, TrustError
from graced.base.json import canonical
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.json import JsonDict

CONTEXT = b"graced-warrant-v1\n"
MAX_WINDOW_US = 120_000_000
MAX_TIER = 4
_DENIED_NAMES = frozenset({"init.scope", "dbus.service", "dbus-broker.service", "messagebus.service", "rescue.service"})
_DENIED_STARTS = (
    "systemd-",
    "graced",
    "dbus-",
    "dpkg-",
    "apt-",
    "emergency.",
    "user@",
    "user-",
    "getty@",
    "serial-getty@",
)
_NONCE_BYTES = 16
_MAX_NONCE_FILE_BYTES = 64 << 20


class Refused(TrustError):
    """The warrant does not hold; `code` is the reason's word."""

    code = "refused"

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}", code=reason)
        self.reason = reason
        self.detail = detail


class Warrant(Record):
    """Leave to do exactly `steps` of `playbook` on `unit`; times are CLOCK_BOOTTIME in µs of boot
    `boot_id`.
    """

    v: int
    task_id: str
    intent_id: str | None
    unit: str
    playbook: str
    playbook_digest: str
    profile: str
    profile_digest: str
    steps: tuple[int, ...]
    tier: int
    boot_id: str
    not_before_boottime_us: int
    not_after_boottime_us: int
    nonce: str
    policy_rule: str
    policy_digest: str


def open_warrant(obj: JsonDict, kid: str, signature: bytes, public_of: Callable[[str], bytes | None]) -> Warrant:
    """The warrant that `signature` covers.

    `public_of(kid)` gives Governance's public key if it may sign now, else None. Raises Refused with
    ``unknown-key``, ``signature`` or ``format``.
    """
    from graced.trust.keys import verify

    public = public_of(kid)
    if public is None:
        raise Refused("unknown-key", f"{kid or 'no key'} is not Governance's current key in the roster")
    try:
        payload = canonical(obj)
    except FormatError as error:
        raise Refused("format", error.message) from error
    if not verify(public, CONTEXT, payload, signature):
        raise Refused("signature", f"not signed by {kid}")
    try:
        warrant = Warrant.from_json(obj, "warrant")
    except FormatError as error:
        raise Refused("format", error.message) from error
    if warrant.v != 1:
        raise Refused("format", f"version {warrant.v} is not known")
    if len(warrant.nonce) != 2 * _NONCE_BYTES or not set(warrant.nonce) <= set("0123456789abcdef"):
        raise Refused("format", "the nonce is not 16 bytes in hex")
    return warrant


def check_time(warrant: Warrant, boot_id: str, now_us: int) -> None:
    """This boot and now (`now_us` of CLOCK_BOOTTIME). Refused: ``boot``, ``not-yet``, ``expired``,
    ``window``.
    """
    if warrant.boot_id.replace("-", "") != boot_id.replace("-", ""):
        raise Refused("boot", "signed for another boot of this host")
    if warrant.not_after_boottime_us - warrant.not_before_boottime_us > MAX_WINDOW_US:
        raise Refused("window", f"valid for more than {MAX_WINDOW_US // 1_000_000} s")
    if now_us < warrant.not_before_boottime_us:
        raise Refused("not-yet", f"valid in {warrant.not_before_boottime_us - now_us} us")
    if now_us > warrant.not_after_boottime_us:
        raise Refused("expired", f"over since {now_us - warrant.not_after_boottime_us} us")


def check_unit(unit: str) -> None:
    """The built-in deny list: what graced never touches, whatever was signed. Refused ``denied-unit``."""
    stem, dot, suffix = unit.rpartition(".")
    if not dot or not stem or "/" in unit or unit.startswith(".") or len(unit) > 255:
        raise Refused("denied-unit", f"{unit!r} is not the name of a unit")
    if suffix != "service":
        raise Refused("denied-unit", f"{unit}: only services are healed")
    if unit in _DENIED_NAMES or stem in {"dpkg", "apt", "dbus"} or unit.startswith(_DENIED_STARTS):
        raise Refused("denied-unit", f"{unit} is on the built-in deny list")


class Allowed(Record):
    """What root's files say about the unit: the admin's tier cap and what the names mean."""

    unit: str
    tier_cap: int
    watch_profile: str
    profile_unit: str
    profile_digest: str
    playbook_tier: int
    playbook_digest: str
    step_count: int
    profile_playbooks: tuple[str, ...]


def check_bounds(warrant: Warrant, allowed: Allowed) -> None:
    """Within what an admin allowed. Refused: ``profile``, ``*-digest``, ``tier``, ``steps``, ``playbook``."""
    if allowed.unit != warrant.unit or allowed.watch_profile != warrant.profile:
        raise Refused("profile", f"{warrant.unit} was adopted with profile {allowed.watch_profile}")
    if allowed.profile_unit != warrant.unit:
        raise Refused("profile", f"profile {warrant.profile} is for {allowed.profile_unit}")
    if allowed.profile_digest != warrant.profile_digest:
        raise Refused("profile-digest", f"profile {warrant.profile} is not the one that was decided on")
    if allowed.playbook_digest != warrant.playbook_digest:
        raise Refused("playbook-digest", f"playbook {warrant.playbook} is not the one that was decided on")
    if warrant.playbook not in allowed.profile_playbooks:
        raise Refused("playbook", f"profile {warrant.profile} does not name playbook {warrant.playbook}")
    if not 0 <= warrant.tier <= MAX_TIER or warrant.tier > allowed.tier_cap:
        raise Refused("tier", f"tier {warrant.tier} is above the {allowed.tier_cap} allowed for {warrant.unit}")
    if allowed.playbook_tier > warrant.tier:
        raise Refused(
            "tier", f"playbook {warrant.playbook} needs tier {allowed.playbook_tier}, signed was {warrant.tier}"
        )
    steps = warrant.steps
    if not steps or list(steps) != sorted(set(steps)) or steps[0] < 0 or steps[-1] >= allowed.step_count:
        raise Refused("steps", f"playbook {warrant.playbook} has steps 0 to {allowed.step_count - 1}")


class Nonces:
    """Warrants used in this boot, on disk before the first act. Those of other boots are void anyway."""

    def __init__(self, path: str, boot_id: str, now_us: int) -> None:
        self._path = path
        self._boot_id = boot_id
        self._used: dict[str, int] = {}
        for line in (get_file(path, _MAX_NONCE_FILE_BYTES) or b"").decode("ascii", "replace").splitlines():
            # A torn last line was never answered for: its act did not begin.
            boot, _, rest = line.partition(" ")
            nonce, _, until = rest.partition(" ")
            if boot == boot_id and until.isdigit() and int(until) >= now_us:
                self._used[nonce] = int(until)
        text = "".join(f"{boot_id} {nonce} {until}\n" for nonce, until in self._used.items())
        put_file(path, text.encode())

    def check(self, nonce: str) -> None:
        """Refused ``replayed`` when it was seen before."""
        if nonce in self._used:
            raise Refused("replayed", "this warrant was used already")

    def use(self, nonce: str, until_us: int) -> None:
        """Note `nonce` durably, checked once more. Raises Refused, OSError when the disk fails."""
        self.check(nonce)
        self._used[nonce] = until_us
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.write(fd, f"{self._boot_id} {nonce} {until_us}\n".encode())
            os.fdatasync(fd)
        finally:
            os.close(fd)
