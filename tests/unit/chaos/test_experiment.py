"""Experiment files: the shipped ones, and every way to get one wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos import experiment
from chaos.experiment import Experiment, load, names, parse
from chaos.probes import FAULTS
from chaos.shell import ChaosError
from chaos.targets import Target

NGINX = Target("nginx.service", Path("/etc/nginx/nginx.conf"), kernel=False)


def shipped(name: str = "kill") -> Any:
    """A shipped file, parsed."""
    return json.loads((experiment.DIRECTORY / f"{name}.json").read_text())


def test_every_fault_has_its_experiment_with_a_way_back() -> None:
    assert {load(name).fault for name in names()} == set(FAULTS)
    for name in names():
        one = load(name)
        assert one.name == name
        assert {probe.func for probe in one.steady} == {"serves", "healthy"}


def test_limits_are_those_of_the_contract() -> None:
    assert {name: (load(name).max_kernel_ms, load(name).plus_watchdog) for name in ("kill", "stop")} == {
        "kill": (500.0, False),
        "stop": (500.0, True),
    }
    assert load("kill").limit_ms(NGINX) == load("kill").max_adopted_ms


def test_a_hang_of_a_kernel_may_take_its_watchdog_and_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Target("graced-code.service", Path("/etc/graced/graced.toml"), kernel=True)
    monkeypatch.setattr("chaos.targets.show", lambda _unit, *_names: {"WatchdogUSec": "3s"})
    assert load("stop").limit_ms(kernel) == 3500.0
    assert load("kill").limit_ms(kernel) == 500.0
    monkeypatch.setattr("chaos.targets.show", lambda _unit, *_names: {"WatchdogUSec": "infinity"})
    with pytest.raises(ChaosError, match="no watchdog"):
        load("stop").limit_ms(kernel)


def broken(path: list[Any], value: Any) -> Any:
    """A shipped file with one thing replaced, or removed when `value` is ..."""
    data = shipped()
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


PROVIDER = ["method", 0, "provider"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["title"], ..., "title"),
        (["steady-state-hypothesis"], ..., "steady-state-hypothesis"),
        (["steady-state-hypothesis", "probes", 0, "tolerance"], "yes", "tolerance"),
        (["steady-state-hypothesis", "probes", 0, "provider", "func"], "inject", "inject"),
        (["method"], [], "one action"),
        ([*PROVIDER, "module"], "os", "chaos.probes"),
        ([*PROVIDER, "type"], "process", "chaos.probes"),
        ([*PROVIDER, "func"], "system", "'system'"),
        ([*PROVIDER, "arguments", "fault"], "reboot", "fault"),
        ([*PROVIDER, "arguments", "unit"], "sshd.service", "unit"),
        ([*PROVIDER, "arguments", "unit"], 7, "strings"),
        (["rollbacks"], [], "way back"),
        (["rollbacks", 0, "provider", "func"], "serves", "rollback"),
        (["extensions"], [], "graced"),
        (["extensions", 0, "max_kernel_ms"], "fast", "max_kernel_ms"),
        (["extensions", 0, "max_kernel_ms"], True, "max_kernel_ms"),
        (["extensions", 0, "max_adopted_ms"], 0, "max_adopted_ms"),
    ],
)
def test_a_wrong_file_is_refused_with_the_field(path: list[Any], value: Any, said: str) -> None:
    assert isinstance(parse("kill", shipped()), Experiment)
    with pytest.raises(ChaosError, match=said):
        parse("kill", broken(path, value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a JSON value."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(found for key, value in inner for found in places(value, (*path, key)))]


@given(st.sampled_from(places(shipped())), JSON)
def test_no_json_makes_it_fall_over(path: tuple[Any, ...], value: Any) -> None:
    data = copy.deepcopy(shipped())
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if path:
        inner[path[-1]] = value
    else:
        data = value
    try:
        assert parse("kill", data).fault in FAULTS
    except ChaosError as error:
        assert str(error)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "DIRECTORY", tmp_path)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ChaosError, match=r"bad\.json"):
        load("bad")
    with pytest.raises(ChaosError, match=r"missing\.json"):
        load("missing")


def test_a_probe_is_asked_about_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def serves(unit: str) -> bool:
        asked.append(unit)
        return False

    monkeypatch.setitem(experiment.PROBES, "serves", serves)
    probe = next(one for one in load("kill").steady if one.func == "serves")
    assert not probe.holds(NGINX)
    assert asked == ["nginx.service"]
