"""Every metric family graced shows: one table, so that names, units and labels are decided once.

QUEUE and SUPERVISOR families are kept by the supervisor and cross the wire; KERNEL families are made by the
exporter from what Infrastructure knows about the daemons, GOVERNANCE ones from what Governance says of itself.
Conventions: base units, ``_total`` on counters, attempts and failures as two counters, no task ids or unit instances as
labels. Pure data.
"""

from __future__ import annotations

from graced.metrics.registry import COUNTER, GAUGE, HISTOGRAM, Family
from graced.model.daemons import KERNELS

PRIORITIES = ("critical", "high", "normal", "low")
TASK_STATES = ("queued", "waiting", "leased", "done", "failed", "dead", "cancelled")
OUTCOMES = ("healed", "failed", "held", "refused", "observed")
ANCHOR_ANSWERS = ("agrees", "none", "unread", "rolled-back", "differs")
BLOCKS = ("held", "refused")

BOOT_EDGES_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
RECOVER_EDGES_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
TASK_EDGES_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
DETECT_EDGES_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def _each(*names: str) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in names)


QUEUE: tuple[Family, ...] = (
    Family(
        "graced_tasks",
        GAUGE,
        "Tasks in the store by priority and state.",
        labels=("priority", "state"),
        values=tuple((priority, state) for priority in PRIORITIES for state in TASK_STATES),
    ),
    Family(
        "graced_sla_breaches_total",
        COUNTER,
        "Tasks that passed their deadline, queued or running.",
        labels=("priority",),
        values=_each(*PRIORITIES),
    ),
    Family(
        "graced_task_wait_seconds",
        HISTOGRAM,
        "From the submission of a task to a lease.",
        labels=("priority",),
        values=_each(*PRIORITIES),
        buckets=TASK_EDGES_SECONDS,
    ),
    Family(
        "graced_task_run_seconds",
        HISTOGRAM,
        "From the lease of a task to its completion.",
        buckets=TASK_EDGES_SECONDS,
    ),
    Family(
        "graced_task_oldest_queued_seconds",
        GAUGE,
        "How long the oldest queued task has waited; 0 when none is, absent when it is too far back to be found.",
        labels=("priority",),
        values=_each(*PRIORITIES),
    ),
    Family("graced_task_retries_total", COUNTER, "Attempts that failed and are tried again."),
    Family("graced_task_dead_letters_total", COUNTER, "Tasks that used up their attempts and wait for a person."),
    Family("graced_task_leases_lost_total", COUNTER, "Leases lost with their worker: it went away or fell silent."),
    Family("graced_task_refused_total", COUNTER, "Submissions refused as busy."),
    Family("graced_task_changes_dropped_total", COUNTER, "Changes of tasks that a slow watcher lost."),
    Family(
        "graced_task_handlers_held",
        GAUGE,
        "Handlers that people have paused or drained; all of them at once count as one.",
        labels=("mode",),
        values=_each("paused", "drained"),
    ),
    Family("graced_tasks_archived_total", COUNTER, "Finished tasks that were moved to the archive."),
    Family(
        "graced_queue_housekeeping_errors_total",
        COUNTER,
        "Times that archiving, or copying the write-ahead log, failed and was put off.",
    ),
    Family("graced_queue_db_bytes", GAUGE, "Size of the queue's database file."),
    Family("graced_queue_wal_bytes", GAUGE, "Size of the queue's write-ahead log file."),
)
"""Kept by the queue itself: graced.supervisor.taskstats fills them."""

SUPERVISOR: tuple[Family, ...] = (
    Family(
        "graced_incidents_total",
        COUNTER,
        "Incidents closed, by outcome.",
        labels=("outcome",),
        values=_each(*OUTCOMES),
    ),
    Family("graced_incidents_open", GAUGE, "Incidents open now."),
    Family(
        "graced_remediations_total",
        COUNTER,
        "Repairs attempted, by playbook.",
        labels=("playbook",),
    ),
    Family(
        "graced_remediation_failures_total",
        COUNTER,
        "Repairs attempted that did not help, by playbook.",
        labels=("playbook",),
    ),
    Family(
        "graced_remediation_blocked_total",
        COUNTER,
        "Repairs that were not attempted: held for now, or refused by policy.",
        labels=("reason",),
        values=_each(*BLOCKS),
    ),
    Family(
        "graced_time_to_recover_seconds",
        HISTOGRAM,
        "From the fault's own time stamp to the verified repair.",
        buckets=RECOVER_EDGES_SECONDS,
    ),
    Family(
        "graced_time_to_detect_seconds",
        HISTOGRAM,
        "From the fault's own time stamp to the finding.",
        buckets=DETECT_EDGES_SECONDS,
    ),
    Family("graced_bus_dropped_total", COUNTER, "Events that a slow subscriber lost."),
    Family("graced_ledger_entries_total", COUNTER, "Entries in the signed ledger."),
    Family(
        "graced_ledger_anchor",
        GAUGE,
        "1 for what the heads kept outside the ledger said about it after the start.",
        labels=("answer",),
        values=_each(*ANCHOR_ANSWERS),
    ),
    Family(
        "graced_ledger_table_problems",
        GAUGE,
        "Rows beside the ledger's entries that did not say what the entries say, as of the start.",
    ),
    Family("graced_ledger_anchor_errors_total", COUNTER, "Heads that could not be delivered to a file or web address."),
    Family(
        "graced_config_reload_failures_total",
        COUNTER,
        "Reloads of a daemon's configuration that were refused; the running one was kept.",
        labels=("kernel",),
        values=_each(*KERNELS),
    ),
    Family(
        "graced_internal_errors_total",
        COUNTER,
        "Errors of a daemon that nobody foresaw; each has a traceback in the journal.",
        labels=("kernel",),
        values=_each(*KERNELS),
    ),
    Family(
        "graced_config_last_reload_successful",
        GAUGE,
        "1 when the last reload of the configuration was accepted, 0 when the running one was kept.",
    ),
)

KERNEL: tuple[Family, ...] = (
    Family(
        "graced_kernel_up",
        GAUGE,
        "1 when the daemon is active, 0 when it is not or when nothing is known about it.",
        labels=("kernel",),
        values=_each(*KERNELS),
    ),
    Family(
        "graced_kernel_boot_duration_seconds",
        HISTOGRAM,
        "From the start of a daemon to READY, for each start that was seen.",
        labels=("kernel",),
        values=_each(*KERNELS),
        buckets=BOOT_EDGES_SECONDS,
    ),
    Family(
        "graced_kernel_restarts_total",
        COUNTER,
        "Automatic restarts of a daemon since systemd loaded its unit.",
        labels=("kernel",),
        values=_each(*KERNELS),
    ),
    Family(
        "graced_watchdog_resets_total",
        COUNTER,
        "Restarts of a daemon because its watchdog starved.",
        labels=("kernel",),
        values=_each(*KERNELS),
    ),
)

GOVERNANCE: tuple[Family, ...] = (
    Family("graced_approvals_open", GAUGE, "Repairs for which people were asked, and have not answered."),
    Family("graced_repairs_held", GAUGE, "Repairs that wait for a person, a rule, a window or the end of a pause."),
    Family("graced_paused", GAUGE, "1 while people hold every repair."),
    Family("graced_shadow", GAUGE, "1 while everything is decided and recorded, and nothing acts."),
    Family("graced_policy_unusable", GAUGE, "1 while a policy file that cannot be used makes every repair be denied."),
)
