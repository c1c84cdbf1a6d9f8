"""graced.store.memory: incidents that only go forward, documents by digest, a search that takes any text."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graced.base.clock import ManualClock
from graced.base.errors import FormatError
from graced.store.memory import MAX_TERMS, MemoryStore, match_expression

OPEN = {
    "id": "incident_1",
    "unit": "nginx.service",
    "finding": "unit.failed",
    "opened_at": "2026-11-22T10:00:00.000Z",
    "outcome": "open",
    "severity": "high",
    "evidence": {"signal": 9},
}
CLOSED = {**OPEN, "outcome": "healed", "closed_at": "2026-11-22T10:00:01.000Z", "heal_ms": 812, "playbook": "restart"}


@pytest.fixture
def store(tmp_path):
    with_clock = MemoryStore(str(tmp_path / "memory.db"), ManualClock())
    yield with_clock
    with_clock.close()


def document(text, **more):
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {
        "digest": digest,
        "source": "inbox",
        "path": "/inbox/a",
        "uid": 0,
        "mtime": "2026-11-22T10:00:00.000Z",
        "size": len(text),
        "title": "a",
        "score": 0.9,
        "provenance": {"path": "/inbox/a"},
        **more,
    }


def chunk(ordinal, text, heading=""):
    return {"ordinal": ordinal, "start": ordinal * 100, "heading": heading, "text": text}


def test_an_incident_comes_back_as_it_was_put(store):
    store.put_incident(CLOSED)
    found = store.incident("incident_1")
    assert {name: found[name] for name in CLOSED} == CLOSED
    assert found["verified_by"] is None
    assert store.incident("incident_2") is None


def test_a_repeat_changes_nothing_and_closing_is_told_once(store):
    assert store.put_incident(OPEN)[1] is False
    assert store.put_incident(CLOSED)[1] is True
    before = store.incident("incident_1")
    assert store.put_incident(CLOSED)[1] is False
    assert store.incident("incident_1") == before
    assert store.counts()["incidents"] == 1


def test_an_older_report_does_not_reopen(store):
    store.put_incident(CLOSED)
    store.put_incident({**OPEN, "intent_id": "intent_4", "heal_ms": 1})
    found = store.incident("incident_1")
    assert (found["outcome"], found["closed_at"], found["heal_ms"]) == ("healed", CLOSED["closed_at"], 812)
    assert found["intent_id"] == "intent_4"  # a gap is filled


def test_what_was_held_may_fail_and_be_held_again(store):
    held = {**OPEN, "outcome": "held", "reason": "dpkg is at work"}
    failed = {**OPEN, "outcome": "failed", "reason": "none helped"}
    for report in (held, failed, held, failed):
        store.put_incident(report)
        found = store.incident("incident_1")
        assert (found["outcome"], found["reason"]) == (report["outcome"], report["reason"])
    store.put_incident(OPEN)
    assert store.incident("incident_1")["outcome"] == "failed"


REPORTS = st.lists(
    st.sampled_from(
        [
            OPEN,
            {**OPEN, "outcome": "held", "reason": "dpkg"},
            CLOSED,
            {**CLOSED, "outcome": "failed", "closed_at": "2026-11-22T11:00:00.000Z"},
        ]
    ),
    min_size=1,
    max_size=8,
)


@given(REPORTS)
@settings(max_examples=40)
def test_in_any_order_an_incident_only_goes_forward(tmp_path_factory, reports):
    store = MemoryStore(str(tmp_path_factory.mktemp("m") / "memory.db"), ManualClock())
    stages, first_close = [], next((one for one in reports if one.get("closed_at")), None)
    for report in reports:
        store.put_incident(report)
        found = store.incident("incident_1")
        stages.append(2 if found["closed_at"] else int(found["outcome"] == "held"))
    store.close()
    assert stages == sorted(stages)
    if first_close:
        assert (found["outcome"], found["closed_at"]) == (first_close["outcome"], first_close["closed_at"])


def test_old_closed_incidents_are_forgotten_open_ones_never(tmp_path):
    store = MemoryStore(str(tmp_path / "memory.db"), ManualClock(), closed_incidents_kept=3)
    store.put_incident({**OPEN, "id": "incident_0"})
    for number in range(1, 8):
        store.put_incident({**CLOSED, "id": f"incident_{number}", "closed_at": f"2026-11-22T10:00:0{number}.000Z"})
    assert [one["id"] for one in store.incidents()] == ["incident_7", "incident_6", "incident_5", "incident_0"]
    assert store.counts()["open"] == 1
    assert store.stats()["incidents_by_outcome"] == {"healed": 3, "open": 1}
    store.close()


def test_incidents_by_unit_and_open(store):
    store.put_incident(CLOSED)
    store.put_incident({**OPEN, "id": "incident_2"})
    store.put_incident({**OPEN, "id": "incident_3", "unit": "redis.service"})
    assert [one["id"] for one in store.incidents(unit="nginx.service")] == ["incident_2", "incident_1"]
    assert [one["id"] for one in store.incidents(open_only=True, limit=1)] == ["incident_3"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"id": ""}, "incident.id"),
        ({"unit": 3}, "incident.unit"),
        ({"outcome": "won"}, "incident.outcome"),
        ({"heal_ms": -1}, "incident.heal_ms"),
        ({"nmae": "x"}, "incident.nmae"),
        ({"reason": "\ud800"}, "incident.reason"),
        ({"closed_at": "2026-11-22T10:00:00.000Z"}, "incident.outcome"),
        ({"heal_ms": True}, "incident.heal_ms"),
    ],
)
def test_wrong_incidents_are_refused_by_path(store, change, path):
    with pytest.raises(FormatError) as found:
        store.put_incident({**OPEN, **change})
    assert found.value.fields["path"] == path
    assert store.incidents() == []


def test_a_document_is_found_and_the_same_content_changes_nothing(store):
    first = store.put_document(document("one"), [chunk(0, "Restarting nginx after a crash", "Runbook")])
    assert first == (1, True)
    assert store.put_document(document("one", path="/else"), [chunk(0, "other")]) == (1, False)
    (hit,) = store.search("restarted NGINX")
    assert (hit["document_id"], hit["path"], hit["heading"]) == (1, "/inbox/a", "Runbook")
    assert "[Restarting] [nginx]" in hit["snippet"]
    assert store.documents()[0]["chunks"] == 1
    assert store.search("other") == []


def test_a_document_in_parts_is_found_when_it_is_complete(store):
    whole = document("big", parts=2)
    assert store.put_document({**whole, "part": 0}, [chunk(0, "alpha")])[1] is False
    assert store.search("alpha") == []
    assert store.documents() == []
    with pytest.raises(FormatError, match="part 1 of 2 is next"):
        store.put_document({**whole, "part": 1, "parts": 3}, [chunk(1, "beta")])
    # The sender was killed and begins again, differently cut.
    assert store.put_document({**whole, "part": 0}, [chunk(0, "gamma")])[1] is False
    assert store.put_document({**whole, "part": 1}, [chunk(1, "delta")])[1] is True
    assert [store.search(word) != [] for word in ("alpha", "gamma", "delta")] == [False, True, True]
    assert store.counts()["chunks"] == 2
    assert store.index_problem() is None


def test_a_refused_chunk_leaves_nothing_behind(store):
    for bad in ([chunk(1, "a"), chunk(1, "b")], [chunk(0, "a"), {"ordinal": 1}], [chunk(0, "x\ud800")], ["text"]):
        with pytest.raises(FormatError):
            store.put_document(document("bad"), bad)
    assert store.counts() == {"incidents": 0, "open": 0, "documents": 0, "chunks": 0}
    assert store.index_problem() is None


def test_the_better_hit_comes_first(store):
    store.put_document(document("1"), [chunk(0, "nginx and many other words about web servers and more of them")])
    store.put_document(document("2"), [chunk(0, "nginx nginx nginx")])
    assert [hit["document_id"] for hit in store.search("nginx")] == [2, 1]
    assert store.search("nginx")[0]["score"] > store.search("nginx")[1]["score"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    store = MemoryStore(str(tmp_path_factory.mktemp("m") / "memory.db"), ManualClock())
    store.put_document(document("1"), [chunk(0, 'AND OR NOT NEAR nginx 100% "quoted" ümlaut')])
    yield store
    store.close()


@given(st.one_of(st.text(max_size=200), st.text(alphabet="\"'*()^:-+{}ANDORTE nginx\0\ud800", max_size=60)))
def test_any_text_is_a_valid_query(filled, query):
    hits = filled.search(query)
    assert match_expression(query).count(" OR ") < MAX_TERMS
    if "nginx" in "".join(char if char.isalnum() else " " for char in query).split():
        assert hits


def test_self_test_and_reopen(tmp_path):
    path = str(tmp_path / "memory.db")
    store = MemoryStore(path, ManualClock())
    store.self_test()
    store.put_incident(CLOSED)
    store.close()
    again = MemoryStore(path, ManualClock())
    assert again.incident("incident_1")["outcome"] == "healed"
    assert again.stats()["outcomes"] == [
        {
            "finding": "unit.failed",
            "playbook": "restart",
            "outcome": "healed",
            "count": 1,
            "mean_heal_ms": 812.0,
            "min_heal_ms": 812.0,
            "max_heal_ms": 812.0,
        }
    ]
    again.close()
