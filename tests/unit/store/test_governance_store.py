"""What Governance keeps is on disk when it says so."""

from __future__ import annotations

from graced.store.governance import GovernanceStore


def test_a_commit_waits_for_the_disk_and_is_there_for_the_next_process(tmp_path):
    store = GovernanceStore(str(tmp_path / "g.db"))
    full = 2
    assert store._db.rows("PRAGMA synchronous") == [(full,)]
    store.put({"x.service": {"unit": "x.service"}}, {"age": {"n": 1}})
    store.put_approval(1, {"id": 1})
    store.forget_fact("age")
    assert not store._db.connection.in_transaction
    store.close()
    again = GovernanceStore(str(tmp_path / "g.db"))
    assert again.histories() == {"x.service": {"unit": "x.service"}}
    assert again.approvals() == [{"id": 1}]
    assert again.fact("age") is None
    again.close()
