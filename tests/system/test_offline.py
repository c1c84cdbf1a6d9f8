"""What a host healed, taken off it: shown, proved and exported there, and checked on a machine that has no graced and
nothing but python3 and python3-nacl, by the files of the verifier that SECURITY.md names."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.adopted import Adopted

if TYPE_CHECKING:
    from tests.support.container import Container, Done

MODULES = "/usr/lib/python3/dist-packages/graced"
# Of what the verifier is, in words of SECURITY.md.
VERIFIER = ("graced/base", "graced/trust", "graced/__init__.py")
FOREIGN = ("click", "jeepney", "prometheus_client", "psutil", "sdnotify", "systemd")
PACKAGES = [f"python3-{name.replace('_', '-')}" for name in FOREIGN]
KINDS = {"key", "finding", "decision", "warrant", "step", "verdict", "task"}


@pytest.fixture
def elsewhere(bare: Container) -> Container:
    """Another machine: python3 and python3-nacl of Debian, and nothing else that graced could use."""
    bare.unit(["dpkg", "--purge", "--force-depends", *PACKAGES], timeout=120).ok()
    for name in ("graced", *FOREIGN):
        assert "ModuleNotFoundError" in bare.run(["python3", "-c", f"import {name}"]).stderr
    return bare


def carry(host: Container, path: str, to: Container, where: str) -> None:
    """Copies a file or a directory from one machine to the other, as somebody with a disk would."""
    source, target = host.path(path), to.path(where)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def check(elsewhere: Container, *arguments: str) -> Done:
    """The command of SECURITY.md, in the directory that the verifier was copied to."""
    command = ["/usr/bin/python3", "-m", "graced.trust.verify", *arguments, "--json"]
    return elsewhere.run(["env", "--chdir=/root/verifier", *command])


def shown(host: Container, *arguments: str) -> list[dict[str, Any]]:
    """Entries as `gracectl audit show` gives them."""
    found: list[dict[str, Any]] = host.run(["gracectl", "audit", "show", "--json=short", *arguments]).json()
    return found


def test_evidence_is_checked_where_there_is_no_graced(machine: Container, elsewhere: Container) -> None:
    nginx = Adopted(machine, "nginx")
    nginx.adopt()
    with nginx.healed():
        nginx.kill()
    with nginx.healed() as incidents:
        nginx.fault("echo nonsense > CONFIG", restart=True)
    task = incidents[0]["task_id"]
    story = shown(machine, "--task", task)
    assert {one["kind"] for one in story} >= {"decision", "warrant", "step", "verdict", "task"}
    assert {one["kind"] for one in shown(machine, "-n", "1000")} >= KINDS
    assert nginx.unit in machine.run(["gracectl", "audit", "show", "--unit", "nginx", "--since", "1h"]).ok().stdout
    (warrant,) = [one for one in story if one["kind"] == "warrant"]

    newest = shown(machine, "-n", "1")[0]["seq"]
    key = machine.run(["gracectl", "keys", "export-public", "ledger", "--format", "note"]).ok().stdout.strip()
    proved = machine.wait_until(
        "a signed head covers the newest entry",
        lambda: (done := machine.run(["gracectl", "audit", "prove", str(newest)])).returncode == 0 and done.stdout,
    )
    machine.unit(["gracectl", "audit", "export", "/root/export"]).ok()
    for part in VERIFIER:
        carry(machine, f"{MODULES}/{part.removeprefix('graced/')}", elsewhere, f"/root/verifier/{part}")
    carry(machine, "/root/export", elsewhere, "/root/export")
    carry(machine, "/root/export/checkpoint", elsewhere, "/root/kept-head")
    elsewhere.write("/root/newest", proved)
    elsewhere.write("/root/warrant", machine.run(["gracectl", "audit", "prove", str(warrant["seq"])]).ok().stdout)

    report = check(elsewhere, "/root/export", "--key", key, "--checkpoint", "/root/kept-head").json()
    assert report["ok"], report
    assert (report["anchor"], report["size"]) == ("agrees", report["entries"])
    assert report["entries"] > newest
    assert (
        report["signatures"] >= machine.run(["gracectl", "audit", "verify", "--json=short"]).json()["signatures"] // 2
    )
    for name, seq in (("newest", newest), ("warrant", warrant["seq"])):
        proof = check(elsewhere, f"/root/{name}", "--key", key).json()
        assert (proof["ok"], json.loads(proof["entry"])["seq"]) == (True, seq)
    assert json.loads(proof["entry"]) == {**json.loads(proof["entry"]), **warrant}

    refuses(machine, elsewhere, key)


def refuses(machine: Container, elsewhere: Container, key: str) -> None:
    """Another key, an edited proof, a changed entry, and an export older than a kept head."""
    machine.run(["gracectl", "keys", "rotate", "ledger"]).ok()
    later = machine.run(["gracectl", "keys", "export-public", "ledger", "--format", "note"]).ok().stdout.strip()
    assert later != key
    assert check(elsewhere, "/root/export", "--key", later).returncode == 1

    def covered() -> bool:
        machine.unit(["rm", "-rf", "/root/later"]).ok()
        machine.unit(["gracectl", "audit", "export", "/root/later"]).ok()
        return machine.read("/root/later/checkpoint") != elsewhere.read("/root/kept-head")

    machine.wait_until("a later head", covered)
    carry(machine, "/root/later/checkpoint", elsewhere, "/root/later-head")
    old = check(elsewhere, "/root/export", "--key", key, "--checkpoint", "/root/later-head")
    assert (old.returncode, json.loads(old.stdout)["anchor"]) == (1, "rolled-back")
    # With both heads, the whole later export holds, and so does the older head in it.
    carry(machine, "/root/later", elsewhere, "/root/later")
    good = check(elsewhere, "/root/later", "--key", later, "--checkpoint", "/root/kept-head")
    assert good.json()["anchor"] == "agrees"

    warrant = elsewhere.read("/root/warrant")
    elsewhere.write("/root/warrant", warrant.replace("a", "b", 1))
    assert check(elsewhere, "/root/warrant", "--key", key).returncode == 1
    (bundle,) = [path for path in elsewhere.path("/root/export/tile/entries").rglob("*") if path.is_file()]
    data = bundle.read_bytes()
    assert b'"effect":"allow"' in data
    bundle.write_bytes(data.replace(b'"effect":"allow"', b'"effect":"allov"', 1))
    changed = check(elsewhere, "/root/export", "--key", key)
    assert (changed.returncode, json.loads(changed.stdout)["ok"]) == (1, False)
