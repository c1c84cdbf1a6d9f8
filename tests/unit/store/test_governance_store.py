"""What Governance keeps is on disk when it says so."""

from __future__ import annotations

import pytest

from graced.base.errors import StoreError
from graced.store import governance
from graced.store.governance import GovernanceStore


@pytest.fixture
def syncs(monkeypatch):
    real, seen = governance.sync_log, []
    monkeypatch.setattr(governance, "sync_log", lambda path: seen.append(path) or real(path))
    return seen


@pytest.fixture
def store(tmp_path):
    one = GovernanceStore(str(tmp_path / "g.db"))
    yield one
    one.close()


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.put({"x.service": {"unit": "x.service"}}, {"age": {"n": 1}}),
        lambda store: store.forget_fact("pause"),
        lambda store: store.put_approval(1, {"id": 1}),
    ],
)
def test_a_writing_method_waits_for_the_disk(store, syncs, write):
    write(store)
    assert len(syncs) == 1
    store.sync()
    assert len(syncs) == 1, "there is nothing more to wait for"


def test_what_need_not_wait_is_there_for_the_next_process_and_on_disk_after_sync(store, syncs, tmp_path):
    store.put({"x.service": {"unit": "x.service"}}, {}, wait=False)
    assert syncs == []
    assert store.histories() == {"x.service": {"unit": "x.service"}}
    store.sync()
    assert len(syncs) == 1
    store.close()
    again = GovernanceStore(str(tmp_path / "g.db"))
    assert again.histories() == {"x.service": {"unit": "x.service"}}
    again.close()


def test_a_disk_that_fails_is_said_and_asked_again(store, syncs, monkeypatch):
    def fail(_path):
        raise StoreError("no")

    with monkeypatch.context() as patch:
        patch.setattr(governance, "sync_log", fail)
        with pytest.raises(StoreError):
            store.put({}, {"age": {"n": 1}})
        store.put({}, {"age": {"n": 2}}, wait=False)
        with pytest.raises(StoreError):
            store.sync()
    store.sync()
    assert len(syncs) == 1
    assert store.fact("age") == {"n": 2}
