"""Faults of the services, of graced and of its admins, at random and at once: everything comes back by itself.

GRACED_NIGHTLY=1 in the environment makes it 60 rounds. A failure names its seed; GRACED_SEED=N gives the same faults in
the same order (how they meet is the machine's).
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.bench.inside.names import KERNELS, UNITS
from tests.support.adopted import ESCALATED, Adopted

if TYPE_CHECKING:
    from tests.support.container import Container

ROUNDS = 60 if os.environ.get("GRACED_NIGHTLY") == "1" else 4
MOST_FAULTS = 4
WELL_SECONDS = 120.0
# So many faults in an hour are no accident, and graced would stop for a person.
POLICY = "[limits]\nper_unit_per_hour = 1000\nper_host_per_hour = 10000\ncooldown_seconds = 0\nbreaker_failures = 100\n"
SERVICE_FAULTS = (
    "systemctl kill --kill-whom=main --signal=KILL {unit}",
    "systemctl kill --kill-whom=all --signal=KILL {unit}",
    "systemctl kill --kill-whom=all --signal=STOP {unit}",
    # Never the same edit twice: that one would be taken for meant.
    "echo 'garbage {number} {{' >{config}; systemctl restart {unit}",
    "(echo '# {number}'; head -c {few} {good}; echo; echo '{{') >{config}; systemctl restart {unit}",
    "rm {config}; systemctl restart {unit}",
    "chmod 000 {config}; systemctl restart {unit}",
    "chown nobody {config}; systemctl restart {unit}",
    "systemctl restart {unit}",
)
OWN_FAULTS = (
    "systemctl kill --kill-whom=main --signal=KILL graced-{daemon}.service",
    "systemctl kill --kill-whom=main --signal=STOP graced-{daemon}.service",
    "systemctl kill --signal=KILL graced-actuator.service",
    "systemctl restart graced-{daemon}.service",
    "systemctl restart graced.target",
    "systemctl stop graced.target; systemctl start graced.target",
    "systemctl reload graced.target",
    "systemctl daemon-reexec",
    "systemctl kill --signal=KILL dbus.service",
    "systemctl kill --signal=KILL systemd-journald.service",
    "systemctl start graced-rescue.service",
    "gracectl pause 1s; gracectl audit verify",
    "gracectl resume; gracectl status",
    "gracectl keys rotate governance --reason soak",
    "gracectl keys rotate ledger --reason soak",
    "gracectl keys rotate verification --reason soak",
    "gracectl submit soak nothing --key {number}; gracectl tasks",
)
# What systemd says of what is killed, what graced says of whom it misses, and of heals that begin anew.
NOISE = (
    r"Main process exited, code=killed",
    r"Failed with result '(signal|watchdog)'",
    r"Watchdog timeout",
    r"Killing process \d+",
    r"^Failed to start graced-",
    r"io\.graced\.",
    r"system bus closed the connection",
    # The next fault can come between a repair's step and the one after it.
    ESCALATED,
)


@pytest.mark.timeout(60 + ROUNDS * 150)
def test_everything_comes_back(machine: Container) -> None:
    seed = int(os.environ.get("GRACED_SEED", "0")) or random.SystemRandom().randrange(1, 100_000)
    print(f"GRACED_SEED={seed}")
    machine.allow(*NOISE)
    machine.write("/etc/graced/policy.d/99-soak.toml", POLICY)
    for name in machine.sh("cd /usr/share/graced/playbooks; ls *.toml").ok().stdout.split():
        shipped = machine.read(f"/usr/share/graced/playbooks/{name}")
        machine.write(f"/etc/graced/playbooks/{name}", shipped.partition("[limits]")[0])
    services = [Adopted(machine, "nginx"), Adopted(machine, "redis-server")]
    for service in services:
        service.adopt()
        machine.unit(["cp", "-a", service.config, f"/root/{service.profile}"]).ok()
    good = [service.file() for service in services]
    dice = random.Random(seed)

    def ill() -> list[str]:
        units = [*(service.unit for service in services), *UNITS]
        found = [f"{unit} is {state}" for unit in units if (state := machine.state(unit)) != "active"]
        found += [f"{service.unit} does not serve" for service in services if not service.answers()]
        if found:
            return found
        changed = (one.config for one, file in zip(services, good, strict=True) if one.file() != file)
        found += [f"{path} is not as it was" for path in changed]
        status = machine.run(["gracectl", "status"])
        return found or ([status.stdout] if status.returncode else [])

    for number in range(ROUNDS):
        machine.systemctl("reset-failed").ok()
        faults = [_fault(dice, services) for _ in range(dice.randint(1, MOST_FAULTS))]
        machine.unit(["/bin/sh", "-c", "\n".join(faults)])
        try:
            machine.wait_until("everything is well again", lambda: ill() == [], WELL_SECONDS)
        except AssertionError as error:
            text = "\n".join([f"GRACED_SEED={seed}, round {number}:", *faults, *ill()])
            raise AssertionError(f"{text}\n{machine.run(['gracectl', 'incidents']).stdout}") from error
    assert "The ledger holds." in machine.run(["gracectl", "audit", "verify"]).ok().stdout


def _fault(dice: random.Random, services: list[Adopted]) -> str:
    service = dice.choice(services)
    command = dice.choice(dice.choice((SERVICE_FAULTS, OWN_FAULTS))).format(
        unit=service.unit,
        config=service.config,
        good=f"/root/{service.profile}",
        daemon=dice.choice(KERNELS),
        number=dice.randrange(10**9),
        few=dice.randrange(1, 300),
    )
    return f"{command}; sleep {dice.choice((0.02, 0.3, 1.0)) * dice.random():.3f}"
