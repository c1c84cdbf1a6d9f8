from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graced.host import pressure

PSI = """some avg10=1.50 avg60=0.20 avg300=0.00 total=123
full avg10=0.10 avg60=0.00 avg300=0.00 total=4
"""


def test_psi():
    assert pressure.parse_psi(PSI) == {
        "some_avg10": 1.5,
        "some_avg60": 0.2,
        "some_avg300": 0.0,
        "full_avg10": 0.1,
        "full_avg60": 0.0,
        "full_avg300": 0.0,
    }


def test_unreadable_is_unknown(tmp_path):
    found = pressure.sample(str(tmp_path), disks=(str(tmp_path / "missing"),))
    assert found["pressure"] == {"cpu": None, "memory": None, "io": None}
    assert found["memory_available_bytes"] is None
    assert found["load1"] is None
    assert found["disks"] == []


def test_this_host_answers():
    found = pressure.sample(disks=("/",))
    assert 0 < found["memory_available_bytes"] <= found["memory_total_bytes"]
    assert found["load1"] >= 0
    assert found["disks"][0]["size_bytes"] >= found["disks"][0]["free_bytes"]


@given(st.text(max_size=300))
def test_any_text(text):
    values = pressure.parse_psi(text)
    assert values is None or all(0 <= v <= 100 for v in values.values())
    assert all(v >= 0 for v in pressure.parse_meminfo(text).values())
    pressure.parse_loadavg(text)


@given(st.floats(0, 100), st.floats(0, 100))
def test_psi_reads_back(ten, sixty):
    values = pressure.parse_psi(f"some avg10={ten:.2f} avg60={sixty:.2f} avg300=0.00 total=1\n")
    assert values["some_avg10"] == float(f"{ten:.2f}")
