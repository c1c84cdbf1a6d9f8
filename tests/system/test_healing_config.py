"""Configuration of the shipped profiles, broken for real: put back with content, owner and mode, nothing lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.adopted import ESCALATED, Adopted, File

if TYPE_CHECKING:
    from tests.support.container import Container

PROFILES = ("nginx", "redis-server")
GARBAGE = "nonsense { broken\n"
# How the daemon's own validator quotes the garbage.
COMPLAINT = {"nginx": 'unknown directive "nonsense"', "redis-server": ">>> 'nonsense { broken'"}


@pytest.fixture
def nginx(machine: Container) -> Adopted:
    """nginx, adopted."""
    daemon = Adopted(machine, "nginx")
    daemon.adopt()
    return daemon


@pytest.mark.parametrize("profile", PROFILES)
def test_a_broken_config_is_put_back_as_it_was(machine: Container, profile: str) -> None:
    daemon = Adopted(machine, profile)
    daemon.adopt()
    good = daemon.file()
    stranger = "games:games" if profile == "nginx" else "root:root"

    with daemon.healed() as incidents:
        daemon.fault(f"printf '{GARBAGE}' > CONFIG", restart=True)
    assert [one["playbook"] for one in incidents] == ["restore-config"]
    assert daemon.file() == good
    rejected = daemon.rejected()
    assert len(rejected) == 1
    # Nothing an admin wrote is lost: it is found by reading the unit's journal, with the reason.
    assert COMPLAINT[profile] in rejected[0]["MESSAGE"]
    kept = rejected[0]["GRACED_REJECTED"]
    assert kept in rejected[0]["MESSAGE"]
    assert daemon.file(kept) == File(GARBAGE.encode(), good.owner, good.mode)
    assert kept.startswith(f"/var/lib/graced/rejected/{daemon.unit}/")

    for name, fault in {
        "truncated": "truncate -s 700 CONFIG",
        "deleted": "rm CONFIG",
        "wrong owner": f"chown {stranger} CONFIG",
        "wrong mode": "chmod 000 CONFIG",
    }.items():
        with daemon.healed() as incidents:
            daemon.fault(fault, restart=True)
        assert {one["playbook"] for one in incidents} == {"restore-config"}, name
        assert daemon.file() == good, name
    cut = daemon.rejected()[1]["GRACED_REJECTED"]
    assert daemon.file(cut) == File(good.data[:700], good.owner, good.mode)
    assert len(daemon.rejected()) == 2
    assert len(daemon.acts()) == 5


def test_zeros_that_redis_ignores_are_found(machine: Container) -> None:
    """redis reads a config of NUL bytes as an empty one, and serves with its defaults."""
    redis = Adopted(machine, "redis-server")
    redis.adopt()
    good = redis.file()
    zeros = f"head -c {len(good.data)} /dev/zero > CONFIG"
    with redis.healed() as incidents:
        redis.fault(zeros, restart=True)
    assert [(one["finding"], one["playbook"]) for one in incidents] == [("config.damaged", "restore-config")]
    assert redis.file() == good
    # A second time, too: damage is no edit that somebody means.
    with redis.healed() as incidents:
        redis.fault(zeros, restart=True)
    assert redis.file() == good


def test_edits(nginx: Adopted) -> None:
    """A valid edit stays and becomes the good state; an invalid one is reported while nothing has read it; the same
    rejected edit again is somebody's will."""
    machine = nginx.machine
    machine.write("/etc/graced/graced.toml", "[verification]\nsettle_seconds = 1\n")
    machine.systemctl("reload", "graced-verification.service").ok()
    machine.wait_journal("configuration reloaded", _SYSTEMD_UNIT="graced-verification.service")

    nginx.fault("sed -i 's/worker_connections .*/worker_connections 512;/' CONFIG; systemctl reload nginx")
    machine.wait_journal("is the new last-known-good copy", _SYSTEMD_UNIT="graced-verification.service")
    edited = nginx.file()
    assert b"worker_connections 512;" in edited.data
    assert nginx.incidents() == []
    assert nginx.acts() == []

    # Not read by the running daemon yet: reported, not touched.
    nginx.fault("echo 'nonsense;' >> CONFIG")
    incident = nginx.wait_incident(finding="config.invalid")
    assert incident["outcome"] == "observed"
    assert incident["severity"] == "low"
    assert nginx.file().data == edited.data + b"nonsense;\n"
    assert nginx.answers()

    # Now it is read.
    with nginx.healed():
        nginx.fault("systemctl restart nginx || :")
    assert nginx.file() == edited
    ended = next(one for one in nginx.incidents() if one["id"] == incident["id"])
    assert (ended["outcome"], ended["closed_at"] is None) == ("observed", False)

    # The same again: left alone, and said so.
    machine.allow(ESCALATED)
    nginx.fault("echo 'nonsense;' >> CONFIG", restart=True)
    refused = nginx.wait_incident(outcome="refused")
    assert "same-edit-again" in refused["reason"]
    assert nginx.file().data == edited.data + b"nonsense;\n"
    assert nginx.acts() == ["restore-config"]

    # The admin corrects it, and the incident ends.
    nginx.fault("sed -i /nonsense/d CONFIG; systemctl restart nginx")
    machine.wait_until("all is well", lambda: all(one["closed_at"] for one in nginx.incidents()))
    assert nginx.answers()
    assert nginx.acts() == ["restore-config"]
