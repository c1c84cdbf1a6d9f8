"""gracectl audit show, prove and export: on a real ledger, and on what a daemon answers."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from graced.base.clock import ManualClock
from graced.cli.commands.audit_show import KINDS
from graced.store.ledger import LedgerStore
from graced.supervisor.ledger import _KINDS, _OWN
from graced.supervisor.ledger_writer import Entry, LedgerWriter
from graced.trust.keys import LEDGER, Signer
from graced.trust.merkle import Tree, leaf_hashes
from graced.trust.note import Checkpoint, sign_checkpoint
from graced.trust.roster import Roster, origin_of, roster_key
from graced.trust.verify import main

SIGNER = Signer(bytes([9]) * 32, LEDGER, "test")
ROSTER = Roster(
    origin=origin_of(SIGNER.public),
    machine="m",
    keys=(roster_key(SIGNER.public, LEDGER, "2026-01-01T00:00:00.000Z"),),
)
COUNT = 700


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with a head over 700 entries and three more that no head covers."""
    path = tmp_path_factory.mktemp("ledger")
    store = LedgerStore.open(str(path / "ledger.db"))
    writer = LedgerWriter(store, SIGNER, ROSTER, ManualClock(), "boot")
    writer.open(1000)
    for number in range(1, COUNT + 3):
        writer.stage(Entry(kind="task", data={"n": number}, actor="supervisor", uid=1, unit="a.service"))
        if number == COUNT - 1:
            writer.commit()
            writer.checkpoint()
    writer.commit()
    store.close()
    (path / "roster.json").write_bytes(ROSTER.to_bytes())
    return path


def of(ledger: Path) -> list[str]:
    return ["--database", str(ledger / "ledger.db"), "--roster", str(ledger / "roster.json")]


def test_an_export_verifies_anywhere(ctl, ledger, tmp_path, capsys) -> None:
    there = str(tmp_path / "out")
    told = ctl("audit", "export", there, *of(ledger), "--json=short")
    assert told.exit_code == 0, told.stderr
    assert told.json["size"] == COUNT
    assert main([there, "--key", told.json["key"]]) == 0
    assert f"{COUNT} entries" in capsys.readouterr().out
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0
    (tmp_path / "head").write_text(told.json["checkpoint"])
    assert ctl("audit", "verify", *of(ledger), "--checkpoint", str(tmp_path / "head")).exit_code == 0
    again = ctl("audit", "export", there, *of(ledger))
    assert (again.exit_code, "not empty" in again.stderr) == (1, True)


@pytest.mark.parametrize("seq", [0, 255, 256, 511, 512, 699])
def test_a_proof_verifies_anywhere(ctl, ledger, tmp_path, capsys, seq) -> None:
    told = ctl("audit", "prove", str(seq), *of(ledger))
    assert told.exit_code == 0, told.stderr
    (tmp_path / "proof").write_text(told.stdout)
    key = ctl("audit", "export", str(tmp_path / "out"), *of(ledger), "--json=short").json["key"]
    assert main([str(tmp_path / "proof"), "--key", key, "--json"]) == 0
    assert json.loads(json.loads(capsys.readouterr().out)["entry"])["seq"] == seq


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A file with a head that somebody kept."""
    return tmp_path / "kept"


def head_over(ledger: Path, size: int, origin: str = ROSTER.origin) -> str:
    db = sqlite3.connect(ledger / "ledger.db")
    rows = [row[0] for row in db.execute("SELECT entry FROM ledger WHERE seq < ? ORDER BY seq", (size,))]
    db.close()
    tree = Tree()
    tree.extend(leaf_hashes(rows))
    return sign_checkpoint(Checkpoint(origin=origin, size=size, root=tree.root()), SIGNER)


@pytest.mark.parametrize("size", [1, 255, 256, 511, 512, 699, 700])
def test_a_continuation_verifies_anywhere(ctl, ledger, kept, tmp_path, capsys, size) -> None:
    kept.write_text(head_over(ledger, size))
    told = ctl("audit", "prove", "--from", str(kept), *of(ledger))
    assert told.exit_code == 0, told.stderr
    (tmp_path / "proof").write_text(told.stdout)
    key = ctl("audit", "export", str(tmp_path / "out"), *of(ledger), "--json=short").json["key"]
    command = [str(tmp_path / "proof"), "--key", key]
    assert main([*command, "--checkpoint", str(kept), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["anchor"] == "agrees"
    assert main(command) == 1
    assert "give the kept head" in capsys.readouterr().out
    other = sign_checkpoint(Checkpoint(origin=ROSTER.origin, size=size, root=bytes(32)), SIGNER)
    (tmp_path / "other").write_text(other)
    assert main([*command, "--checkpoint", str(tmp_path / "other")]) == 1
    assert "does not go on" in capsys.readouterr().out
    (tmp_path / "proof").write_text(told.stdout.replace("old ", "old 1", 1))
    assert main([*command, "--checkpoint", str(kept)]) == 1


def test_what_is_no_continuation_is_not_proved(ctl, ledger, kept, tmp_path) -> None:
    for head, said in (
        (sign_checkpoint(Checkpoint(origin=ROSTER.origin, size=300, root=bytes(32)), SIGNER), "does not go on"),
        (sign_checkpoint(Checkpoint(origin=ROSTER.origin, size=9000, root=bytes(32)), SIGNER), "rolled back"),
        (head_over(ledger, 300, "graced-ledger/other"), "this ledger is"),
        ("nothing", "a head is a signed note"),
    ):
        kept.write_text(head)
        told = ctl("audit", "prove", "--from", str(kept), *of(ledger))
        assert (told.exit_code, told.stdout) == (1, "")
        assert said in told.stderr
    assert ctl("audit", "prove", *of(ledger)).exit_code == 2
    assert ctl("audit", "prove", "7", "--from", str(kept), *of(ledger)).exit_code == 2


def test_what_no_head_covers_is_not_proved(ctl, ledger) -> None:
    for seq in (COUNT, COUNT + 2, 10_000):
        told = ctl("audit", "prove", str(seq), *of(ledger))
        assert (told.exit_code, told.stdout) == (1, "")
        assert f"covers {COUNT}" in told.stderr
    assert ctl("audit", "prove", "-1", *of(ledger)).exit_code == 2
    assert ctl("audit", "prove", "1", "--roster", str(ledger / "roster.json")).exit_code == 2


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger SET entry = CAST(replace(CAST(entry AS TEXT), '\"n\":', '\"m\":') AS BLOB) WHERE seq = 300",
        "DELETE FROM ledger WHERE seq = 300",
        "DELETE FROM checkpoints",
        "UPDATE checkpoints SET note = replace(note, 'A', 'B')",
    ],
)
def test_what_does_not_hold_is_not_handed_out(ctl, ledger, tmp_path, change) -> None:
    for name in ("ledger.db", "roster.json"):
        (tmp_path / name).write_bytes((ledger / name).read_bytes())
    db = sqlite3.connect(tmp_path / "ledger.db")
    for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP TRIGGER {name}")
    db.execute(change)
    db.commit()
    db.close()
    exported = ctl("audit", "export", str(tmp_path / "out"), *of(tmp_path))
    assert (exported.exit_code, exported.stdout) == (1, "")
    assert not (tmp_path / "out/checkpoint").exists()
    proved = ctl("audit", "prove", "300", *of(tmp_path))
    assert (proved.exit_code, proved.stdout) == (1, "")
    assert ctl("audit", "verify", *of(tmp_path)).exit_code == 1


# What a running supervisor answers ----------------------------------------------------------------------------------


def row(seq: int, **more: object) -> dict[str, object]:
    day, unit = 1 + seq // 1000, f"u{seq % 3}.service"
    return {
        "seq": seq,
        "time": f"2026-01-0{day}T00:00:00.000Z",
        "kind": "task" if seq % 2 else "warrant",
        "actor": "supervisor",
        "unit": unit,
        "task_id": f"task_{seq}",
        "data": {"n": seq, "reason": "\x1b[31mred"},
        **more,
    }


@pytest.fixture
def served(graced):
    """2500 entries, and answers that hold at most 300 of them."""
    rows = [row(seq) for seq in range(2500)]

    def read(asked):
        return {"entries": rows[asked["start"] : asked["start"] + min(300, asked["count"])], "size": len(rows)}

    def find(asked):
        found = [
            one
            for one in rows
            if asked.get("unit") in {None, one["unit"]} and asked.get("task_id") in {None, one["task_id"]}
            if asked["before"] is None or one["seq"] < asked["before"]
        ]
        following = found[-300]["seq"] if len(found) > 300 else None
        return {"entries": found[-300:], "truncated": following is not None, "next": following}

    graced.serve("io.graced.Ledger")
    graced.answers |= {"Ledger.Read": read, "Ledger.Find": find}
    return graced


def numbers(told) -> list[int]:
    return [one["seq"] for one in told.json]


def test_show(ctl, served) -> None:
    assert numbers(ctl("audit", "show", "--json=short")) == list(range(2450, 2500))
    assert numbers(ctl("audit", "show", "-n", "3", "--kind", "warrant", "--json=short")) == [2494, 2496, 2498]
    both = ctl("audit", "show", "-n", "2", "--kind", "warrant", "--kind", "task", "--json=short")
    assert numbers(both) == [2498, 2499]
    assert numbers(ctl("audit", "show", "--task", "task_7", "--json=short")) == [7]
    assert numbers(ctl("audit", "show", "--task", "task_7", "--kind", "warrant", "--json=short")) == []
    # More than one answer of Find can hold.
    assert numbers(ctl("audit", "show", "--unit", "u1", "-n", "100000", "--json=short")) == list(range(1, 2500, 3))
    assert numbers(ctl("audit", "show", "--unit", "u1", "-n", "400", "--json=short")) == list(range(1, 2500, 3))[-400:]
    assert numbers(ctl("audit", "show", "-n", "100000", "--json=short")) == list(range(2500))


def test_show_since(ctl, served) -> None:
    asked = ctl("audit", "show", "-n", "100000", "--since", "2026-01-03", "--json=short")
    assert numbers(asked) == list(range(2000, 2500))
    starts = [parameters["start"] for method, parameters in served.calls if method == "io.graced.Ledger.Read"]
    assert min(starts[1:]) >= 500
    assert numbers(ctl("audit", "show", "--since", "1h", "--json=short")) == []
    assert ctl("audit", "show", "--since", "1h").stdout == "No entries.\n"
    assert ctl("audit", "show", "--since", "yesterday").exit_code == 2
    assert ctl("audit", "show", "--kind", "rumour").exit_code == 2


def test_show_one(ctl, served) -> None:
    assert ctl("audit", "show", "7", "--json=short").json["data"] == {"n": 7, "reason": "\x1b[31mred"}
    told = ctl("audit", "show", "7")
    assert "kind         task\n" in told.stdout
    assert '"n": 7' in told.stdout
    assert "\x1b" not in told.stdout
    assert ctl("audit", "show", "2500").exit_code == 1
    assert ctl("audit", "show", "7", "--unit", "u1").exit_code == 2


def test_show_for_people(ctl, served) -> None:
    told = ctl("audit", "show", "-n", "1")
    assert told.stdout.splitlines()[0].split() == ["ENTRY", "TIME", "KIND", "BY", "UNIT", "TASK", "WHAT"]
    assert "2026-01-03 00:00:00Z" in told.stdout
    assert "n=2499 reason=" in told.stdout


def test_the_kinds_are_those_of_the_ledger() -> None:
    assert set(KINDS) == _OWN.union(*_KINDS.values())
