"""D-Bus signals and the rules that pick them out. Pure; used by graced.host.dbus and its callers."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class MatchRule:
    """Which signals a subscriber wants; `sender` (a well-known or unique bus name) is always checked."""

    __slots__ = ("arg0", "interface", "member", "path", "path_namespace", "sender")

    def __init__(
        self,
        sender: str,
        *,
        path: str | None = None,
        path_namespace: str | None = None,
        interface: str | None = None,
        member: str | None = None,
        arg0: str | None = None,
    ) -> None:
        self.sender = sender
        self.path = path
        self.path_namespace = path_namespace
        self.interface = interface
        self.member = member
        self.arg0 = arg0

    def text(self) -> str:
        """The rule in the syntax of AddMatch (D-Bus specification, "Match Rules")."""
        parts = ["type='signal'", f"sender={_quoted(self.sender)}"]
        for key in ("path", "path_namespace", "interface", "member", "arg0"):
            value = getattr(self, key)
            if value is not None:
                parts.append(f"{key}={_quoted(value)}")
        return ",".join(parts)

    def accepts(self, signal: Signal) -> bool:
        """Whether all but the sender fits (the connection checks that against the present owner)."""
        if self.path is not None and signal.path != self.path:
            return False
        space = self.path_namespace
        if space is not None and not f"{signal.path}/".startswith(space.rstrip("/") + "/"):
            return False
        if self.interface is not None and signal.interface != self.interface:
            return False
        if self.member is not None and signal.member != self.member:
            return False
        return self.arg0 is None or (bool(signal.body) and signal.body[0] == self.arg0)


def _quoted(value: str) -> str:
    # Inside single quotes only the quote itself needs care: close, escaped quote, open again.
    return "'" + value.replace("'", "'\\''") + "'"


class Signal:
    """One received signal; in `body` variants are (signature, value) and dictionaries are dicts."""

    __slots__ = ("body", "interface", "member", "path", "sender")

    def __init__(self, sender: str, path: str, interface: str, member: str, body: tuple[Any, ...]) -> None:
        self.sender = sender
        self.path = path
        self.interface = interface
        self.member = member
        self.body = body
