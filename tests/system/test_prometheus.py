"""Debian's Prometheus scrapes graced, loads its rules, and its promtool has nothing to say about the page."""

from __future__ import annotations

import json
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import image
from tests.support.adopted import Adopted
from tests.support.container import Container

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAMILIES = {
    "graced_kernel_up": "gauge",
    "graced_kernel_boot_duration_seconds": "histogram",
    "graced_kernel_restarts_total": "counter",
    "graced_watchdog_resets_total": "counter",
    "graced_tasks": "gauge",
    "graced_sla_breaches_total": "counter",
    "graced_task_wait_seconds": "histogram",
    "graced_task_oldest_queued_seconds": "gauge",
    "graced_task_dead_letters_total": "counter",
    "graced_task_handlers_held": "gauge",
    "graced_incidents_total": "counter",
    "graced_incidents_open": "gauge",
    "graced_remediations_total": "counter",
    "graced_remediation_failures_total": "counter",
    "graced_remediation_blocked_total": "counter",
    "graced_time_to_recover_seconds": "histogram",
    "graced_time_to_detect_seconds": "histogram",
    "graced_approvals_open": "gauge",
    "graced_shadow": "gauge",
    "graced_policy_unusable": "gauge",
}
SHARE = "/usr/share/graced/prometheus"
SERVER = "http://127.0.0.1:9090/api/v1"


@pytest.fixture
def machine(suite: str, deb: Path) -> Iterator[Container]:
    """A machine with graced and Prometheus."""
    with Container(image.installed(suite, deb, ("prometheus",))) as container:
        yield container
        assert container.complaints() == []


def ask(machine: Container, path: str, **parameters: str) -> Any:
    """The data of an answer of Prometheus' own interface; null while it does not answer."""
    url = f"{SERVER}/{path}?{urllib.parse.urlencode(parameters)}"
    done = machine.run(["curl", "-sS", "--fail", "--max-time", "30", url])
    return json.loads(done.stdout)["data"] if done.returncode == 0 else None


def values(machine: Container, query: str) -> list[float]:
    """The values of an instant query."""
    answer = ask(machine, "query", query=query)
    return [float(one["value"][1]) for one in answer["result"]] if answer else []


def test_prometheus_scrapes_what_happened(machine: Container) -> None:
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    with nginx.healed():
        nginx.kill("KILL", "all")

    page = machine.run(["curl", "-sS", "--fail", "http://127.0.0.1:9473/metrics"]).ok().stdout
    checked = machine.run(["promtool", "check", "metrics"], input=page)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")

    machine.write(
        "/etc/prometheus/prometheus.yml",
        f"global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [{SHARE}/graced.rules.yml]\n"
        "scrape_configs:\n"
        + "".join(
            f"{line}\n" for line in machine.read(f"{SHARE}/scrape.yml").splitlines() if line != "scrape_configs:"
        ),
    )
    machine.run(["promtool", "check", "config", "/etc/prometheus/prometheus.yml"]).ok()
    machine.run(["promtool", "check", "rules", f"{SHARE}/graced.rules.yml"]).ok()
    machine.systemctl("start", "prometheus.service").ok()

    def seen(query: str, wanted: list[float]) -> None:
        # One scrape may take longer than the second until the next; it is none then, and the next one counts.
        machine.wait_until(f"{query} is {wanted}", lambda: values(machine, query) == wanted)

    seen('up{job="graced"}', [1.0])
    seen("count(graced_kernel_up == 1)", [8.0])
    seen('graced_incidents_total{outcome="healed"}', [1.0])
    seen('graced_remediations_total{playbook="restart-unit"}', [1.0])
    seen("graced_time_to_recover_seconds_count", [1.0])
    seen("graced_time_to_detect_seconds_count", [1.0])
    # A busy machine may be under pressure, which is an incident of its own; the repaired one is closed.
    seen("graced_incidents_open <= bool 1", [1.0])
    seen("graced_approvals_open + graced_repairs_held + graced_paused + graced_shadow + graced_policy_unusable", [0.0])
    seen("sum(graced_watchdog_resets_total)", [0.0])
    seen('sum(graced_tasks{state="done"})', [1.0])

    metadata = machine.wait_until("metadata", lambda: ask(machine, "metadata"))
    types = {name: one[0]["type"] for name, one in metadata.items() if name.startswith("graced_")}
    # Prometheus keeps the name of a counter with or without its suffix, by version.
    for name, kind in FAMILIES.items():
        assert types.get(name, types.get(name.removesuffix("_total"))) == kind, name
    groups = machine.wait_until("rules", lambda: ask(machine, "rules"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    assert [rule["name"] for rule in rules if rule.get("state") == "firing"] == []
