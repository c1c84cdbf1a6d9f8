"""The ledger, Governance and the actuator, each through its socket with its store on a real disk; the policy alone."""

from __future__ import annotations

from tests.bench.bench import STATE, Bench, adopt, inside, on_disk
from tests.bench.figures import Figure, figure, percentile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from tests.support.container import Container

# Every decision records what it was made from, the last hour's heals among it: each batch begins with none.
BATCH = 20
POLICY = "[limits]\nper_unit_per_hour = 1000\nper_host_per_hour = 10000\ncooldown_seconds = 0\n"
PLAYBOOK = "restart-unit"


def ledger(bench: Bench) -> list[Figure]:
    """One entry at a time, each on disk before it is answered."""
    with on_disk("supervisor") as (binds, disk), bench.machine(binds=binds) as machine:
        machine.systemctl("start", "graced.target").ok()
        values = inside(machine, "decide", "ledger", str(bench.times(500, 50)), timeout=120)
    value, note = percentile(values, 0.99), f"on {disk}, Python client"
    return [figure("ledger_append", "ms", values, value=value, goal="p99 <= 5", ok=value <= 5, note=note, keep=False)]


def decide(bench: Bench) -> list[Figure]:
    """Allowed plans: judged, recorded in the ledger, warrant signed; then also handed to the actuator."""
    with on_disk("supervisor", "governance", "actuator") as (binds, disk), bench.machine(binds=binds) as machine:
        machine.write("/etc/graced/policy.d/99-bench.toml", POLICY)
        shipped = machine.read(f"/usr/share/graced/playbooks/{PLAYBOOK}.toml")
        machine.write(f"/etc/graced/playbooks/{PLAYBOOK}.toml", shipped.partition("[limits]")[0])
        adopt(machine, "nginx")
        batches = bench.times(10, 2)
        decided = [one for _ in range(batches) for one in _batch(machine, "decide")]
        # As Debian installs it: systemd forgets a unit that nothing wants, and reads it from disk at each question.
        machine.systemctl("enable", "nginx").ok()
        machine.systemctl("stop", "nginx").ok()
        acted = [one for _ in range(batches) for one in _batch(machine, "act")]
    p50, goal = percentile(acted, 0.5), "p50 <= 3"
    note = f"on {disk}, up to {BATCH} heals in the hour; allowed plans: two ledger entries and a signed warrant each"
    whole = f"on {disk}; and the actuator: signature, files, bounds, nonce, locks, the unit, which an admin stopped"
    return [
        figure("decide", "ms", decided, value=percentile(decided, 0.5), goal=goal, ok=None, note=note, keep=False),
        figure("decide_and_check", "ms", acted, value=p50, goal=goal, ok=p50 <= 3, note=whole, keep=False),
    ]


def _batch(machine: Container, what: str) -> list[float]:
    # Under its feet: stopped, its socket would start it before the files are gone.
    machine.run(["sh", "-c", f"rm -f {STATE}/governance/governance.db*"]).ok()
    # Also the count of starts.
    machine.systemctl("reset-failed", "graced-governance.service").ok()
    machine.systemctl("restart", "graced-governance.service").ok()
    values: list[float] = inside(machine, "decide", what, str(BATCH), timeout=120, user="_graced-healing")
    return values


def policy(bench: Bench) -> list[Figure]:
    """The policy's decision alone, with 100 rules and 50 units."""
    with bench.machine() as machine:
        values = inside(machine, "decide", "policy", str(bench.times(20_000, 2000)), timeout=120)
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    note = f"100 rules, 50 units, in the process; p50 {p50:.1f}, p99 {p99:.1f}"
    goal, ok = "p50 <= 20, p99 <= 100", p50 <= 20 and p99 <= 100
    return [figure("policy_decision", "us", values, value=p50, goal=goal, ok=ok, note=note, keep=False)]
