"""io.graced.Ledger on the loop: group commit, refusal when the disk fails, and who may append what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graced.base.clock import ManualClock
from graced.base.json import canonical
from graced.runtime.loop import Loop
from graced.runtime.peer import Peer
from graced.runtime.service import Service
from graced.store.ledger import LedgerStore
from graced.supervisor.ledger import LedgerInterface
from graced.supervisor.ledger_writer import LedgerWriter
from graced.trust.keys import GOVERNANCE, LEDGER, WARRANT_CONTEXT, Signer, encode_base64
from graced.trust.roster import Roster, origin_of, roster_key
from graced.varlink.wire import VarlinkError

NOW = "2026-01-01T00:00:00.000Z"
LEDGER_KEY = Signer(b"1" * 32, LEDGER, "test")
GOVERNANCE_KEY = Signer(b"2" * 32, GOVERNANCE, "test")


class FakeCall:
    """What the interface sees of a call."""

    def __init__(self, role: str, **parameters: Any) -> None:
        self.parameters = parameters
        self.peer = Peer(uid=990, gid=990, pid=1, roles=frozenset({role}), name=role)
        self.withdrawn: VarlinkError | None = None

    def withdraw(self, error: VarlinkError) -> None:
        self.withdrawn = error


class Rig:
    def __init__(self, path: Path) -> None:
        keys = (roster_key(LEDGER_KEY.public, LEDGER, NOW), roster_key(GOVERNANCE_KEY.public, GOVERNANCE, NOW))
        roster = Roster(origin=origin_of(LEDGER_KEY.public), machine="m", keys=keys)
        self.store = LedgerStore.open(str(path / "ledger.db"))
        writer = LedgerWriter(self.store, LEDGER_KEY, roster, ManualClock(), "boot")
        writer.open(1)
        self.loop = Loop()
        self.service = Service(self.loop, "test", "0", str(path))
        self.ledger = LedgerInterface(self.loop, self.service, self.store, writer)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.mark.parametrize(
    ("role", "kind", "allowed"),
    [
        ("governance", "decision", True),
        ("governance", "verdict", False),
        ("governance", "task", False),
        ("verification", "warrant", False),
        ("verification", "step", False),
        ("healing", "step", True),
        ("healing", "decision", False),
        ("root", "step", True),
        ("root", "checkpoint", False),
        ("admin", "approval", False),
        ("memory", "step", False),
    ],
)
def test_who_may_append(rig: Rig, role: str, kind: str, *, allowed: bool) -> None:
    call: Any = FakeCall(role, kind=kind, data={})
    if allowed:
        assert rig.ledger.Append(call) == {"seq": 2}
        rig.loop.run_once(0)
        (entry,) = rig.ledger.Read(FakeCall(role, start=2, count=1))["entries"]  # type: ignore[arg-type]
        assert (entry["actor"], entry["uid"], entry["kind"]) == (role, 990, kind)
    else:
        with pytest.raises(VarlinkError, match="PermissionDenied"):
            rig.ledger.Append(call)


def test_one_turn_is_one_commit_and_then_a_head(rig: Rig) -> None:
    heads: list[int] = []
    rig.ledger.on_checkpoint = lambda size, _note: heads.append(size)
    for number in range(5):
        rig.ledger.append("task", {"n": number}, task_id="task_1")
    assert rig.ledger.size == 2
    rig.loop.run_once(0)
    assert rig.ledger.size == 7
    rig.loop.run_once(0)
    rig.loop.run_once(0)
    assert heads == [7]
    assert rig.ledger.head_size == 7


def test_what_it_tells_of_an_intent(rig: Rig) -> None:
    rig.ledger.append("task", {"kind": "finding"}, intent_id="intent_1")
    rig.ledger.append("finding", {}, intent_id="intent_2")
    rig.loop.run_once(0)
    asked = [("task", "intent_1"), ("finding", "intent_1"), ("finding", "intent_2"), ("finding", "intent_3")]
    assert [rig.ledger.tells(kind, intent) for kind, intent in asked] == [True, False, True, False]


def test_failed_disk(rig: Rig) -> None:
    rig.store.db.execute("CREATE TEMP TRIGGER full BEFORE INSERT ON ledger BEGIN SELECT RAISE(ABORT, 'full'); END")
    call: Any = FakeCall("healing", kind="step", data={})
    rig.ledger.append("finding", {"n": 1})
    rig.ledger.Append(call)
    rig.ledger.append("finding", {"n": 2})
    rig.loop.run_once(0)
    assert call.withdrawn is not None
    assert rig.ledger.failure is not None
    assert rig.ledger.size == 2
    with pytest.raises(VarlinkError, match="Unavailable"):
        rig.ledger.Append(call)
    rig.store.db.execute("DROP TRIGGER full")
    while rig.ledger.failure is not None:
        rig.loop.run_once(2.0)
    found = [entry["data"]["n"] for entry in rig.ledger.Read(FakeCall("read", start=2, count=9))["entries"]]  # type: ignore[arg-type]
    assert found == [1, 2]


def test_a_warrant_needs_governances_signature(rig: Rig) -> None:
    data = {"unit": "a.service"}
    signature = encode_base64(GOVERNANCE_KEY.sign(WARRANT_CONTEXT, canonical(data)))
    call: Any = FakeCall("governance", kind="warrant", data=data, kid=GOVERNANCE_KEY.kid, signature=signature)
    assert rig.ledger.Append(call) == {"seq": 2}
