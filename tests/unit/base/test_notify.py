import os
import socket

import pytest

from graced.base.notify import Notifier


@pytest.fixture
def manager(monkeypatch, tmp_path):
    """What systemd is to a daemon: a datagram socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def close(notifier):
    notifier._socket.close()


def test_each_word_is_one_datagram(manager):
    notifier = Notifier()
    notifier.ready("Running: 5 µs")
    notifier.watchdog()
    notifier.stopping("Bye")
    assert manager.recv(100) == "READY=1\nSTATUS=Running: 5 µs".encode()
    assert manager.recv(100) == b"WATCHDOG=1"
    assert manager.recv(100) == b"STOPPING=1\nSTATUS=Bye"
    notifier.reloading()
    assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    close(notifier)


def test_an_unchanged_status_is_not_repeated(manager):
    notifier = Notifier()
    notifier.ready("one")
    notifier.status("one")
    notifier.status("two")
    assert manager.recv(100) == b"READY=1\nSTATUS=one"
    assert manager.recv(100) == b"STATUS=two"
    with pytest.raises(BlockingIOError):
        manager.recv(100)
    close(notifier)


def test_an_abstract_socket(monkeypatch):
    name = f"graced-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notifier = Notifier()
        notifier.watchdog()
        assert sock.recv(100) == b"WATCHDOG=1"
        close(notifier)


def test_a_manager_that_was_replaced_hears_the_next_word(manager, tmp_path):
    notifier = Notifier()
    (tmp_path / "notify").unlink()
    notifier.watchdog()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        notifier.watchdog()
        assert sock.recv(100) == b"WATCHDOG=1"
    close(notifier)


def test_without_a_manager_nothing_happens(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready("Running")
