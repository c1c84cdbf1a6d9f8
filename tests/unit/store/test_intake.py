"""graced.store.intake: verdicts are kept and files are known again."""

from graced.base.clock import ManualClock
from graced.store.intake import ACCEPTED, REJECTED, Entry, IntakeStore, stamp


def test_verdicts_survive_and_count(tmp_path):
    path = str(tmp_path / "intake.db")
    mark = stamp(1, 2, 3, 4, 5)
    book = IntakeStore(path, ManualClock())
    book.add(Entry("/a", mark, 3, ACCEPTED, "", "d" * 64, 0.8))
    book.add(Entry("/b", mark, 3, REJECTED, "binary"))
    book.close()
    again = IntakeStore(path, ManualClock())
    assert (again.accepted, again.rejected) == (1, 1)
    assert again.known("/a", mark)
    assert not again.known("/a", stamp(1, 2, 3, 4, 6))
    assert [item["path"] for item in again.newest(10)] == ["/b", "/a"]
    assert again.newest(1)[0]["reason"] == "binary"
    again.close()
