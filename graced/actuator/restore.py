"""restore-config: which files go back to last-known-good, where the rejected ones are kept, and doing it.

Planning is pure. A config that the validator accepts is the admin's: then only what nobody can have
meant goes back. One that it refuses goes back as a whole set. The same edit again within ten minutes is
left alone.
"""

from __future__ import annotations

import hashlib
import os
import time

from graced.actuator.lkg import GoodFile, get_file, good_file, make_directories, put_file, to_image
from graced.actuator.safeopen import Image, Owners, Place
from graced.actuator.undo import Change, remember
from graced.actuator.warrant import Refused
from graced.base.errors import FormatError, HostError
from graced.base.json import canonical, get_list, loads_object
from graced.base.record import Record
from graced.heal import damage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.actuator.configs import Examined
    from graced.actuator.lkg import GoodStore

SAME_EDIT_US = 600_000_000
_CHANGED = frozenset({damage.DAMAGED, damage.EDITED, damage.MISSING, damage.METADATA})


def choose(examined: list[Examined], *, valid: bool | None, unit_failed: bool) -> list[Examined]:
    """The files to put back or move away, empty when there is nothing wrong with the set.

    `valid` is the validator's answer on the present set (None: it has none to give). Without an answer edits
    count as the cause only of a unit that failed.
    """
    if valid is False or (valid is None and unit_failed):
        wanted = _CHANGED | ({damage.EXTRA} if valid is False else set())
        return [one for one in examined if one.finding.state in wanted]
    chosen = [one for one in examined if one.finding.harmful]
    if valid is None:
        chosen += [one for one in examined if one.finding.state == damage.MISSING]
    return chosen


def depends_on_validator(examined: list[Examined], *, unit_failed: bool) -> bool:
    """Whether a validator's answer would change what goes back."""
    answers = [choose(examined, valid=valid, unit_failed=unit_failed) for valid in (True, False, None)]
    return answers.count(answers[0]) != len(answers)


def changes_for(
    unit: str, chosen: list[Examined], store: GoodStore, rejected_dir: str, stamp: str
) -> tuple[list[Change], dict[str, bytes]]:
    """The undo record's changes with all contents. HostError for a file that cannot be kept before it is
    replaced.
    """
    contents: dict[str, bytes] = {}
    changes: list[Change] = []
    for one in chosen:
        if one.finding.state == damage.DAMAGED and one.image is None:
            raise HostError(f"{one.path}: {one.finding.reason}", code="unsafe-path")
        if one.good is not None:
            contents[one.good.sha256] = store.blob(unit, one.good.sha256)
        before = remember(one.path, one.image, contents)
        kept = None
        if one.image is not None and one.image.kind == "file" and one.finding.state != damage.METADATA:
            kept = _free_name(f"{rejected_dir}/{unit}", f"{stamp}-{one.path.rpartition('/')[2]}", changes)
        changes.append(Change(one.path, before, one.good, kept))
    return changes, contents


def _free_name(directory: str, name: str, changes: list[Change]) -> str:
    taken = {change.rejected for change in changes}
    path, count = f"{directory}/{name}", 1
    while path in taken or os.path.lexists(path):
        count += 1
        path = f"{directory}/{name}.{count}"
    return path


def keep_rejected(changes: list[Change], contents: dict[str, bytes]) -> list[str]:
    """Copy every rejected file, same owner and mode, durably, before it is replaced; the paths."""
    kept = []
    for change in changes:
        if change.rejected is None or change.before is None:
            continue
        make_directories(change.rejected.rpartition("/")[0])
        with Place(change.rejected) as place:
            place.write(to_image(change.before, contents[change.before.sha256]), ())
        kept.append(change.rejected)
    return kept


def apply(changes: list[Change], chosen: list[Examined], contents: dict[str, bytes], owners: Owners) -> None:
    """Replace the files. UnsafePathError ``changed`` when somebody wrote one since it was examined."""
    identities = {one.path: one.image.identity if one.image is not None else () for one in chosen}
    for change in changes:
        with Place(change.path, owners) as place:
            if change.after is None:
                place.remove(identities[change.path])
            else:
                place.write(_image(change.after, contents), identities[change.path])


def _image(file: GoodFile, contents: dict[str, bytes]) -> Image:
    return to_image(file, contents[file.sha256])


def fingerprint(examined: list[Examined]) -> str:
    """One digest over the present set: a validator's answer holds as long as this stays the same."""
    present = [good_file(one.path, one.image).to_json() for one in examined if one.image is not None]
    return hashlib.sha256(canonical(present)).hexdigest()


def stamp_of(wall_us: int) -> str:
    """A UTC time as part of a file name, ``20261122T160412.123Z``."""
    seconds, us = divmod(wall_us, 1_000_000)
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds)) + f".{us // 1000:03d}Z"


class Edit(Record):
    """An edit that was replaced, at CLOCK_BOOTTIME `at_us` of boot `boot_id`."""

    unit: str
    path: str
    sha256: str
    boot_id: str
    at_us: int


class Edits:
    """The edits replaced in the last ten minutes, durable."""

    def __init__(self, path: str, boot_id: str) -> None:
        self._path = path
        self._boot_id = boot_id

    def check(self, unit: str, chosen: list[Examined], now_us: int) -> None:
        """Refused ``same-edit-again`` when one of them was replaced within ten minutes.

        Damage is not an edit: the same damage is repaired as often as the limits of the policy allow.
        """
        known = {(edit.unit, edit.path, edit.sha256) for edit in self._recent(now_us)}
        for one in chosen:
            if one.image is None or one.finding.state not in {damage.EDITED, damage.EXTRA}:
                continue
            if (unit, one.path, hashlib.sha256(one.image.data).hexdigest()) in known:
                raise Refused(
                    "same-edit-again",
                    f"{one.path}: the edit that was rejected is back, somebody means it: correct it and start {unit}",
                )

    def note(self, unit: str, changes: list[Change], now_us: int) -> None:
        """Remember what is replaced now."""
        recent = self._recent(now_us)
        recent += [
            Edit(unit, change.path, change.before.sha256, self._boot_id, now_us)
            for change in changes
            if change.before is not None
        ]
        put_file(self._path, canonical({"edits": [edit.to_json() for edit in recent]}))

    def _recent(self, now_us: int) -> list[Edit]:
        data = get_file(self._path)
        if data is None:
            return []
        try:
            entries = get_list(loads_object(data, max_bytes=16 << 20), "edits")
            edits = [Edit.from_json(one) for one in entries]
        except (FormatError, TypeError):
            # Only a memory of ten minutes: losing it costs one replaced edit, kept in the rejected
            # directory.
            return []
        return [edit for edit in edits if edit.boot_id == self._boot_id and now_us - edit.at_us <= SAME_EDIT_US]
