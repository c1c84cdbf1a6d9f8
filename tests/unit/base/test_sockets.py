import os
import socket

import pytest

from graced.base import sockets


@pytest.fixture
def listener(tmp_path):
    sock = sockets.unix_stream()
    sock.bind(str(tmp_path / "socket"))
    sock.listen(4)
    yield sock
    sock.close()


def test_the_numbers_are_those_of_the_standard_library():
    numbers = [name for name in sockets.__all__ if name.isupper()]
    assert len(numbers) > 8
    assert all(getattr(sockets, name) == getattr(socket, name) for name in numbers)


def test_accept_gives_what_the_standard_library_gives(listener, tmp_path):
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.connect(str(tmp_path / "socket"))
        second.connect(str(tmp_path / "socket"))
        ours = sockets.accept(listener)
        with socket.socket(fileno=os.dup(listener.fileno())) as same:
            theirs, _address = same.accept()
        for name in ("family", "type", "proto"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.gettimeout() == theirs.gettimeout()
        assert os.get_inheritable(ours.fileno()) is os.get_inheritable(theirs.fileno()) is False
        first.sendall(b"x")
        assert ours.recv(2) == b"x"
        ours.close()
        theirs.close()


def test_nothing_to_accept_does_not_block(listener):
    with pytest.raises(BlockingIOError):
        sockets.accept(listener)
