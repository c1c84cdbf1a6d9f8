"""The shipped Prometheus files: promtool accepts them, and alerts refer only to metrics that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from graced.exporter.scrape import Scraper
from graced.metrics.families import GOVERNANCE, QUEUE, SUPERVISOR

SHARE = Path(__file__).resolve().parents[3] / "graced/share/prometheus"


def test_promtool_accepts_the_files() -> None:
    subprocess.run(["promtool", "check", "rules", SHARE / "graced.rules.yml"], check=True, capture_output=True)
    subprocess.run(["promtool", "check", "config", SHARE / "scrape.yml"], check=True, capture_output=True)


def test_alerts_use_metrics_that_exist() -> None:
    families, _ = Scraper().families(None, {"kernels": []}, None)
    known = {family["name"] for family in families} | {family.name for family in (*QUEUE, *SUPERVISOR, *GOVERNANCE)}
    rules = (SHARE / "graced.rules.yml").read_text()
    used = {re.sub("_bucket$", "", name) for name in re.findall(r"\bgraced_[a-z_]+", rules)}
    assert used
    assert used <= known
