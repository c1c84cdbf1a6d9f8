"""Roles come from the kernel's word about the peer and from the account database, from nothing else."""

from __future__ import annotations

import errno
import os
import socket
import struct
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graced.model.daemons import DAEMONS
from graced.runtime import peer
from graced.runtime.peer import ADMIN, READ, Accounts

UIDS = {f"_graced-{name}": 900 + number for number, name in enumerate(DAEMONS)}
GROUPS = {"_graced-admin": 950, "_graced-read": 951}


class Socket:
    """What getsockopt says about a peer."""

    def __init__(self, uid, gid, groups=()):
        self._answers = {17: struct.pack("3i", 4711, uid, gid), 59: struct.pack(f"{len(groups)}I", *groups)}

    def getsockopt(self, level, option, size):
        assert level == socket.SOL_SOCKET
        assert size <= 1024  # Python refuses more
        if len(self._answers[option]) > size:
            raise OSError(errno.ERANGE, "Numerical result out of range")
        return self._answers[option][:size]


@pytest.fixture
def accounts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pwd.getpwnam", lambda name: SimpleNamespace(pw_uid=UIDS[name]))
        patch.setattr("grp.getgrnam", lambda name: SimpleNamespace(gr_gid=GROUPS[name]))
        made = Accounts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer, "os", SimpleNamespace(getuid=lambda: 899))
        yield made


@pytest.mark.parametrize("name", DAEMONS)
def test_an_account_is_its_daemon_and_nothing_else_whatever_its_groups(accounts, name):
    found = accounts.peer_of(Socket(UIDS[f"_graced-{name}"], 1, (950, 951)))
    assert (found.roles, found.name) == (frozenset({name}), name)
    assert found.roles & READ
    assert not found.roles & ADMIN


def test_root_and_people(accounts):
    assert accounts.peer_of(Socket(0, 0)).roles == {"root"}
    assert accounts.peer_of(Socket(1000, 1000, (27, 950))).roles == {"admin"}
    assert accounts.peer_of(Socket(1000, 951)).roles == {"read"}
    assert accounts.peer_of(Socket(1000, 1000, (950, 951))).roles == {"admin", "read"}
    nobody = accounts.peer_of(Socket(65534, 65534))
    assert (nobody.roles, nobody.name, nobody.pid) == (frozenset(), "uid65534", 4711)


def test_of_a_peer_with_very_many_groups_only_the_primary_counts(accounts):
    many = tuple(range(2000, 2300))
    assert accounts.peer_of(Socket(1000, 1000, (*many, 950))).roles == frozenset()
    assert accounts.peer_of(Socket(1000, 950, many)).roles == {"admin"}


def test_the_groups_of_a_real_socket():
    left, right = socket.socketpair()
    with left, right:
        assert sorted(peer._groups_of(left)) == sorted(os.getgroups())


def test_the_developers_own_account_is_root_for_its_own_daemons(accounts):
    assert accounts.peer_of(Socket(899, 899)).roles == {"root"}


@settings(suppress_health_check=[*settings.default.suppress_health_check, HealthCheck.function_scoped_fixture])
@given(st.integers(1, 2**31 - 1), st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_no_stranger_gets_a_role(accounts, uid, groups):
    if uid in {*UIDS.values(), 899} or set(groups) & set(GROUPS.values()):
        return
    assert accounts.peer_of(Socket(uid, 1, groups)).roles == frozenset()


def test_missing_accounts_have_no_role(monkeypatch):
    def missing(name):
        raise KeyError(name)

    monkeypatch.setattr("pwd.getpwnam", missing)
    monkeypatch.setattr("grp.getgrnam", missing)
    monkeypatch.setattr(peer, "os", SimpleNamespace(getuid=lambda: 899))
    accounts = Accounts()
    assert accounts.peer_of(Socket(900, 900, (950,))).roles == frozenset()
    assert accounts.peer_of(Socket(0, 0)).roles == {"root"}


def test_a_real_socket_tells_who_we_are():
    left, right = socket.socketpair()
    with left, right:
        found = Accounts().peer_of(left)
    assert (found.uid, found.gid, found.pid) == (os.getuid(), os.getgid(), os.getpid())
    assert "root" in found.roles
