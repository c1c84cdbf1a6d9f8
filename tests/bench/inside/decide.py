"""Inside the container: the ledger's append and Governance's Decide through their sockets.

usage: python3 -m inside.decide ledger COUNT | decide COUNT | act COUNT (both as _graced-healing) | policy COUNT
"""

from __future__ import annotations

import sys
import time

from inside.host import answer, give_up, now_us
from inside.varlink import Wire

WARM = 3


def ledger(count: int) -> list[float]:
    """One entry at a time, each on disk before it is answered."""
    wire = Wire("io.graced.Ledger")
    entry = {"kind": "step", "unit": "bench.service", "data": {"playbook": "bench", "index": 0, "verb": "diagnose"}}
    return [wire.timed("io.graced.Ledger.Append", entry) for _ in range(count)]


def decide(count: int) -> list[float]:
    """An allowed plan each time; its outcome is told in between, untimed."""
    return _decide(count, act=False)


def act(count: int) -> list[float]:
    """As `decide`, and each warrant goes to the actuator, which checks it and the unit, and leaves the unit alone: an
    admin stopped it."""
    return _decide(count, act=True)


def _decide(count: int, *, act: bool) -> list[float]:
    code, governance = Wire("io.graced.Code"), Wire("io.graced.Governance")
    actuator = Wire("io.graced.Actuator") if act else None

    def digest(kind: str, name: str) -> str:
        files = code.call("io.graced.Code.List", {"kind": kind})["files"]
        return next(str(one["digest"]) for one in files if one["name"] == name)

    plan = {
        "unit": "nginx.service",
        "profile": "nginx",
        "profile_digest": digest("profile", "nginx"),
        "playbook": "restart-unit",
        "playbook_digest": digest("playbook", "restart-unit"),
        "steps": [0, 1],
        "risk": "low",
        "tier": 2,
        "finding": "unit.failed",
        "origin": "brain",
    }
    values = []
    for number in range(WARM + count):
        task = f"task_{10**9 + number}"
        asked = {"plan": {**plan, "task_id": task, "intent_id": f"intent_{10**9 + number}"}}
        since_us = now_us()
        decision = governance.call("io.graced.Governance.Decide", asked)
        if decision["effect"] != "allow":
            give_up(f"{task}: {decision}")
        if actuator is not None:
            warrant = {name: decision[name] for name in ("warrant", "kid", "signature")}
            answered = ""
            try:
                actuator.call("io.graced.Actuator.Execute", warrant)
            except RuntimeError as error:
                answered = str(error)
            if "admin-stopped" not in answered:
                give_up(f"{task}: {answered or 'it acted'}")
        values.append((now_us() - since_us) / 1000)
        outcome = {"task_id": task, "unit": plan["unit"], "playbook": plan["playbook"], "outcome": "healed"}
        governance.call("io.graced.Governance.Outcome", outcome)
        time.sleep(0.005)
    return values[WARM:]


def policy(count: int) -> list[float]:
    """The decision alone, in the process: 100 rules of the kinds people write, each time another unit; in µs."""
    from graced.policy.decide import Known, Moment, Plan, decide
    from graced.policy.limits import UnitHistory
    from graced.policy.rules import RuleSet, parse_policy

    kinds = (
        {"unit": ["app-{}-*"], "risk": ["high"]},
        {"playbook": ["restore-*"], "finding": ["other.{}"]},
        {"step": ["verb-{}"]},
        {"unit": ["web-1*"], "window": ["Sun 0{}:00 for 1h"]},
        {"origin": ["drill"], "host": ["pressure"]},
    )
    rules = []
    for number in range(99):
        match = {key: [text.format(number % 9) for text in texts] for key, texts in kinds[number % len(kinds)].items()}
        rules.append({"id": f"r{number}", "effect": ("deny", "hold")[number % 2], "reason": "x", "match": match})
    rules.append({"id": "last", "effect": "allow", "reason": "x", "match": {"unit": ["*.service"], "tier_max": 3}})
    ruleset = RuleSet([parse_policy("bench", {"rule": rules})])
    plan = Plan("task_1", "", "p", "pd", "restart-unit", "bd", (0, 1), "low", 2, "unit.failed", "brain", "intent_1")
    known = Known(3, "p", "pd", ("restart-unit",), "bd", 2, "low", ("unit.failed",), 2, (0, 0.0), ("kill", "start"))
    moment, values = Moment(10**12, 600, ("calm",)), []
    plans = [plan.replace(unit=f"web-{number}.service") for number in range(50)]
    histories = [UnitHistory(one.unit) for one in plans]
    for number in range(count):
        one, history = plans[number % 50], histories[number % 50]
        since_ns = time.perf_counter_ns()
        decision = decide(one, known, ruleset, history, (), None, moment)
        values.append((time.perf_counter_ns() - since_ns) / 1000)
        if decision.effect != "allow":
            give_up(str(decision))
    return values


def main(verb: str, count: str) -> None:
    """See the module."""
    answer({"ledger": ledger, "decide": decide, "act": act, "policy": policy}[verb](int(count)))


if __name__ == "__main__":
    main(*sys.argv[1:])
