"""A signer's key in a running daemon: rotated between two signatures, refused when the roster says another."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graced.actuator.keyring import Keyring
from graced.base.clock import ManualClock, iso
from graced.base.errors import TrustError, WireError
from graced.runtime.loop import Future, Loop
from graced.runtime.peer import Peer
from graced.runtime.signing import SigningKey
from graced.trust.keyfiles import KeyRoom
from graced.trust.keys import GOVERNANCE, verify
from graced.trust.keys_tool import Keeper, make_development_keys
from graced.trust.rotation import DAY_SECONDS, VALIDITY_SECONDS

OWNERS = (0, os.getuid())
PEER = Peer(uid=990, gid=990, pid=1, roles=frozenset({"governance"}), name="governance")


class Host:
    """What SigningKey sees of a kernel, with the real keyring behind the call."""

    name = "governance"

    def __init__(self, lib: Path) -> None:
        lib.mkdir(mode=0o755, exist_ok=True)
        self.paths = SimpleNamespace(lib=str(lib), state=lambda _name: str(lib / "governance"))
        self.clock, self.loop = ManualClock(), Loop()
        self.config = {"key_validity": VALIDITY_SECONDS}
        self.keyring = Keyring(str(lib), self.clock, "0" * 32, OWNERS)
        self.said: list[str] = []
        self.left = 0
        self.asked = 0
        self.down = 0
        self.lost_answers = 0

    async def call(self, method: str, parameters: Any, _timeout_s: float) -> Any:
        assert method == "io.graced.Actuator.RotateKey"
        self.asked += 1
        if self.down:
            self.down -= 1
            raise WireError("gone")
        reply = self.keyring.rotate(parameters, PEER)
        if self.lost_answers:
            self.lost_answers -= 1
            raise WireError("gone")
        return reply

    def log(self, _priority: int, message: str, *_more: Any, **_fields: Any) -> None:
        self.said.append(message)

    def leave(self) -> None:
        self.left += 1

    def finish(self, coroutine: Any) -> Any:
        task = self.loop.spawn(coroutine)
        for _turn in range(50):
            if not task.done():
                self.loop.run_once(0)
        return task.result()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    host = Host(tmp_path / "lib")
    now_us = host.clock.wall_us()
    until = iso(now_us + VALIDITY_SECONDS * 1_000_000)
    Keeper(KeyRoom(host.paths.lib), "a" * 32, iso(now_us), OWNERS, until).run()
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name in ("seal", "key"):
        (credentials / name).write_bytes(Path(host.paths.lib, "keys", f"governance.{name}").read_bytes())
        (credentials / name).chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    return host


def load(host: Any) -> SigningKey:
    return SigningKey(host, GOVERNANCE)


def test_a_rotation_waits_for_what_is_being_signed(host: Host) -> None:
    key, gate = load(host), Future()
    old = key.kid

    async def work() -> str:
        await gate
        key.sign(b"", b"x")
        return key.kid

    first = host.loop.spawn(key.during(work()))
    rotation = host.loop.spawn(key.rotate("uid7", 7, "test"))
    host.loop.run_once(0)
    assert (host.asked, key.kid) == (0, old)
    gate.set_result()
    second = host.loop.spawn(key.during(work()))
    for _turn in range(20):
        host.loop.run_once(0)
    assert (first.result(), rotation.result()["old_kid"], host.asked) == (old, old, 1)
    assert second.result() in {old, key.kid}
    assert rotation.result()["kid"] == key.kid != old
    assert verify(key.public, b"", b"x", key.sign(b"", b"x"))


@pytest.mark.parametrize("fault", ["down", "lost_answers"])
def test_a_lost_call_or_answer_is_asked_again(host: Host, fault: str) -> None:
    key = load(host)
    setattr(host, fault, 1)
    done = host.finish(key.rotate("root", 0, ""))
    assert (done["kid"], host.asked) == (key.kid, 2)


def test_when_the_actuator_is_away_the_old_key_goes_on(host: Host) -> None:
    key = load(host)
    old, host.down = key.kid, 2
    with pytest.raises(WireError):
        host.finish(key.rotate("root", 0, ""))
    assert key.kid == old
    key.sign(b"", b"x")
    assert host.finish(key.rotate("root", 0, ""))["old_kid"] == old


@pytest.mark.parametrize(("days", "asked"), [(82, 0), (83, 1), (91, 1)])
def test_it_rotates_by_itself_seven_days_before_the_end(host: Host, days: int, asked: int) -> None:
    key = load(host)
    host.clock.advance_us(days * DAY_SECONDS * 1_000_000)
    key._look()
    for _turn in range(10):
        host.loop.run_once(0)
    assert host.asked == asked


def test_an_ended_key_is_rotated_before_it_signs_and_signs_if_that_fails(host: Host) -> None:
    key = load(host)
    old = key.kid
    host.clock.advance_us(91 * DAY_SECONDS * 1_000_000)

    async def work() -> bytes:
        return key.sign(b"", b"x")

    host.down = 2
    assert verify(key.public, b"", b"x", host.finish(key.during(work())))
    assert key.kid == old
    assert any("next try in an hour" in line for line in host.said)
    host.finish(key.during(work()))
    assert host.asked == 2


def test_a_key_that_was_revoked_signs_nothing_and_the_daemon_leaves(host: Host) -> None:
    key = load(host)
    host.keyring.revoke(key.kid, None, "stolen", 0)
    with pytest.raises(TrustError, match="the roster's current one is"):
        key.sign(b"", b"x")
    key._look()
    assert host.left == 1
    with pytest.raises(TrustError, match="the roster's current one is"):
        load(host)


def test_a_development_key_is_not_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INVOCATION_ID", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    host = Host(tmp_path / "lib")
    make_development_keys(host.paths.lib, iso(host.clock.wall_us()))
    key = load(host)
    assert key.source == "development-file"
    with pytest.raises(TrustError, match="not rotated"):
        host.finish(key.rotate("root", 0, ""))
