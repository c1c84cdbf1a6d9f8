"""The undo journal: what an act changes is on disk, with old and new content, before the first change.

``<root>/<act_id>/record.json`` plus the contents by digest. States: ``begun`` (found at start: the act
was cut off and its files are finished), ``done``, ``failed``, ``undone``. A file is only touched while
it is exactly what the record says it was; whatever somebody wrote since stays.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress

from graced.actuator.lkg import GoodFile, get_file, good_file, make_directories, put_file, to_image
from graced.actuator.safeopen import Owners, Place, UnsafePathError
from graced.base.errors import FormatError, StoreError
from graced.base.json import canonical, get_dict, get_list, get_str, loads_object, opt_dict, opt_str
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.actuator.safeopen import Image
    from graced.base.json import JsonDict

BEGUN, DONE, FAILED, UNDONE = "begun", "done", "failed", "undone"
KEEP_ACTS = 200
_ACT_ID = re.compile(r"act_[0-9a-f]{16}\Z")
_MAX_RECORD_BYTES = 16 << 20


class Change(Record):
    """One file of an act; None is "not there". `rejected` is where its old content is kept for people."""

    path: str
    before: GoodFile | None
    after: GoodFile | None
    rejected: str | None = None


class UndoRecord(Record):
    """An act as the journal knows it. `act` is what the caller was told, empty while it runs."""

    act_id: str
    unit: str
    state: str
    owners: Owners
    changes: tuple[Change, ...] = ()
    warrant: dict[str, object] = {}
    act: dict[str, object] = {}


def new_act_id() -> str:
    """A name for the next act."""
    return f"act_{os.urandom(8).hex()}"


class UndoJournal:
    """All acts below `root`."""

    def __init__(self, root: str) -> None:
        self._root = root

    def begin(self, record: UndoRecord, contents: dict[str, bytes]) -> None:
        """Make the record durable, contents first; called again when an act learns what else it changes."""
        directory = self._directory(record.act_id)
        make_directories(f"{directory}/blobs")
        for sha256, data in contents.items():
            if get_file(f"{directory}/blobs/{sha256}") != data:
                put_file(f"{directory}/blobs/{sha256}", data)
        self._write(record)

    def close(self, record: UndoRecord, state: str, act: JsonDict) -> None:
        """The act ended as `state`; `act` is kept for whoever asks later."""
        self._write(record.replace(state=state, act=act))

    def load(self, act_id: str) -> UndoRecord | None:
        """A record, None when there is no such act; StoreError when it is damaged."""
        if not _ACT_ID.match(act_id):
            return None
        data = get_file(f"{self._directory(act_id)}/record.json", _MAX_RECORD_BYTES)
        if data is None:
            return None
        try:
            return _parse(loads_object(data, max_bytes=_MAX_RECORD_BYTES))
        except FormatError as error:
            raise StoreError(f"the undo record of {act_id} is damaged: {error.message}") from error

    def blob(self, act_id: str, sha256: str) -> bytes:
        """A content of an act by digest; StoreError when it is gone or damaged."""
        data = get_file(f"{self._directory(act_id)}/blobs/{sha256}")
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            raise StoreError(f"{act_id}: the kept content {sha256[:12]} is {'gone' if data is None else 'damaged'}")
        return data

    def unfinished(self) -> list[UndoRecord]:
        """Acts that were cut off; reads every record, so it runs once, at start."""
        records = [self.load(act_id) for act_id in self._names()]
        return [record for record in records if record is not None and record.state == BEGUN]

    def prune(self, keep: int = KEEP_ACTS) -> None:
        """Forget the oldest closed acts beyond `keep`."""
        names = self._names()
        for act_id in names[: max(0, len(names) - keep)]:
            record = self.load(act_id)
            if record is not None and record.state == BEGUN:
                continue
            directory = self._directory(act_id)
            for name in os.listdir(f"{directory}/blobs"):
                os.unlink(f"{directory}/blobs/{name}")
            os.rmdir(f"{directory}/blobs")
            if record is not None:
                os.unlink(f"{directory}/record.json")
            os.rmdir(directory)

    def _names(self) -> list[str]:
        if not os.path.isdir(self._root):
            return []
        names = [name for name in os.listdir(self._root) if _ACT_ID.match(name)]
        return sorted(names, key=lambda name: os.stat(f"{self._root}/{name}").st_mtime_ns)

    def _directory(self, act_id: str) -> str:
        return f"{self._root}/{act_id}"

    def _write(self, record: UndoRecord) -> None:
        put_file(f"{self._directory(record.act_id)}/record.json", canonical(record.to_json()))

    def finish_files(self, record: UndoRecord) -> list[str]:
        """Bring every file to what the act wanted; sentences about those that were left alone.

        For an act whose process was killed: half a file that it left beside one goes.
        """
        for change in record.changes:
            with suppress(OSError, UnsafePathError), Place(change.path, record.owners) as place:
                place.sweep()
        return [
            problem
            for change in record.changes
            if (problem := self._move(record, change.path, change.before, change.after))
        ]

    def undo_files(self, record: UndoRecord) -> list[str]:
        """Bring every file back to what it was before the act, last change first; sentences as above."""
        return [
            problem
            for change in reversed(record.changes)
            if (problem := self._move(record, change.path, change.after, change.before))
        ]

    def _move(self, record: UndoRecord, path: str, origin: GoodFile | None, goal: GoodFile | None) -> str:
        try:
            with Place(path, record.owners) as place:
                now = place.read()
                found = None if now is None else good_file(path, now)
                if _like(found, goal):
                    return ""
                if not _like(found, origin):
                    return f"{path}: changed since the act, left alone"
                identity = () if now is None else now.identity
                if goal is None:
                    place.remove(identity)
                else:
                    place.write(to_image(goal, self.blob(record.act_id, goal.sha256)), identity)
        except (OSError, UnsafePathError) as error:
            return f"{path}: {error}"
        return ""


def remember(path: str, image: Image | None, contents: dict[str, bytes]) -> GoodFile | None:
    """The record's entry for `image`; its content is put into `contents`."""
    if image is None:
        return None
    entry = good_file(path, image)
    contents[entry.sha256] = image.data
    return entry


def _like(one: GoodFile | None, other: GoodFile | None) -> bool:
    if one is None or other is None:
        return one is other
    if (one.kind, one.sha256) != (other.kind, other.sha256):
        return False
    return one.kind == "symlink" or (one.uid, one.gid, one.mode) == (other.uid, other.gid, other.mode)


def _parse(obj: JsonDict) -> UndoRecord:
    owners = Owners.from_json(get_dict(obj, "owners"), "$.owners")
    changes = []
    for index, entry in enumerate(get_list(obj, "changes")):
        where = f"$.changes[{index}]"
        if not isinstance(entry, dict):
            raise FormatError(f"{where}: an object is needed", path=where)
        changes.append(
            Change(
                get_str(entry, "path", where),
                _file(opt_dict(entry, "before", where), f"{where}.before"),
                _file(opt_dict(entry, "after", where), f"{where}.after"),
                opt_str(entry, "rejected", where),
            )
        )
    return UndoRecord(
        get_str(obj, "act_id"),
        get_str(obj, "unit"),
        get_str(obj, "state"),
        owners,
        tuple(changes),
        get_dict(obj, "warrant"),
        get_dict(obj, "act"),
    )


def _file(obj: JsonDict | None, path: str) -> GoodFile | None:
    return None if obj is None else GoodFile.from_json(obj, path)
