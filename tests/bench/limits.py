"""Security exposure of each daemon, as systemd itself rates it."""

from __future__ import annotations

import re

from tests.bench.bench import Bench
from tests.bench.figures import Figure, figure
from tests.bench.inside.names import KERNELS

GOALS = dict.fromkeys(KERNELS, 1.0) | {"infrastructure": 1.5, "verification": 1.5, "exporter": 1.5, "actuator": 2.5}


def exposure(bench: Bench) -> list[Figure]:
    """One figure per unit; 0 is no exposure, 10 no protection at all."""
    figures = []
    with bench.machine() as machine:
        machine.systemctl("start", "graced.target").ok()
        for name, limit in GOALS.items():
            unit = f"graced-{name}.service"
            text = machine.run(["systemd-analyze", "security", "--no-pager", unit]).ok().stdout
            found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
            if found is None:
                raise AssertionError(f"systemd-analyze security {unit} gave no level:\n{text}")
            value = float(found[1])
            figures.append(figure(f"exposure_{name}", "points", [value], goal=f"<= {limit}", ok=value <= limit))
    return figures
