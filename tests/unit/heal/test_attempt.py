"""What a heal says of itself: times of one boot's clock only."""

import pytest

from graced.heal.attempt import Heal


@pytest.mark.parametrize(("boot_id", "heal_ms"), [("here", 1000.0), (None, 1000.0), ("before", None)])
def test_how_long_it_took_is_known_within_one_boot(boot_id, heal_ms):
    anomaly = {"fault_monotonic_us": 1_000_000, "detected_monotonic_us": 1_004_000}
    context = {"unit": "nginx.service", "finding": "unit.failed", "anomaly": anomaly, "boot_id": boot_id}
    heal = Heal({"task_id": "task_1", "attempt": 1, "context": context}, "here")
    result = heal.result("success", verdict={"decided_monotonic_us": 2_000_000})
    assert (result["detect_ms"], result["heal_ms"]) == (4.0, heal_ms)
