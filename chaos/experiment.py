"""Experiment files: the JSON of the Open Chaos Initiative, of which the runner understands what chaos.probes offers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chaos.probes import ACTIONS, FAULTS, PROBES, ROLLBACKS
from chaos.shell import ChaosError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from chaos.targets import Target

DIRECTORY = Path(__file__).parent / "experiments"


@dataclass(frozen=True)
class Probe:
    """One question of the steady state, and the answer it must have."""

    name: str
    func: str
    arguments: dict[str, str]
    tolerance: bool

    def holds(self, target: Target) -> bool:
        """Ask it about `target`."""
        arguments = {key: value.replace("${unit}", target.unit) for key, value in self.arguments.items()}
        return PROBES[self.func](**arguments) is self.tolerance


@dataclass(frozen=True)
class Experiment:
    """A checked file: what must hold before, which fault, how long a target may be away."""

    name: str
    title: str
    steady: tuple[Probe, ...]
    fault: str
    max_kernel_ms: float
    max_adopted_ms: float
    plus_watchdog: bool

    def limit_ms(self, target: Target) -> float:
        """How long the target may be away."""
        if not target.kernel:
            return self.max_adopted_ms
        return self.max_kernel_ms + (target.watchdog_ms() if self.plus_watchdog else 0.0)


def names() -> list[str]:
    """Every experiment there is."""
    return sorted(path.stem for path in DIRECTORY.glob("*.json"))


def load(name: str) -> Experiment:
    """Read and check an experiment file. ChaosError says what is wrong with it."""
    path = DIRECTORY / f"{name}.json"
    try:
        return parse(name, json.loads(path.read_text()))
    except (OSError, ValueError, ChaosError) as error:
        raise ChaosError(f"{path}: {error}") from error


def parse(name: str, data: Any) -> Experiment:
    """Check the content of the file `name`. ChaosError names the field that is wrong."""
    steady = _dict(_dict(data, "the file").get("steady-state-hypothesis"), "steady-state-hypothesis")
    method = _list(data.get("method"), "method")
    if len(method) != 1:
        raise ChaosError("method: one action, so that a table row has one cause")
    action = _provider(method[0], "method", ACTIONS)
    fault = action["arguments"].get("fault")
    if fault not in FAULTS or action["arguments"].get("unit") != "${unit}":
        raise ChaosError(f"method: inject needs fault (one of {', '.join(FAULTS)}) and unit ${{unit}}")
    rollbacks = [_provider(one, "rollbacks", ROLLBACKS) for one in _list(data.get("rollbacks"), "rollbacks")]
    if not rollbacks:
        raise ChaosError("rollbacks: a fault without a way back is not made")
    ours = [
        one for one in _list(data.get("extensions"), "extensions") if _dict(one, "extensions").get("name") == "graced"
    ]
    if len(ours) != 1:
        raise ChaosError("extensions: exactly one with the name graced")
    return Experiment(
        name=name,
        title=_text(data.get("title"), "title"),
        steady=tuple(_probe(one) for one in _list(steady.get("probes"), "probes")),
        fault=fault,
        max_kernel_ms=_limit(ours[0], "max_kernel_ms"),
        max_adopted_ms=_limit(ours[0], "max_adopted_ms"),
        plus_watchdog=ours[0].get("plus_watchdog") is True,
    )


def _probe(data: Any) -> Probe:
    provider = _provider(data, "probes", PROBES)
    if not isinstance(data.get("tolerance"), bool):
        raise ChaosError("probes: tolerance must be true or false")
    return Probe(_text(data.get("name"), "probes"), provider["func"], provider["arguments"], data["tolerance"])


def _provider(data: Any, where: str, known: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    provider = _dict(_dict(data, where).get("provider"), f"{where}: provider")
    if provider.get("type") != "python" or provider.get("module") != "chaos.probes":
        raise ChaosError(f"{where}: only python functions of chaos.probes may be called")
    func = provider.get("func")
    if not isinstance(func, str) or func not in known:
        raise ChaosError(f"{where}: {func!r} is not one of {', '.join(known)}")
    arguments = _dict(provider.get("arguments", {}), f"{where}: arguments")
    if not all(isinstance(value, str) for value in arguments.values()):
        raise ChaosError(f"{where}: arguments are strings")
    return {"func": func, "arguments": arguments}


def _limit(data: dict[str, Any], key: str) -> float:
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ChaosError(f"extensions: {key} must be a number of milliseconds above 0")
    return float(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ChaosError(f"{where}: a text is missing")
    return value


def _dict(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ChaosError(f"{where}: must be an object")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ChaosError(f"{where}: must be a list")
    return value
