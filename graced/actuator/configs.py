"""A unit's config set now, against its last-known-good copy.

One `Examined` per path that a profile's globs match now or that the copy knows. Reading never follows
links and never trusts a directory that somebody else than root or the unit's own account can write.
"""

from __future__ import annotations

import grp
import hashlib
import pwd

from graced.actuator.lkg import GoodFile, Manifest, good_file
from graced.actuator.safeopen import Image, Owners, Place, UnsafePathError, expand
from graced.base.errors import HostError
from graced.base.record import Record
from graced.heal import damage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.actuator.lkg import GoodStore
    from graced.base.json import JsonDict

MAX_SET_BYTES = 64 << 20


class Examined(Record):
    """One path: what is there (`image`), what was good, and the judgement. `reason` of an unreadable one
    says why.
    """

    path: str
    image: Image | None
    good: GoodFile | None
    finding: damage.Finding


def owners_of(user: str, group: str) -> Owners:
    """The account and group of a unit's file ("" = root) as ids; HostError when one does not exist."""
    try:
        uids: tuple[int, ...] = ()
        gids: tuple[int, ...] = ()
        if user and user != "0":
            account = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
            uids, gids = (account.pw_uid,), (account.pw_gid,)
        if group:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
            gids = (*gids, gid) if gid not in gids else gids
    except KeyError as error:
        raise HostError(f"the unit's account {user}:{group} does not exist") from error
    return Owners(uids, tuple(gid for gid in gids if gid))


def examine(patterns: tuple[str, ...], owners: Owners, manifest: Manifest | None, store: GoodStore) -> list[Examined]:
    """Judge every file of the set, in the order of the paths. Raises UnsafePathError for an unsafe
    directory.
    """
    good = {file.path: file for file in manifest.files} if manifest is not None else {}
    paths: dict[str, None] = {}
    for pattern in patterns:
        try:
            paths.update(dict.fromkeys(expand(pattern, owners)))
        except FileNotFoundError:
            continue
    unit = manifest.unit if manifest is not None else ""
    examined = []
    total = 0
    for path in sorted({*paths, *good}):
        one = _examine(path, owners, good.get(path), store, unit)
        total += len(one.image.data) if one.image is not None else 0
        if total > MAX_SET_BYTES:
            raise HostError(f"the config set of {unit or patterns[0]} is larger than {MAX_SET_BYTES} bytes")
        if one.image is not None or one.good is not None or one.finding.state == damage.DAMAGED:
            examined.append(one)
    return examined


def _examine(path: str, owners: Owners, good: GoodFile | None, store: GoodStore, unit: str) -> Examined:
    try:
        image = read(path, owners)
    except UnsafePathError as error:
        if error.fields["path"] != path or error.fields["reason"].startswith("directory"):
            raise
        unreadable = damage.Facts("unreadable", error.message.encode(), 0, 0, 0)
        return Examined(path, None, good, damage.compare(unreadable, None))
    if good is not None and image is not None and good.sha256 == hashlib.sha256(image.data).hexdigest():
        good_data = image.data
    else:
        good_data = b"" if good is None else store.blob(unit, good.sha256)
    now = None
    if image is not None:
        now = damage.Facts(image.kind, image.data, image.uid, image.gid, image.mode)
    return Examined(path, image, good, damage.compare(now, None if good is None else _facts(good, good_data)))


def _facts(good: GoodFile, data: bytes) -> damage.Facts:
    return damage.Facts(good.kind, data, good.uid, good.gid, good.mode)


def read(path: str, owners: Owners) -> Image | None:
    """One config file now; None when it or its directory is not there."""
    try:
        with Place(path, owners) as place:
            return place.read()
    except FileNotFoundError:
        return None


def manifest_of(
    unit: str, examined: list[Examined], taken_at: str, taken_by: int, reason: str
) -> tuple[Manifest, dict[str, bytes]]:
    """The present set as a manifest with its contents. HostError when a file is unreadable."""
    contents: dict[str, bytes] = {}
    files = []
    for one in examined:
        if one.image is None:
            if one.finding.state == damage.DAMAGED:
                raise HostError(f"{one.path}: {one.finding.reason}", code="unreadable")
            continue
        entry = good_file(one.path, one.image)
        contents[entry.sha256] = one.image.data
        files.append(entry)
    return Manifest(unit, taken_at, taken_by, reason, tuple(files)), contents


def writable_by_service(examined: list[Examined], owners: Owners) -> str:
    """The first file the service's own account could have written, "" when there is none."""
    for one in examined:
        image = one.image
        if image is None or image.kind != "file":
            continue
        by_group = image.mode & 0o020 and image.gid != 0
        if image.uid in owners.uids or (image.uid != 0 and image.mode & 0o200) or by_group or image.mode & 0o002:
            return one.path
    return ""


def digest_json(unit: str, manifest: Manifest | None, examined: list[Examined]) -> JsonDict:
    """The contract's `digest` object. Without a copy every file's state is null: unknown, not the same."""
    files = []
    for one in examined:
        image, good = one.image, one.good
        files.append(
            {
                "path": one.path,
                "state": one.finding.state if manifest is not None else None,
                "sha256": hashlib.sha256(image.data).hexdigest() if image is not None else None,
                "lkg_sha256": good.sha256 if good is not None else None,
                "uid": image.uid if image is not None else None,
                "gid": image.gid if image is not None else None,
                "mode": image.mode if image is not None else None,
                "reason": one.finding.reason if manifest is not None else "",
                "mtime_ns": image.mtime_ns if image is not None else None,
            }
        )
    known = manifest is not None
    return {
        "unit": unit,
        "lkg": {"taken_at": manifest.taken_at, "manifest_digest": manifest.digest} if manifest is not None else None,
        "files": files,
        "changed": known and any(one.finding.state != damage.SAME for one in examined),
        "damaged": known and any(is_damaged(one) for one in examined),
    }


def is_damaged(one: Examined) -> bool:
    """Whether nobody can have meant it: damaged, harmful metadata, or a file that is gone."""
    return one.finding.harmful or one.finding.state == damage.MISSING
