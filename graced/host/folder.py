"""A directory whose files others write: opened and moved without being led elsewhere.

Every name is resolved below one open directory, a symbolic link is never followed, only regular files are opened,
and a file is moved only while its name still means the file that was read. Used by the Librarian kernel.
"""

from __future__ import annotations

import os
import stat

from graced.base.errors import FormatError, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import stat_result

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Folder:
    """One open directory; `path` as the admin wrote it. Raises HostError when it cannot be opened."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise HostError(f"{path}: {error.strerror}", hint="create it, readable by _graced-librarian") from error

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)

    def names(self) -> list[str]:
        """Entries that are not directories and do not begin with a dot, the oldest name order first."""
        with os.scandir(self._fd) as entries:
            return sorted(
                entry.name for entry in entries if entry.name[:1] != "." and not entry.is_dir(follow_symlinks=False)
            )

    def look(self, name: str) -> stat_result | None:
        """`lstat` of an entry; None when it is gone."""
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, name: str) -> int:
        """A descriptor to read a regular file. FormatError when it is none or may not be read."""
        try:
            fd = os.open(name, _FLAGS, dir_fd=self._fd)
        except OSError as error:
            raise FormatError(f"cannot be opened: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FormatError("not a regular file")
        return fd

    def move(self, name: str, seen: stat_result, into: str) -> str | None:
        """Move an entry into the subdirectory `into`; its new name, None when the name means another file by now.

        A name that is taken there gets the first free number. Raises HostError when it cannot be moved.
        """
        now = self.look(name)
        if now is None or (now.st_dev, now.st_ino) != (seen.st_dev, seen.st_ino):
            return None
        try:
            os.makedirs(f"{self.path}/{into}", mode=0o750, exist_ok=True)
            target = name
            number = 0
            while self.look(f"{into}/{target}") is not None:
                number += 1
                target = f"{name}.{number}"
            os.rename(name, f"{into}/{target}", src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            raise HostError(f"{self.path}/{name} cannot be moved to {into}: {error.strerror}") from error
        return target

    def note(self, name: str, text: str) -> None:
        """Write a small new file (for a reason beside a refused file); replaces an older note. Raises HostError."""
        try:
            fd = os.open(
                name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640, dir_fd=self._fd
            )
            with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")
        except OSError as error:
            raise HostError(f"{self.path}/{name}: {error.strerror}") from error
