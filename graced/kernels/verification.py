"""Verification: a second party. Observes units by its own means, judges repairs, guards adopted configuration.

A verdict is signed with this daemon's own key and on the ledger before anyone hears of it. Config files are compared
by the actuator's digests (only root can read them all); what changed, is valid and served well for a while becomes
the new last-known-good copy.
"""

from __future__ import annotations

from graced.base.clock import iso
from graced.base.config import Option
from graced.base.errors import GracedError, HostError
from graced.base.json import canonical, get_dict, get_int, get_str, opt_bool, opt_list, opt_str
from graced.base.log import INFO, NOTICE, WARNING, log
from graced.base.messages import PROMOTION_REFUSED
from graced.heal.book import APPROVED, CLOSED, OPENED, FindingBook
from graced.heal.checks.config_damaged import judge
from graced.heal.verdict import compare
from graced.model.event import ANOMALY, CONFIG_CHANGED, TELEMETRY_BRAIN, TELEMETRY_HTM, VERDICT
from graced.runtime import adopted
from graced.runtime.kernel import Kernel, kernel_main
from graced.runtime.peer import ADMIN, READ
from graced.runtime.service import Interface
from graced.runtime.signing import SigningKey, validity_option
from graced.trust.keys import VERDICT_CONTEXT, VERIFICATION, encode_base64
from graced.varlink.wire import VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.heal.profile import Profile
    from graced.model.event import Event
    from graced.runtime.adopted import AdoptedUnit
    from graced.runtime.loop import Timer
    from graced.runtime.service import Call
    from graced.runtime.witness import Witness

INTERFACE = "io.graced.Verification"
AFTER_HEAL_S = 0.5  # the heal's incident is closed by then
MOVING_S = 1.0  # a unit on its way up or down is looked at again
EDITING_S = 0.2  # an editor or a package writes several files: one look for all of them
NEWS_TAKES_US = 1_000_000
MTIME_TRUST_US = 10_000_000
OPTIONS = (
    Option(
        "verification",
        "settle_seconds",
        "duration_s",
        60.0,
        "How long a changed, valid config must serve before it becomes last-known-good",
        low=1,
        high=86400,
    ),
    validity_option("verification"),
)


class VerificationInterface(Interface):
    """io.graced.Verification."""

    name = INTERFACE
    acl = {
        "Observe": frozenset({"healing", "supervisor"}),
        "Verify": frozenset({"healing"}),
        "Check": READ,
        "RotateKey": ADMIN,
    }

    def __init__(self, kernel: VerificationKernel) -> None:
        self._kernel = kernel

    async def Observe(self, call: Call) -> JsonDict:
        profile = self._kernel.profile(get_str(call.parameters, "unit"))
        _state, seen = await self._kernel.witness.observe(profile)
        return {"observation": seen.to_json()}

    async def Verify(self, call: Call) -> JsonDict:
        parameters = call.parameters
        profile = self._kernel.profile(get_str(parameters, "unit"))
        work = self._kernel.verify(
            profile,
            get_str(parameters, "task_id"),
            get_str(parameters, "intent_id"),
            get_dict(parameters, "before"),
            get_int(parameters, "since_monotonic_us"),
        )
        reply: JsonDict = await self._kernel.signer.during(work)
        return reply

    async def Check(self, call: Call) -> JsonDict:
        unit = self._kernel.profile(get_str(call.parameters, "unit")).unit
        reply = await self._kernel.call("io.graced.Actuator.Digest", {"unit": unit}, timeout_s=10.0)
        return {"unit": unit, "drift": get_dict(reply, "digest")}

    async def RotateKey(self, call: Call) -> JsonDict:
        return await self._kernel.signer.rotate(call.peer.name, call.peer.uid, opt_str(call.parameters, "reason") or "")


class _Watched:
    """What is remembered of one unit's config."""

    def __init__(self) -> None:
        self.changed_us: int | None = None
        self.main_pid = 0
        self.checking = False
        self.again = False
        self.promotion: Timer | None = None
        self.refused = ""


class VerificationKernel(Kernel):
    """See the module."""

    name = "verification"
    options = OPTIONS
    subscribes = (CONFIG_CHANGED, TELEMETRY_HTM)

    def setup(self) -> None:
        """The self-test: a verdict without a key is worth nothing, so no key, no start."""
        self.signer = SigningKey(self, VERIFICATION)
        self._witness: Witness | None = None
        self.book = FindingBook()
        self._watched: dict[str, _Watched] = {}
        self._units: dict[str, AdoptedUnit] = {}
        self._signature: tuple[tuple[str, int, int], ...] | None = None
        self._verifying = 0
        self._reread()

    def interfaces(self) -> list[Interface]:
        return [VerificationInterface(self)]

    @property
    def witness(self) -> Witness:
        """Looks at units; made for the first question, not for the start."""
        from graced.runtime.witness import Witness

        self._witness = self._witness or Witness(self.loop, self.clock)
        return self._witness

    def started(self) -> None:
        """A change while this daemon was away is found by looking at every unit once."""
        self.signer.start()
        self._reread()
        for unit in self._units:
            self._soon(unit)
        self.every(60.0, self._repeat)

    def drained(self) -> bool:
        return self._verifying == 0

    def status(self) -> str:
        refused = [unit for unit, one in self._watched.items() if one.refused]
        hint = f"; not promoted: {refused[0]}: {self._watched[refused[0]].refused}" if refused else ""
        guarded = [unit for unit, one in self._units.items() if one.profile.config_paths]
        return f"Adopted units whose config is guarded: {len(guarded)}, open findings: {len(self.book.all())}{hint}"

    def profile(self, unit: str) -> Profile:
        """The profile of an adopted unit; NoSuchUnit."""
        self._reread()
        if unit not in self._units:
            raise VarlinkError(f"{INTERFACE}.NoSuchUnit", {"unit": unit})
        return self._units[unit].profile

    # Verdicts ----------------------------------------------------------------------------------------------

    async def verify(self, profile: Profile, task_id: str, intent_id: str, before: JsonDict, since_us: int) -> JsonDict:
        """Wait, look, judge, sign, ledger, tell. Raises GracedError when the verdict cannot be recorded."""
        self._verifying += 1
        try:
            state, seen = await self.witness.settled(profile)
            # What the dying processes said is part of the fault, not of the repair.
            errors = await self.witness.errors(profile.unit, max(since_us, state.inactive_exit_us))
            after = seen.replace(errors=None if errors is None else len(errors)).to_json()
            healthy, better, reasons = compare(before, after, has_probe=bool(profile.probes), errors=errors)
            verdict: JsonDict = {
                "v": 1,
                "task_id": task_id,
                "intent_id": intent_id,
                "unit": profile.unit,
                "healthy": healthy,
                "better": better,
                "before": before,
                "after": after,
                "reasons": reasons,
                "decided_monotonic_us": self.clock.monotonic_us(),
            }
            signature = encode_base64(self.signer.sign(VERDICT_CONTEXT, canonical(verdict)))
            await self.call(
                "io.graced.Ledger.Append",
                {
                    "kind": "verdict",
                    "unit": profile.unit,
                    "task_id": task_id,
                    "intent_id": intent_id,
                    "data": verdict,
                    "kid": self.signer.kid,
                    "signature": signature,
                },
                timeout_s=5.0,
            )
        finally:
            self._verifying -= 1
        if healthy:
            self._heal_seen(profile.unit)
        self.publish(VERDICT, verdict, subject=profile.unit, intent_id=intent_id)
        judged = "healthy" if healthy else "better, not healthy" if better else "not better"
        because = f": {'; '.join(reasons)}" if reasons else ""
        # A plain line: the journal's client library takes 10 ms to import, and the healer waits for this answer.
        log(NOTICE, f"{profile.unit} is {judged}{because} (verdict for {task_id}, signed)")
        self.count("graced_verdicts_total", healthy=str(healthy).lower())
        return {"verdict": verdict, "kid": self.signer.kid, "signature": signature}

    def _heal_seen(self, unit: str) -> None:
        """What was found is over with this heal; what is found from now on is news."""
        self.book.forget(unit)
        self.loop.call_later(AFTER_HEAL_S, lambda: self._soon(unit))

    # Configuration -----------------------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        """A config changed, or a unit runs under a new main process."""
        if event.type == CONFIG_CHANGED:
            unit = get_str(event.data, "unit")
            self._watch(unit).changed_us = self.clock.monotonic_us()
            self._soon(unit)
            return
        for one in opt_list(event.data, "units") or []:
            unit, pid = opt_str(one, "unit") or "", one.get("main_pid")
            if one.get("active_state") == "active" and isinstance(pid, int):
                watched = self._watch(unit)
                if pid != watched.main_pid and watched.main_pid:
                    self._soon(unit)
                watched.main_pid = pid

    def _watch(self, unit: str) -> _Watched:
        return self._watched.setdefault(unit, _Watched())

    def _reread(self) -> None:
        signature = adopted.signature(self.paths)
        if signature == self._signature:
            return
        self._signature = signature
        self._units, problems = adopted.load(self.paths, self._units)
        for problem in problems:
            self.log(WARNING, problem)
        for unit in [unit for unit in self._watched if unit not in self._units]:
            timer = self._watched.pop(unit).promotion
            if timer is not None:
                timer.cancel()
            self._cleared([finding.kind for finding in self.book.forget(unit)], unit)

    def _soon(self, unit: str) -> None:
        self._reread()
        if unit not in self._units:
            return
        watched = self._watch(unit)
        if watched.checking:
            watched.again = True
            return
        watched.checking = True
        self.loop.spawn(self._check(unit, watched))

    async def _check(self, unit: str, watched: _Watched) -> None:
        try:
            await self.loop.sleep(EDITING_S)
            await self._judge(unit, watched)
        except GracedError as error:
            self.log(INFO, f"{unit}: its config cannot be checked now: {error}", GRACED_UNIT=unit)
        finally:
            watched.checking = False
        if watched.again:
            watched.again = False
            self._soon(unit)

    async def _judge(self, unit: str, watched: _Watched) -> None:
        profile = self.profile(unit)
        state = await self.witness.state(unit)
        if state.active is not True:
            # A unit that is down is Infrastructure's finding; two heals of one fault help nobody.
            if state.active is None:
                self.loop.call_later(MOVING_S, lambda: self._soon(unit))
            return
        digest = get_dict(await self.call("io.graced.Actuator.Digest", {"unit": unit}, timeout_s=10.0), "digest")
        valid, output = await self._trial(unit, digest)
        started_since = self._since(state.inactive_exit_us, digest, watched)
        for judgement in judge(
            digest,
            valid=valid,
            output=output,
            started_since=started_since,
            profile=profile.name,
            now_us=self.clock.monotonic_us(),
            started_us=state.inactive_exit_us,
        ):
            outcome = self.book.record(unit, judgement, self.clock.monotonic_us())
            if outcome == OPENED and judgement.finding is not None:
                self.publish(ANOMALY, judgement.finding.anomaly(iso(self.clock.wall_us()), {}), subject=unit)
                self.log(
                    NOTICE,
                    f"{unit}: {judgement.kind}: {judgement.finding.value}. {output[:500]}",
                    GRACED_UNIT=unit,
                    GRACED_FINDING=judgement.kind,
                )
            elif outcome in {CLOSED, APPROVED}:
                self._cleared([judgement.kind], unit)
        if not digest.get("changed"):
            watched.changed_us, watched.refused = None, ""
            self._unpromise(watched)
        elif (
            valid
            and not digest.get("damaged")
            and self._since(max(state.inactive_exit_us, state.state_change_us), digest, watched)
        ):
            self._promise(unit, watched, _fingerprint(digest), state.main_pid)

    async def _trial(self, unit: str, digest: JsonDict) -> tuple[bool | None, str]:
        if not digest.get("changed"):
            return True, ""
        reply = await self.call("io.graced.Actuator.Trial", {"unit": unit}, timeout_s=70.0)
        return opt_bool(reply, "valid"), opt_str(reply, "output") or ""

    def _since(self, stamp_us: int, digest: JsonDict, watched: _Watched) -> bool | None:
        """Whether the unit did something (start, reload) at `stamp_us`, after its config changed."""
        offset_us = self.clock.wall_us() - self.clock.monotonic_us()
        stamps = [
            int(file["mtime_ns"]) // 1000 - offset_us
            for file in digest.get("files", [])
            if file.get("state") != "same" and file.get("mtime_ns")
        ]
        told_us = watched.changed_us
        if told_us is not None:
            # The news takes a moment, and a restart may overtake it; a moved file keeps an mtime from long ago.
            near = [stamp for stamp in stamps if told_us - MTIME_TRUST_US <= stamp <= told_us]
            return stamp_us > min([told_us - NEWS_TAKES_US, *near])
        return stamp_us > max(stamps) if stamps else None

    def _cleared(self, kinds: list[str], unit: str) -> None:
        if kinds:
            self.publish(TELEMETRY_BRAIN, {"cleared": [{"unit": unit, "finding": kind} for kind in kinds], "units": []})

    def _repeat(self) -> None:
        for finding in self.book.due(self.clock.monotonic_us()):
            self.publish(
                ANOMALY, {**finding.anomaly(iso(self.clock.wall_us()), {}), "repeat": True}, subject=finding.unit
            )

    # Promotion of a config that proved itself --------------------------------------------------------------

    def _unpromise(self, watched: _Watched) -> None:
        if watched.promotion is not None:
            watched.promotion.cancel()
            watched.promotion = None

    def _promise(self, unit: str, watched: _Watched, fingerprint: str, main_pid: int) -> None:
        self._unpromise(watched)
        watched.promotion = self.loop.call_later(
            self.config["settle_seconds"], lambda: self.loop.spawn(self._promote(unit, watched, fingerprint, main_pid))
        )

    async def _promote(self, unit: str, watched: _Watched, fingerprint: str, main_pid: int) -> None:
        watched.promotion = None
        try:
            state, seen = await self.witness.observe(self.profile(unit))
            digest = get_dict(await self.call("io.graced.Actuator.Digest", {"unit": unit}, timeout_s=10.0), "digest")
            if state.main_pid != main_pid or seen.probe["ok"] is False or _fingerprint(digest) != fingerprint:
                self._soon(unit)
                return
            reason = f"valid and served for {self.config['settle_seconds']:g} s"
            await self.call("io.graced.Actuator.Snapshot", {"unit": unit, "reason": reason}, timeout_s=10.0)
        except VarlinkError as error:
            self._refused(unit, watched, error)
        except (HostError, GracedError) as error:
            self.log(INFO, f"{unit}: its config is not promoted now: {error}", GRACED_UNIT=unit)
        else:
            watched.changed_us, watched.refused = None, ""
            self.log(NOTICE, f"{unit}: the present config is the new last-known-good copy", GRACED_UNIT=unit)

    def _refused(self, unit: str, watched: _Watched, error: VarlinkError) -> None:
        detail = error.parameters.get("detail") or error.parameters.get("reason") or error.error
        if watched.refused != detail:
            self.log(
                NOTICE,
                f"{unit}: the changed config does not become last-known-good: {detail}. If it is right: "
                f"gracectl adopt {unit} --refresh (as root)",
                PROMOTION_REFUSED,
                GRACED_UNIT=unit,
            )
        watched.refused = str(detail)


def _fingerprint(digest: JsonDict) -> str:
    names = ("path", "sha256", "uid", "gid", "mode")
    return canonical([[file.get(name) for name in names] for file in digest.get("files", [])]).decode()


main = kernel_main(VerificationKernel)
