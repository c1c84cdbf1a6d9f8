"""One scrape: what supervisor, Infrastructure and Governance say now, as families. Pure but for its boot histogram.

The supervisor's families are passed on as they are. The others are made here from the answers of their daemons.
An answer that did not come is shown as such (`graced_up` 0, `graced_scrape_error` 1) and its numbers are left out.
"""

from __future__ import annotations

import sys

import graced
from graced.base.errors import FormatError
from graced.base.json import get_bool, get_int, get_list, opt_str
from graced.exporter.render import MAX_FAMILIES, check_family
from graced.metrics.families import GOVERNANCE as RULE
from graced.metrics.families import KERNEL
from graced.metrics.registry import COUNTER, GAUGE, Family, Registry
from graced.model.daemons import KERNELS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

SUPERVISOR = "supervisor"
INFRASTRUCTURE = "infrastructure"
GOVERNANCE = "governance"
SOURCES = (SUPERVISOR, INFRASTRUCTURE, GOVERNANCE)

_OWN = (
    Family("graced_up", GAUGE, "1 when the supervisor answered this scrape, 0 when it did not."),
    Family(
        "graced_build_info",
        GAUGE,
        "Version of graced and of its Python; the value is always 1.",
        labels=("version", "python"),
    ),
    Family(
        "graced_scrape_error",
        GAUGE,
        "1 when this source could not be asked or gave a wrong answer during this scrape.",
        labels=("source",),
        values=tuple((source,) for source in SOURCES),
    ),
    Family(
        "graced_scrape_errors_total",
        COUNTER,
        "Scrapes during which this source could not be asked or gave a wrong answer.",
        labels=("source",),
        values=tuple((source,) for source in SOURCES),
    ),
)
_RESERVED = frozenset(family.name for family in (*_OWN, *KERNEL, *RULE))
_PYTHON = ".".join(map(str, sys.version_info[:3]))


class Scraper:
    """Turns answers into families; remembers which starts of which daemon it has counted."""

    def __init__(self) -> None:
        self._own = Registry(_OWN)
        self._own.put("graced_build_info", 1, version=graced.__version__, python=_PYTHON)
        self._kernels = Registry(KERNEL)
        self._boots: dict[str, int] = {}

    def families(
        self, metrics: JsonDict | None, kernels: JsonDict | None, rule: JsonDict | None
    ) -> tuple[list[JsonDict], list[str]]:
        """All families for this moment, and what was wrong.

        `metrics` is the reply of Supervisor.Metrics, `kernels` that of Infrastructure.Kernels, `rule` that of
        Governance.State, None when it did not come. A wrong answer counts as none.
        """
        problems: list[str] = []
        passed = self._guard(SUPERVISOR, metrics, _passed_on, problems)
        rows = self._guard(INFRASTRUCTURE, kernels, _rows, problems)
        self._own.put("graced_up", 0 if passed is None else 1)
        if rows is not None:
            self._take(rows)
        known = self._kernels.families()
        if rows is None:
            # Nothing is known about the daemons now: no up, and no totals that may be old.
            known = [_all_down()]
        ruled = self._guard(GOVERNANCE, rule, _ruled, problems)
        return [*self._own.families(), *known, *(passed or []), *(ruled or [])], problems

    def _guard(self, source: str, reply: JsonDict | None, read: _Reader, problems: list[str]) -> list[JsonDict] | None:
        answer = None
        if reply is not None:
            try:
                answer = read(reply)
            except FormatError as error:
                problems.append(f"{source}: {error.message}")
        self._own.put("graced_scrape_error", 1 if answer is None else 0, source=source)
        if answer is None:
            self._own.inc("graced_scrape_errors_total", source=source)
        return answer

    def look(self, kernels: JsonDict) -> None:
        """Between scrapes: count new starts from a reply of Infrastructure.Kernels. Raises FormatError."""
        self._take(_rows(kernels))

    def _take(self, rows: list[JsonDict]) -> None:
        self._kernels.clear("graced_kernel_up")
        seen = {str(row.get("name")): row for row in rows}
        for name in KERNELS:
            row = seen.get(name, {})
            self._kernels.put("graced_kernel_up", 1 if row.get("state") == "active" else 0, kernel=name)
            for field, metric in (
                ("restarts", "graced_kernel_restarts_total"),
                ("watchdog_resets", "graced_watchdog_resets_total"),
            ):
                value = row.get(field)
                if isinstance(value, int) and not isinstance(value, bool):
                    self._kernels.put(metric, value, kernel=name)
                else:
                    self._kernels.forget(metric, kernel=name)
            pid, ready_ms = row.get("pid"), row.get("ready_ms")
            if isinstance(pid, int) and pid > 0 and isinstance(ready_ms, (int, float)) and self._boots.get(name) != pid:
                self._boots[name] = pid
                self._kernels.observe("graced_kernel_boot_duration_seconds", ready_ms / 1000, kernel=name)


if TYPE_CHECKING:
    from collections.abc import Callable

    _Reader = Callable[[JsonDict], list[JsonDict]]


def _rows(reply: JsonDict) -> list[JsonDict]:
    rows = get_list(reply, "kernels")
    for row in rows:
        if not isinstance(row, dict):
            raise FormatError(f"$.kernels holds a {type(row).__name__}")
    return rows


def _passed_on(reply: JsonDict) -> list[JsonDict]:
    families = [check_family(family) for family in get_list(reply, "families")]
    names = [family["name"] for family in families]
    if len(set(names)) != len(names) or len(names) > MAX_FAMILIES:
        raise FormatError("families are doubled or too many")
    return [family for family in families if family["name"] not in _RESERVED]


def _ruled(reply: JsonDict) -> list[JsonDict]:
    registry = Registry(RULE)
    registry.put("graced_approvals_open", get_int(reply, "approvals_open"))
    registry.put("graced_repairs_held", get_int(reply, "held"))
    registry.put("graced_paused", float(get_bool(reply, "paused")))
    registry.put("graced_shadow", float(get_bool(reply, "shadow")))
    registry.put("graced_policy_unusable", float(bool(opt_str(reply, "unusable"))))
    return registry.families()


def _all_down() -> JsonDict:
    up = KERNEL[0]
    samples = [{"labels": {"kernel": name}, "value": 0.0} for name in KERNELS]
    return {"name": up.name, "kind": up.kind, "help": up.help, "samples": samples}
