"""A ledger that is not what its heads outside know, and heads that do not get there, raise their alerts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

RULES = Path(__file__).resolve().parents[3] / "graced/share/prometheus/graced.rules.yml"
ANCHOR, ERRORS = "graced_ledger_anchor", "graced_ledger_anchor_errors_total"


@pytest.mark.parametrize(
    ("metric", "labels", "values", "alert"),
    [
        (ANCHOR, {"answer": "differs"}, "1x60", "GracedLedgerChanged"),
        (ANCHOR, {"answer": "rolled-back"}, "1x60", "GracedLedgerChanged"),
        (ANCHOR, {"answer": "unread"}, "1x60", "GracedAnchorFails"),
        (ERRORS, {}, "0+1x60", "GracedAnchorFails"),
        (ANCHOR, {"answer": "agrees"}, "1x60", ""),
        (ANCHOR, {"answer": "none"}, "1x60", ""),
        (ANCHOR, {"answer": "differs"}, "0x60", ""),
        # One that was tried again with success.
        (ERRORS, {}, "0x10 1x50", ""),
    ],
)
def test_alerts(tmp_path: Path, metric: str, labels: dict[str, str], values: str, alert: str) -> None:
    series = metric + "{" + ",".join(f'{name}="{value}"' for name, value in {"instance": "a", **labels}.items()) + "}"
    severity = {"GracedLedgerChanged": "critical", "GracedAnchorFails": "warning"}
    query = [
        {
            "expr": 'count by (alertname, severity) (ALERTS{alertstate="firing"})',
            "eval_time": "25m",
            "exp_samples": [{"labels": f'{{alertname="{alert}",severity="{severity[alert]}"}}', "value": 1}]
            if alert
            else [],
        }
    ]
    tests = [{"interval": "30s", "input_series": [{"series": series, "values": values}], "promql_expr_test": query}]
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
