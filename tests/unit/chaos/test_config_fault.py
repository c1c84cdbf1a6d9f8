"""The config fault on files: found again whoever died when, and other people's edits are left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chaos.faults import config
from chaos.shell import ChaosError
from chaos.targets import Target


class Host:
    """systemctl, as the fault calls it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = "active"
        self.calls: list[tuple[str, ...]] = []
        monkeypatch.setattr("chaos.faults.config.run", self._run)
        monkeypatch.setattr("chaos.targets.run", self._run)
        monkeypatch.setattr("chaos.targets.show", lambda _unit, *_names: {"ActiveState": self.state})

    def _run(self, *argv: str, **_options: Any) -> str:
        self.calls.append(argv)
        if argv[1] in {"start", "restart"}:
            self.state = "active"
        return ""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


@pytest.fixture
def target(tmp_path: Path) -> Target:
    path = tmp_path / "daemon.conf"
    path.write_bytes(b"good\n" * 100)
    path.chmod(0o640)
    return Target("daemon.service", path, kernel=False)


def test_garbage_goes_in_place_and_the_old_content_owner_and_mode_come_back(host: Host, target: Target) -> None:
    inode = target.config.stat().st_ino
    undo = config.prepare(target)
    config.inject(target, undo)
    assert target.config.read_bytes().startswith(config.GARBAGE)
    assert b"good" not in target.config.read_bytes()
    assert target.config.stat().st_ino == inode
    assert not config.restored(undo)
    assert host.calls == [("systemctl", "--no-block", "restart", "daemon.service")]

    host.state = "failed"
    assert config.revert(target, undo)
    assert config.restored(undo)
    assert target.config.read_bytes() == b"good\n" * 100
    assert target.config.stat().st_mode & 0o7777 == 0o640
    assert host.state == "active"
    assert [path.name for path in target.config.parent.iterdir()] == ["daemon.conf"]


def test_two_faults_never_write_the_same_bytes(host: Host, target: Target) -> None:
    undo = config.prepare(target)
    config.inject(target, undo)
    first = target.config.read_bytes()
    config.inject(target, undo)
    assert target.config.read_bytes() != first


def test_a_runner_killed_while_writing_leaves_what_is_known_again(host: Host, target: Target) -> None:
    undo = config.prepare(target)
    with target.config.open("r+b") as file:
        file.write(config.GARBAGE)  # killed before the file was cut to its length
    assert config.revert(target, undo)
    assert config.restored(undo)
    assert ("systemctl", "restart", "daemon.service") in host.calls


def test_somebody_elses_edit_stays(host: Host, target: Target) -> None:
    undo = config.prepare(target)
    config.inject(target, undo)
    target.config.write_bytes(b"an admin was faster\n")
    host.calls.clear()
    assert config.revert(target, undo)
    assert target.config.read_bytes() == b"an admin was faster\n"
    assert host.calls == []


def test_a_stopped_unit_stays_stopped(host: Host, target: Target) -> None:
    undo = config.prepare(target)
    config.inject(target, undo)
    host.state, host.calls = "inactive", []
    assert config.revert(target, undo)
    assert config.restored(undo)
    assert host.calls == []


def test_mode_counts_as_much_as_content(host: Host, target: Target) -> None:
    undo = config.prepare(target)
    assert config.restored(undo)
    target.config.chmod(0o600)
    assert not config.restored(undo)


def test_a_kernel_without_a_config_file_gets_rid_of_the_garbage(host: Host, tmp_path: Path) -> None:
    kernel = Target("graced-code.service", tmp_path / "graced.toml", kernel=True)
    undo = config.prepare(kernel)
    config.inject(kernel, undo)
    assert config.revert(kernel, undo)
    assert not kernel.config.exists()
    assert host.calls[-1] == ("systemctl", "reload", "graced-code.service")


def test_nothing_is_broken_that_cannot_be_put_back(host: Host, target: Target) -> None:
    target.config.write_bytes(config.GARBAGE)
    with pytest.raises(ChaosError, match="rollback"):
        config.prepare(target)
    target.config.unlink()
    with pytest.raises(ChaosError, match="does not exist"):
        config.prepare(target)


def test_a_link_is_followed_to_the_file_and_stays_a_link(host: Host, target: Target) -> None:
    link = target.config.with_name("link.conf")
    link.symlink_to(target.config)
    linked = Target("daemon.service", link, kernel=False)
    undo = config.prepare(linked)
    config.inject(linked, undo)
    assert config.revert(linked, undo)
    assert link.is_symlink()
    assert target.config.read_bytes() == b"good\n" * 100
