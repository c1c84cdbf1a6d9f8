"""The supervisor: bus, HTM, brain loop, ledger and key records in one process.

One loop turn commits the queue and the ledger before any of its answers leaves. Nobody here acts on the host.
"""

from __future__ import annotations

import graced
from graced.base.clock import boot_id, iso
from graced.base.errors import GracedError, StoreError
from graced.base.json import get_str
from graced.base.log import NOTICE, WARNING
from graced.base.words import counted
from graced.model import event as topics
from graced.model.event import Event
from graced.model.task import task_number
from graced.runtime.kernel import Kernel, kernel_main
from graced.runtime.peer import READ
from graced.runtime.service import Call, Interface
from graced.runtime.signing import validity_option
from graced.store.brain import BrainStore
from graced.supervisor.bus import BusInterface
from graced.supervisor.htm import HtmInterface
from graced.supervisor.keep import OPTIONS, Keep
from graced.supervisor.ledger import LedgerInterface
from graced.supervisor.ledger_writer import UNIT
from graced.supervisor.loops import Loops
from graced.supervisor.outbox import Outbox
from graced.supervisor.queue import Queue
from graced.supervisor.strain import hear_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.config import Config
    from graced.base.json import JsonDict
    from graced.htm.mode import Mode
    from graced.metrics.registry import Registry
    from graced.model.task import Task
    from graced.supervisor.anchors import Anchors, Comparison
    from graced.supervisor.background import Background


HOUSEKEEPING_AFTER_SECONDS = 1.0
RECOVER_AGAIN_SECONDS = 30.0
"""After READY: nothing of it may cost time at boot."""
TABLES_FINDING = "ledger.tables"
LEDGER_FINDINGS = {"rolled-back": "ledger.rolled-back", "differs": "ledger.rewritten"}
RELOAD_FAILURES = "graced_config_reload_failures_total"


class SupervisorInterface(Interface):
    """io.graced.Supervisor."""

    name = "io.graced.Supervisor"
    acl = {"Status": READ, "Metrics": READ}

    def __init__(self, kernel: SupervisorKernel) -> None:
        self._kernel = kernel

    async def Status(self, _call: Call) -> JsonDict:
        kernel = self._kernel
        reasons = kernel.reasons()
        kernels: list[JsonDict] = []
        paused = False
        try:
            kernels = (await kernel.call("io.graced.Infrastructure.Kernels", timeout_s=1.0))["kernels"]
            reasons += [f"{one['name']} is {one['state']}" for one in kernels if one.get("state") != "active"]
        except GracedError as error:
            reasons.append(f"Infrastructure does not answer: {error.message}")
        try:
            paused = (await kernel.call("io.graced.Governance.State", timeout_s=1.0)).get("paused") is True
        except GracedError as error:
            reasons.append(f"Governance does not answer: {error.message}")
        return {
            "version": graced.__version__,
            "state": "degraded" if reasons else "paused" if paused else "running",
            "reasons": reasons,
            "boot_id": kernel.boot_id,
            "ready_boottime_us": kernel.ready_boottime_us,
            "config": {"path": kernel.paths.config_file(), "accepted": kernel.config_ok},
            "kernels": kernels,
            "keys": "" if kernel.ledger.key is None else kernel.ledger.key.source,
        }

    def Metrics(self, _call: Call) -> JsonDict:
        return {"families": self._kernel.metric_families()}


class _Htm(HtmInterface):
    """The queue, with one more hook: a heal that was handed back says so in its incident."""

    loops: Loops

    def find(self, task_id: str | None, key: str) -> Task | None:
        """The task of this name, else the live one with this idempotency key; None when there is neither."""
        book = self.queue.engine.book
        return book.find(task_number(task_id) if task_id else book.live_with_key(key))

    def Defer(self, call: Call) -> bytes:
        state = super().Defer(call)
        self.loops.on_held(get_str(call.parameters, "task_id"), get_str(call.parameters, "reason"))
        return state

    def hurry(self, task_id: str, reason: str) -> None:
        """What a deferred task waited for came early. Raises TaskError (no-such-task), StoreError."""
        self.queue.attempt(self.queue.engine.hurry, task_number(task_id), reason)


class SupervisorKernel(Kernel):
    """Wires the stores, the brain and the four interfaces."""

    name = "supervisor"
    gc_threshold = 20_000
    options = (*OPTIONS, validity_option("supervisor"))

    def __init__(self) -> None:
        super().__init__()
        self.boot_id = boot_id()
        self.ready_boottime_us = 0
        self._metrics: Registry | None = None
        self.bus = BusInterface(self.clock, self._on_bus_event)
        self.htm: _Htm
        self.queue: Queue
        self.ledger: LedgerInterface
        self.anchors: Anchors | None = None
        self.loops: Loops
        self.outbox: Outbox
        self._brain_store: BrainStore
        self._background: Background | None = None
        self._modes: dict[str, Mode] = {}
        self._table_problems = 0

    @property
    def metrics(self) -> Registry:
        """The numbers of this process; made when the first one is counted or asked for."""
        if self._metrics is None:
            from graced.metrics.families import SUPERVISOR
            from graced.metrics.registry import Registry

            self._metrics = Registry(SUPERVISOR)
        return self._metrics

    def setup(self) -> None:
        state = self.paths.state(self.name)
        self.ledger = LedgerInterface.for_kernel(self)
        self.queue = Queue(self.loop, self.clock, f"{state}/tasks.db", boot_id=self.boot_id)
        self.htm = _Htm(self.queue)
        self._brain_store = BrainStore(f"{state}/brain.db")
        self.loops = Loops(self, self._brain_store)
        self.outbox = Outbox(self.loop, self._brain_store, self.call)
        self.htm.loops = self.loops
        self.queue.on_dispatch = self.loops.on_dispatch
        self.queue.on_completed = self.loops.on_completed
        self.queue.on_sla = self.loops.on_sla
        self._modes = {mode.handler: mode for mode in self.queue.engine.modes()}
        self.queue.on_modes = self._on_modes
        self.ledger.on_checkpoint = self._on_checkpoint
        # Before the ledger's own hook: what the queue tells the brain is ledgered in the same turn.
        self.service.before_flush.insert(0, self.queue.flush)

    def interfaces(self) -> list[Interface]:
        return [SupervisorInterface(self), self.bus, self.htm, self.ledger]

    def started(self) -> None:
        self.ready_boottime_us = self.clock.boottime_us()
        if self.ledger.key is not None:
            self.ledger.key.start()
        self._recover()
        self.outbox.wake()
        self.loop.call_later(HOUSEKEEPING_AFTER_SECONDS, self._keep_house)

    def _recover(self) -> None:
        try:
            self.loops.recover()
        except StoreError as error:
            self.log(WARNING, f"what the former process left unfinished waits: {error}")
            self.loop.call_later(RECOVER_AGAIN_SECONDS, self._recover)

    def _keep_house(self) -> None:
        from graced.supervisor.anchors import Anchors
        from graced.supervisor.background import Background
        from graced.supervisor.housekeeping import Housekeeping

        if self.stopping:
            return
        self._background = Background(self.loop)
        archive = f"{self.paths.state(self.name)}/archive"
        house = Housekeeping(self.loop, self._background, self.queue, archive, Keep.of(self.config))
        house.start()
        self.queue.on_commit = house.committed
        self.queue.house = house
        self.ledger.on_tables = self._on_tables
        self.ledger.keep_house(self._background, self.config["ledger_keep_entries"])
        self.anchors = Anchors(self.loop, self.ledger.writer, self.config)
        self.anchors.on_answer = self._on_anchors
        self.anchors.put(self.ledger.writer.head.note)
        self.loop.spawn(self.anchors.check())

    def reload(self, config: Config) -> None:
        if self.queue.house is not None:
            self.queue.house.reload(Keep.of(config))

    def drain(self) -> None:
        self.queue.drain()

    def drained(self) -> bool:
        return self.queue.drained()

    def close(self) -> None:
        house = self.queue.house
        if house is not None and self._background is not None:
            house.close()
            self.ledger.stop_house()
            self._background.close(self._close_thread)
        self.queue.close()
        self.ledger.close()
        if self.anchors is not None:
            self.anchors.close()
        self._brain_store.close()

    def _close_thread(self) -> None:
        if self.queue.house is not None:
            self.queue.house.close_thread()
        self.ledger.close_thread()

    def publish(self, topic: str, data: JsonDict, subject: str | None = None, intent_id: str | None = None) -> None:
        self.bus.emit(topic, data, subject=subject, intent_id=intent_id)

    def _on_checkpoint(self, size: int, note: str) -> None:
        self.bus.emit(topics.CHECKPOINT, {"size": size, "checkpoint": note})
        if self.anchors is not None:
            self.anchors.put(note)

    def _on_anchors(self, found: Comparison) -> None:
        """The ledger was compared with its heads outside: an incident, or the end of one."""
        if found.answer == "agrees":
            cleared = [{"unit": UNIT, "finding": finding} for finding in LEDGER_FINDINGS.values()]
            self._tell_brain(topics.TELEMETRY_BRAIN, {"cleared": cleared})
        elif found.answer in LEDGER_FINDINGS:
            if found.lost:
                # What is written from here on is a new history: audits tell it from a forged one by this entry.
                back = {"size": found.size, "lost": found.lost}
                self.ledger.append("checkpoint", {"rolled_back": back}, unit=UNIT)
            evidence = {"detail": found.detail, "size": self.ledger.size}
            self._tell_anomaly(LEDGER_FINDINGS[found.answer], found.answer, "agrees", evidence)

    def _on_tables(self, found: list[str]) -> None:
        """The ledger's tables were compared with its entries: an incident, or the end of one."""
        self._table_problems = len(found)
        if found:
            self._tell_anomaly(TABLES_FINDING, len(found), 0, {"detail": found[0], "size": self.ledger.size})
        else:
            self._tell_brain(topics.TELEMETRY_BRAIN, {"cleared": [{"unit": UNIT, "finding": TABLES_FINDING}]})

    def _tell_anomaly(self, finding: str, value: object, threshold: object, evidence: JsonDict) -> None:
        anomaly = {"type": finding, "value": value, "threshold": threshold, "severity": "critical"}
        data = {"unit": UNIT, "finding": finding, "anomalies": [anomaly], "evidence": evidence}
        self._tell_brain(topics.ANOMALY, data)

    def _tell_brain(self, topic: str, data: JsonDict) -> None:
        now = iso(self.clock.wall_us())
        self.loops.on_event(Event(id="ledger", source="/graced/supervisor", type=topic, time=now, data=data))

    def _on_bus_event(self, event: Event) -> None:
        if event.type == topics.TELEMETRY_HTM:
            hear_host(self.queue.engine, event.data, self.clock.monotonic_us(), self.log)
        self.loops.on_event(event)

    def _on_modes(self, modes: list[Mode]) -> None:
        """The journal says who held which handler, and that it is free again."""
        now = {mode.handler: mode for mode in modes}
        for handler, mode in now.items():
            if self._modes.get(handler) != mode:
                self.log(NOTICE, f"{_called(handler)} {mode.word} by {mode.by}: {mode.reason or 'no reason given'}")
        for handler in self._modes.keys() - now.keys():
            self.log(NOTICE, f"{_called(handler)} no longer {self._modes[handler].word}")
        self._modes = now

    def reasons(self) -> list[str]:
        """Why the supervisor itself is not well; empty when it is."""
        reasons = [self.queue.error, self.ledger.failure or "", self.outbox.error and f"Memory: {self.outbox.error}"]
        if self.anchors is not None:
            reasons.append(self.anchors.error)
        if self.queue.house is not None:
            reasons.append(self.queue.house.error)
        reasons.append(self.ledger.house_error)
        if not self.config_ok:
            reasons.append("the configuration file was refused, the former one is in use: gracectl config check")
        return [reason for reason in reasons if reason]

    def status(self) -> str:
        open_count = len(self.loops.brain.open_incidents)
        incidents = counted(open_count, "open incident")
        tasks = counted(self.queue.depth, "task")
        return "; ".join([f"{tasks}, {incidents}, ledger at {self.ledger.size}", *self.reasons()])

    def metric_families(self) -> list[JsonDict]:
        """Everything the exporter shows of this process."""
        from graced.metrics.families import ANCHOR_ANSWERS

        self.metrics.put("graced_incidents_open", len(self.loops.brain.open_incidents))
        for name, report in self.loops.reports.items():
            self.metrics.put("graced_internal_errors_total", float(report["internal_errors"]), kernel=name)
            failures = [one["value"] for one in report["counters"] if one["name"] == RELOAD_FAILURES]
            self.metrics.put(RELOAD_FAILURES, sum(failures), kernel=name)
        self.metrics.put("graced_bus_dropped_total", self.bus.dropped)
        self.metrics.put("graced_ledger_entries_total", self.ledger.size)
        found = "unread" if self.anchors is None else self.anchors.comparison.answer
        for answer in ANCHOR_ANSWERS:
            self.metrics.put("graced_ledger_anchor", float(answer == found), answer=answer)
        self.metrics.put("graced_ledger_anchor_errors_total", 0 if self.anchors is None else self.anchors.errors)
        self.metrics.put("graced_ledger_table_problems", self._table_problems)
        self.metrics.put("graced_config_last_reload_successful", 1.0 if self.config_ok else 0.0)
        return self.htm.metrics() + self.metrics.families()


def _called(handler: str) -> str:
    return "all handlers are" if handler == "*" else f"the handler {handler} is"


main = kernel_main(SupervisorKernel)
