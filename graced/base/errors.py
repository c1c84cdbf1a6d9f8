"""One root for every error graced raises on purpose.

An error says what happened and where (`message`), what to do next (`hint`), and carries fields that become
journal fields. Ports translate foreign exceptions with ``raise … from``. Used by every floor.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class GracedError(Exception):
    """Root of the family.

    `message` is one sentence, `hint` the next thing to do, `code` a stable word for machines,
    `fields` further facts (JSON values).
    """

    code = "error"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(GracedError):
    """Something an admin wrote cannot be used; the message lists every problem with file and line."""

    code = "config"


class FormatError(GracedError):
    """Data from outside has the wrong shape; the message names the path inside the data."""

    code = "format"


class WireError(GracedError):
    """A connection failed, timed out or broke the protocol."""

    code = "wire"


class StoreError(GracedError):
    """A database or file could not be read or written."""

    code = "store"


class TrustError(GracedError):
    """A key, signature or ledger does not hold."""

    code = "trust"


class HostError(GracedError):
    """systemd, the kernel or a process did not do what was asked."""

    code = "host"


class PolicyError(GracedError):
    """A rule set cannot be used."""

    code = "policy"


class TaskError(GracedError):
    """A task cannot be accepted or moved."""

    code = "task"


class suppress:
    """contextlib.suppress, without what its module imports: 1 ms of a start."""

    __slots__ = ("_kind",)

    def __init__(self, kind: type[Exception]) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> bool:
        return kind is not None and issubclass(kind, self._kind)
