"""The store of last-known-good config files: what `Snapshot` writes and `restore-config` reads.

``<root>/<unit>/manifest.json`` lists every file (path, type, digest, owner, group, mode, xattrs),
``blobs/<sha256>`` holds each content once. A manifest is renamed into place after all its blobs are on
disk, so a crash leaves the old set or the new one. A blob is checked against its name whenever it is
read. Symlinks are recorded as links.
"""

from __future__ import annotations

import hashlib
import os

from graced.actuator.safeopen import ROOT_ONLY, Image, Owners, Place, UnsafePathError
from graced.base.errors import FormatError, StoreError
from graced.base.json import canonical, get_dict, get_int, get_list, get_str, loads_object
from graced.base.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

_MAX_MANIFEST_BYTES = 16 << 20


class GoodFile(Record):
    """One file of a set; `sha256` is the blob's name (of the link's target for ``symlink``)."""

    path: str
    kind: str
    sha256: str
    uid: int
    gid: int
    mode: int
    xattrs: dict[str, str] = {}


class Manifest(Record):
    """A unit's last-known-good set; `digest` covers the files, not the time."""

    unit: str
    taken_at: str
    taken_by: int
    reason: str
    files: tuple[GoodFile, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the files, 64 hex digits."""
        return hashlib.sha256(canonical([file.to_json() for file in self.files])).hexdigest()


def make_directories(path: str, mode: int = 0o700) -> None:
    """Make `path` and what is missing above it, durably, root's own."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    make_directories(parent, mode)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def put_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """A small file of our own, durable and all at once; StoreError says which."""
    try:
        with Place(path, _own()) as place:
            place.write(Image("file", data, os.geteuid(), os.getegid(), mode))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint="is the disk full or read-only?") from error


def get_file(path: str, max_bytes: int = _MAX_MANIFEST_BYTES) -> bytes | None:
    """Content of a file of our own, None when it is not there; StoreError says why not."""
    try:
        with Place(path, _own()) as place:
            image = place.read(max_bytes)
    except FileNotFoundError:
        return None
    except (OSError, UnsafePathError) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error
    return None if image is None else image.data


def _own() -> Owners:
    # The actuator is root; elsewhere (tests) the directories of the process' own account are as good.
    return Owners((os.geteuid(),), (os.getegid(),)) if os.geteuid() else ROOT_ONLY


class GoodStore:
    """All units' sets below `root`, a directory that only root can enter."""

    def __init__(self, root: str) -> None:
        self._root = root

    def manifest(self, unit: str) -> Manifest | None:
        """The unit's set, None when there was no snapshot yet; StoreError when it is damaged."""
        data = get_file(f"{self._root}/{unit}/manifest.json")
        if data is None:
            return None
        try:
            return _parse(loads_object(data, max_bytes=_MAX_MANIFEST_BYTES), unit)
        except FormatError as error:
            raise StoreError(
                f"the last-known-good manifest of {unit} is damaged: {error.message}",
                hint=f"take a new one: gracectl adopt {unit}",
            ) from error

    def blob(self, unit: str, sha256: str) -> bytes:
        """A content by digest; StoreError when it is gone or is not what its name says."""
        data = get_file(self._blob_path(unit, sha256))
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            raise StoreError(
                f"the last-known-good copy {sha256[:12]} of {unit} is {'gone' if data is None else 'damaged'}",
                hint=f"take a new one: gracectl adopt {unit}",
            )
        return data

    def save(self, manifest: Manifest, contents: dict[str, bytes]) -> None:
        """Make `manifest` the unit's set; `contents` has every digest it names. Old blobs go afterwards."""
        blobs = f"{self._root}/{manifest.unit}/blobs"
        make_directories(blobs)
        wanted = {file.sha256 for file in manifest.files}
        for sha256 in sorted(wanted):
            path = self._blob_path(manifest.unit, sha256)
            if get_file(path) != contents[sha256]:
                put_file(path, contents[sha256])
        put_file(f"{self._root}/{manifest.unit}/manifest.json", canonical(manifest.to_json()))
        for name in os.listdir(blobs):
            if name not in wanted:
                os.unlink(f"{blobs}/{name}")

    def forget(self, unit: str) -> bool:
        """Drop a released unit's copies; False when there were none."""
        directory = f"{self._root}/{unit}"
        if not os.path.isdir(directory):
            return False
        for name in ("manifest.json", "blobs"):
            _remove(f"{directory}/{name}")
        os.rmdir(directory)
        return True

    def _blob_path(self, unit: str, sha256: str) -> str:
        return f"{self._root}/{unit}/blobs/{sha256}"


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            os.unlink(f"{path}/{name}")
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)


def good_file(path: str, image: Image) -> GoodFile:
    """The manifest's entry for a file as found."""
    xattrs = {name: value.hex() for name, value in image.xattrs.items()}
    return GoodFile(path, image.kind, hashlib.sha256(image.data).hexdigest(), image.uid, image.gid, image.mode, xattrs)


def to_image(file: GoodFile, data: bytes) -> Image:
    """What to write to get the file back."""
    xattrs = {name: bytes.fromhex(value) for name, value in file.xattrs.items()}
    return Image(file.kind, data, file.uid, file.gid, file.mode, 0, xattrs)


def _parse(obj: JsonDict, unit: str) -> Manifest:
    files = []
    for index, entry in enumerate(get_list(obj, "files")):
        if not isinstance(entry, dict):
            raise FormatError(f"$.files[{index}]: an object is needed", path=f"$.files[{index}]")
        files.append(GoodFile.from_json(entry, f"$.files[{index}]"))
        get_dict(entry, "xattrs", f"$.files[{index}]")
    if get_str(obj, "unit") != unit:
        raise FormatError(f"$.unit is {obj['unit']}, not {unit}", path="$.unit")
    return Manifest(unit, get_str(obj, "taken_at"), get_int(obj, "taken_by"), get_str(obj, "reason"), tuple(files))
