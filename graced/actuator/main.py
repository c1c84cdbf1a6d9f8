"""The actuator: the only process of graced that changes the host. Root, socket activated, gone when idle.

It trusts nothing it is told: a warrant must be signed by Governance's current key in root's roster, and
every name in it is looked up in root's files. Acts on different units run side by side, on one unit
never.
"""

from __future__ import annotations

from graced.actuator import configs, report
from graced.actuator.execute import Act, ActFailed, recipe_of, unsafe
from graced.actuator.holds import Held, Stopped, check_jobs, check_package_manager, check_wanted
from graced.actuator.host import Host
from graced.actuator.kept import Kept
from graced.actuator.keyring import Keyring
from graced.actuator.safeopen import UnsafePathError
from graced.actuator.sources import NotAdoptedError, Sources, allowed
from graced.actuator.undo import DONE, FAILED, UNDONE
from graced.actuator.warrant import Refused, Warrant, check_bounds, check_time, check_unit, open_warrant
from graced.base.clock import boot_id, iso
from graced.base.errors import ConfigError, GracedError, HostError, TrustError
from graced.base.json import get_dict, get_str, opt_int
from graced.base.log import ERR, NOTICE, WARNING
from graced.base.messages import WARRANT_REFUSED
from graced.heal.playbook import KILL
from graced.runtime.kernel import Kernel, kernel_main
from graced.runtime.seldom import Seldom, left_out
from graced.runtime.service import Interface
from graced.varlink.wire import VarlinkError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Any

    from graced.actuator.safeopen import Owners
    from graced.actuator.units import UnitState
    from graced.base.json import JsonDict
    from graced.heal.playbook import Playbook
    from graced.heal.profile import Profile
    from graced.runtime.loop import Future
    from graced.runtime.peer import Peer
    from graced.runtime.service import Call

IFACE = "io.graced.Actuator"
IDLE_SECONDS = 30.0
_LOOKS = frozenset({"healing", "verification", "code", "supervisor"})
_ACTS = frozenset({"healing"})
_LEDGER_TIMEOUT_S = 2.0
_BUSY_RETRY_S = 0.5


class ActuatorInterface(Interface):
    """io.graced.Actuator."""

    name = IFACE
    acl = {
        "Digest": _LOOKS,
        "Trial": _LOOKS,
        "Snapshot": frozenset({"verification"}),
        "Execute": _ACTS,
        "Rollback": _ACTS,
        "Forget": frozenset({"root"}),
        "RotateKey": frozenset({"governance", "verification", "supervisor"}),
        "RevokeKey": frozenset({"root"}),
    }

    def __init__(self, kernel: ActuatorKernel) -> None:
        self._kernel = kernel

    async def Digest(self, call: Call) -> JsonDict:
        return await _answered(self._kernel.digest(get_str(call.parameters, "unit")))

    async def Trial(self, call: Call) -> JsonDict:
        return await _answered(self._kernel.trial(get_str(call.parameters, "unit")))

    async def Snapshot(self, call: Call) -> JsonDict:
        unit, reason = get_str(call.parameters, "unit"), get_str(call.parameters, "reason")
        return await _answered(self._kernel.snapshot(unit, reason, call.peer.uid))

    async def Execute(self, call: Call) -> JsonDict:
        parameters = call.parameters
        kid, signature = get_str(parameters, "kid"), get_str(parameters, "signature")
        return await _answered(self._kernel.execute(get_dict(parameters, "warrant"), kid, signature, call.peer))

    async def Rollback(self, call: Call) -> JsonDict:
        act_id, reason = get_str(call.parameters, "act_id"), get_str(call.parameters, "reason")
        return await _answered(self._kernel.rollback(act_id, reason))

    async def Forget(self, call: Call) -> JsonDict:
        return await _answered(self._kernel.forget(get_str(call.parameters, "unit"), call.peer.uid))

    async def RotateKey(self, call: Call) -> JsonDict:
        return await _answered(self._kernel.rotate_key(call.parameters, call.peer))

    async def RevokeKey(self, call: Call) -> JsonDict:
        kid, reason = get_str(call.parameters, "kid"), get_str(call.parameters, "reason")
        at_seq = opt_int(call.parameters, "at_seq")
        return await _answered(self._kernel.revoke_key(kid, at_seq, reason, call.peer.uid))


async def _answered(work: Awaitable[JsonDict]) -> JsonDict:
    """The answer, or the interface's error for what went wrong."""
    try:
        return await work
    except NotAdoptedError as error:
        raise VarlinkError(f"{IFACE}.NotAdopted", {"unit": error.message.split(" ", 1)[0]}) from error
    except Held as error:
        parameters = {"reason": error.reason, "holder": error.holder, "retry_after_seconds": error.retry_after_s}
        raise VarlinkError(f"{IFACE}.Held", parameters) from error
    except ActFailed as error:
        parameters = {"step": error.step, "detail": error.detail, "act_id": error.act["act_id"]}
        raise VarlinkError(f"{IFACE}.Failed", parameters) from error
    except UnsafePathError as error:
        raise _refusal(unsafe(error)) from error
    except (Refused, Stopped, ConfigError, TrustError) as error:
        raise _refusal(error) from error
    except (GracedError, OSError) as error:
        raise VarlinkError(f"{IFACE}.Failed", {"step": "", "detail": str(error), "act_id": ""}) from error


def _refusal(error: GracedError) -> VarlinkError:
    detail = error.detail if isinstance(error, Refused) else str(error)
    return VarlinkError(f"{IFACE}.Refused", {"reason": error.code, "detail": detail})


class ActuatorKernel(Kernel):
    """Wires warrant, files, units and trials together."""

    name = "actuator"
    idle_exit_s = IDLE_SECONDS
    fixed_paths = True

    def setup(self) -> None:
        """Open the stores; acts that were cut off are finished right after READY."""
        # StateDirectory= names the rejected files' directory too.
        state_dir = self.paths.state(self.name).split(":", 1)[0]
        self.host = Host(self.loop, self.clock, state_dir, f"{self.paths.lib}/rejected", boot_id())
        self.sources = Sources(self.paths, Kept(f"{state_dir}/kept"))
        self.keyring = Keyring(self.paths.lib, self.clock, boot_id())
        self._busy: dict[str, str] = {}
        self._refusals = Seldom(self.loop.now_s)
        self._unfinished = self.host.undo.unfinished()

    def interfaces(self) -> list[Interface]:
        """io.graced.Actuator."""
        return [ActuatorInterface(self)]

    def started(self) -> None:
        """Finish what a killed predecessor began, before anything else may touch those units."""
        try:
            self.keyring.recover()
        except (GracedError, OSError) as error:
            self.log(ERR, f"a change of keys was cut off and could not be finished: {error}")
        for record in self._unfinished:
            self._busy[record.unit] = record.act_id
            self.loop.spawn(self._recover(record))

    async def _recover(self, record: Any) -> None:
        try:
            problems = await self.host.recover(record)
            rest = f"; left alone: {'; '.join(problems)}" if problems else ""
            self.log(NOTICE, f"act {record.act_id} on {record.unit} was cut off and is finished now{rest}")
        except GracedError as error:
            self.log(ERR, f"act {record.act_id} on {record.unit} was cut off and could not be finished: {error}")
        finally:
            self._busy.pop(record.unit, None)

    def status(self) -> str:
        """What is under way."""
        return f"Acting on {', '.join(sorted(self._busy))}" if self._busy else "Idle"

    def drained(self) -> bool:
        """An act is finished before the process leaves."""
        return not self._busy

    def close(self) -> None:
        """Leave the bus; forget acts too old to be undone."""
        self.host.undo.prune()
        self.host.units.close()

    # Looking -----------------------------------------------------------------------------------------------

    async def _examined(self, unit: str, profile: Profile) -> tuple[Any, list[configs.Examined], Owners]:
        owners = await self.host.owners(unit)
        manifest = self.host.good.manifest(unit)
        return manifest, configs.examine(profile.config_paths, owners, manifest, self.host.good), owners

    async def digest(self, unit: str) -> JsonDict:
        """The Digest reply."""
        adopted = self.sources.adopted(unit)
        manifest, examined, _owners = await self._examined(unit, adopted.profile)
        return {"digest": configs.digest_json(unit, manifest, examined)}

    async def trial(self, unit: str) -> JsonDict:
        """The Trial reply."""
        adopted = self.sources.adopted(unit)
        check_unit(unit)
        _manifest, examined, _owners = await self._examined(unit, adopted.profile)
        outcome = await self.host.trial(unit, recipe_of(adopted.profile), examined)
        return outcome.to_json()

    async def snapshot(self, unit: str, reason: str, uid: int) -> JsonDict:
        """Take the present set as last-known-good. Refused when it is invalid or the service could have
        written it.
        """
        adopted = self.sources.adopted(unit)
        check_unit(unit)
        with self._alone(unit, "snapshot"):
            _manifest, examined, owners = await self._examined(unit, adopted.profile)
            writable = configs.writable_by_service(examined, owners)
            if uid != 0 and writable:
                raise Refused("service-writable", f"{writable} could have been written by the service itself")
            outcome = await self.host.trial(unit, recipe_of(adopted.profile), examined)
            if outcome.valid is False:
                raise Refused("config-invalid", outcome.output)
            manifest, contents = configs.manifest_of(unit, examined, iso(self.clock.wall_us()), uid, reason)
            if adopted.profile.config_paths and not manifest.files:
                paths = ", ".join(adopted.profile.config_paths)
                raise HostError(
                    f"none of {unit}'s config files is there ({paths}): a profile for a service that has none leaves "
                    "[config] out",
                    code="no-config",
                )
            self.host.good.save(manifest, contents)
            _manifest, examined, _owners = await self._examined(unit, adopted.profile)
        data = {"manifest_digest": manifest.digest, "files": len(manifest.files), "reason": reason, "uid": uid}
        await self._ledger("step", unit, None, None, {"verb": "snapshot", **data})
        return {"digest": configs.digest_json(unit, manifest, examined)}

    async def forget(self, unit: str, uid: int) -> JsonDict:
        """Drop a released unit's copies; the rejected files stay."""
        check_unit(unit)
        with self._alone(unit, "forget"):
            gone = self.host.good.forget(unit)
        if gone:
            await self._ledger("step", unit, None, None, {"verb": "forget", "uid": uid})
        return {}

    # Acting ------------------------------------------------------------------------------------------------

    async def execute(self, obj: JsonDict, kid: str, signature: str, peer: Peer) -> JsonDict:
        """The Execute reply."""
        try:
            warrant = self._opened(obj, kid, signature)
            # systemd answers while the files are read. Not before: a flood of forged warrants would use up the bus.
            asked = self.host.units.ask(warrant.unit)
            profile, playbook = self._covered(warrant)
        except (TrustError, ConfigError) as error:
            await self._refused(error, obj, peer)
            raise
        with self._alone(warrant.unit, warrant.task_id):
            state = await self._may_act(warrant, playbook, asked)
            self._spend(warrant)
            act = Act(self.host, warrant, profile, playbook, state)
            try:
                done = await act.run()
            finally:
                # After the act whatever became of it; a refused first step did nothing.
                await self._ledger("step", warrant.unit, warrant.task_id, warrant.intent_id, {"act": act.json})
        return {"act": done}

    def _opened(self, obj: JsonDict, kid: str, signature: str) -> Warrant:
        from graced.trust.keys import decode_base64

        signers = self.keyring.signers()
        warrant = open_warrant(obj, kid, decode_base64(signature, "the signature"), signers.public_of)
        signers.check_age(kid, warrant)
        check_time(warrant, self.host.boot_id, self.clock.boottime_us())
        check_unit(warrant.unit)
        return warrant

    def _covered(self, warrant: Warrant) -> tuple[Profile, Playbook]:
        adopted = self.sources.adopted(warrant.unit, warrant.profile_digest)
        playbook = self.sources.playbook(warrant.playbook, warrant.playbook_digest)
        check_bounds(warrant, allowed(adopted, playbook, warrant))
        self.host.nonces.check(warrant.nonce)
        return adopted.profile, playbook

    async def _refused(self, error: GracedError, obj: JsonDict, peer: Peer) -> None:
        """A refused warrant is in the journal and in the ledger; a flood of them is counted there."""
        self.count("graced_warrants_refused_total", reason=error.code)
        missed = self._refusals.take(peer.uid, (error.code, str(obj.get("unit"))))
        if missed is None:
            return
        detail = str(error)[:500]
        text = f"a warrant was refused to {peer.name}: {detail}{left_out(missed)}"
        self.log(WARNING, text, WARRANT_REFUSED, GRACED_REASON=error.code, GRACED_UID=peer.uid)
        # What a warrant that does not hold says is worth nothing: it is quoted, and cut.
        named = {name: str(obj.get(name))[:255] for name in ("unit", "playbook", "task_id", "tier", "nonce")}
        data = {"verb": "refuse", "reason": error.code, "detail": detail, "uid": peer.uid, "missed": missed}
        await self._ledger("step", None, None, None, {**data, "warrant": named})

    async def _may_act(self, warrant: Warrant, playbook: Playbook, asked: Future) -> UnitState:
        check_package_manager()
        known = await self.host.units.known(warrant.unit, asked)
        state = known.state
        check_wanted(state, known.result, warrant.unit)
        for name in known.names:
            check_unit(name)
        verbs = [playbook.steps[index].verb for index in warrant.steps]
        await check_jobs(self.host.units, state, warrant.unit, self.clock, may_kill=KILL in verbs[:1])
        return state

    def _spend(self, warrant: Warrant) -> None:
        try:
            self.host.nonces.use(warrant.nonce, warrant.not_after_boottime_us)
        except OSError as error:
            raise HostError(f"the nonce could not be written: {error.strerror}", hint="is the disk full?") from error

    async def rotate_key(self, parameters: JsonDict, peer: Peer) -> JsonDict:
        """The RotateKey reply."""
        try:
            return self.keyring.rotate(parameters, peer)
        except TrustError as error:
            self.log(WARNING, f"a rotation asked by {peer.name} was refused: {error}", GRACED_REASON=error.code)
            raise

    async def revoke_key(self, kid: str, at_seq: int | None, reason: str, uid: int) -> JsonDict:
        """The RevokeKey reply."""
        return self.keyring.revoke(kid, at_seq, reason, uid)

    async def rollback(self, act_id: str, reason: str) -> JsonDict:
        """The Rollback reply."""
        record = self.host.undo.load(act_id)
        if record is None:
            raise Refused("no-such-act", f"there is no act {act_id!r}")
        if record.state not in {DONE, FAILED}:
            raise Refused("not-undoable", f"{act_id} is {record.state}")
        check_unit(record.unit)
        self.sources.adopted(record.unit)
        with self._alone(record.unit, act_id):
            check_package_manager()
            problems = self.host.undo.undo_files(record)
            act = {**record.act, "undo": False, "rolled_back": not problems, "problems": problems}
            self.host.undo.close(record, UNDONE, act)
        task_id = str(record.warrant.get("task_id", ""))
        report.rolled_back(record.unit, act_id, task_id, reason, problems)
        data = {"act_id": act_id, "reason": reason, "problems": problems}
        await self._ledger("restore", record.unit, task_id, _text(record.warrant.get("intent_id")), data)
        return {"act": act}

    def _alone(self, unit: str, who: str) -> _Alone:
        return _Alone(self._busy, unit, who)

    async def _ledger(
        self, kind: str, unit: str | None, task_id: str | None, intent_id: str | None, data: JsonDict
    ) -> None:
        parameters = {"kind": kind, "unit": unit, "task_id": task_id, "intent_id": intent_id, "data": data}
        try:
            await self.call(
                "io.graced.Ledger.Append", {**parameters, "kid": None, "signature": None}, _LEDGER_TIMEOUT_S
            )
        except GracedError as error:
            self.count("graced_ledger_missed_total")
            text = f"what was done to {unit or 'no unit'} could not be written to the ledger: {error}"
            self.log(ERR, text, GRACED_DATA=data)


class _Alone:
    """One act per unit; a context manager that raises Held when another one runs."""

    def __init__(self, busy: dict[str, str], unit: str, who: str) -> None:
        if unit in busy:
            raise Held("busy", f"graced itself, with {busy[unit]}", _BUSY_RETRY_S)
        self._busy, self._unit = busy, unit
        busy[unit] = who

    def __enter__(self) -> None:
        return

    def __exit__(self, *_exc: object) -> None:
        self._busy.pop(self._unit, None)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


main = kernel_main(ActuatorKernel)
