"""A non-blocking connection to the system bus, built on jeepney's I/O-free parts.

What it does: authenticates, sends method calls with a deadline each, hands signals to subscribers. It never
blocks and never reconnects: the owner sees `on_lost` once and decides. Drive it with `attach(reactor)`
(graced.runtime's Loop fits) or by hand with `fileno`, `wants_write`, `on_readable`, `on_writable`,
`next_deadline_s` and `expire`.

Invariants: every `call` ends in exactly one callback (reply, error, deadline or lost connection). A signal
reaches a subscriber only when the bus itself stamped it with the present owner of the rule's sender: any
local user may send a directed signal that merely claims to come from systemd.

jeepney is imported by `connect`, so importing this module is free. Used by Infrastructure and the actuator.
"""

from __future__ import annotations

import struct
import time

from graced.base.errors import HostError
from graced.base.sockets import Socket, unix_stream
from graced.host.frames import Frames
from graced.host.signals import MatchRule, Signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.host.reactor import Reactor, Timer

    ReplyCallback = Callable[[tuple[Any, ...] | None, HostError | None], None]
    SignalCallback = Callable[[Signal], None]

__all__ = ["DBusError", "MatchRule", "Signal", "Subscription", "SystemBus"]

DBUS_NAME = "org.freedesktop.DBus"
DBUS_PATH = "/org/freedesktop/DBus"
MAX_OUTPUT_BYTES = 4 * 1024 * 1024
# dbus-daemon refuses a connection's call when 128 others have no answer yet; what is more waits here for its turn.
MAX_UNANSWERED = 64
DEFAULT_TIMEOUT_S = 5.0


class DBusError(HostError):
    """The other side answered with an error; `name` is the D-Bus error name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}" if message else name)
        self.name = name


class Subscription:
    """Returned by `SystemBus.match`; hand it to `SystemBus.unmatch`."""

    __slots__ = ("callback", "rule")

    def __init__(self, rule: MatchRule, callback: SignalCallback) -> None:
        self.rule = rule
        self.callback = callback


class _Pending:
    __slots__ = ("callback", "deadline_s", "what")

    def __init__(self, callback: ReplyCallback | None, deadline_s: float, what: str) -> None:
        self.callback = callback
        self.deadline_s = deadline_s
        self.what = what


class SystemBus:
    """One connection. Calls and matches may be made at once; they leave when authentication is through."""

    def __init__(self, sock: Socket) -> None:
        from jeepney import low_level, wrappers
        from jeepney.auth import Authenticator

        self._low = low_level
        self._wrappers = wrappers
        self._sock: Socket | None = sock
        self._auth: Any = Authenticator()
        self._frames = Frames(low_level)
        self._output = bytearray()
        # Calls that wait for authentication, or for answers to others.
        self._waiting: dict[int, bytes] = {}
        self._unanswered: set[int] = set()
        self._serial = 0
        self._pending: dict[int, _Pending] = {}
        self._subscriptions: list[Subscription] = []
        self._owners: dict[str, str] = {}
        self._reactor: Reactor | None = None
        self._timer: Timer | None = None
        self._timer_at_s = 0.0
        self._writing = False
        self.unique_name = ""
        self.on_lost: Callable[[HostError], None] | None = None
        self.on_owner_changed: Callable[[str, str], None] | None = None
        self._output += self._auth.data_to_send() or b""
        self.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "Hello", callback=self._hello)

    @classmethod
    def connect(cls, address: str | None = None) -> SystemBus:
        """Open the system bus (or the socket path `address`; "\\0name" is abstract).

        Raises HostError when the bus is not there; nothing of the conversation has happened yet on return.
        """
        if address is None:
            from jeepney.bus import find_system_bus

            try:
                address = find_system_bus()
            except (RuntimeError, ValueError) as problem:
                raise HostError(f"DBUS_SYSTEM_BUS_ADDRESS is not usable: {problem}") from problem
        sock = unix_stream()
        try:
            sock.connect(address)
        except OSError as problem:
            sock.close()
            raise HostError(
                f"system bus at {address.replace(chr(0), '@')}: {problem.strerror}", hint="systemctl status dbus.socket"
            ) from problem
        return cls(sock)

    def read_only(self, names: frozenset[str]) -> None:
        """Of an ``a{sv}`` (GetAll, PropertiesChanged) read these names and no others from now on."""
        self._frames.wanted = names

    @property
    def closed(self) -> bool:
        """True after `close` or a lost connection."""
        return self._sock is None

    @property
    def wants_write(self) -> bool:
        """Whether `on_writable` has something to do."""
        return bool(self._output)

    def fileno(self) -> int:
        """The socket, or -1 when closed."""
        return -1 if self._sock is None else self._sock.fileno()

    def attach(self, reactor: Reactor) -> None:
        """Let `reactor` drive this connection until it is closed or lost."""
        self._reactor = reactor
        reactor.add_reader(self.fileno(), self.on_readable)
        self._arm()
        self.flush()

    def on_readable(self) -> None:
        """Read what is there and dispatch it."""
        if self._sock is None:
            return
        try:
            data = self._sock.recv(262144)
        except BlockingIOError:
            return
        except OSError as problem:
            self._lost(HostError(f"system bus: {problem.strerror}"))
            return
        if not data:
            self._lost(HostError("system bus closed the connection"))
            return
        self._feed(data)

    def on_writable(self) -> None:
        """Send as much as the socket takes."""
        self.flush()

    def flush(self) -> None:
        """Send as much as the socket takes now; the rest waits for `on_writable`."""
        while self._output and self._sock is not None:
            try:
                sent = self._sock.send(self._output)
            except BlockingIOError:
                break
            except OSError as problem:
                self._lost(HostError(f"system bus: {problem.strerror}"))
                return
            del self._output[:sent]
        reactor = self._reactor
        if reactor is not None and self._sock is not None and self._writing != bool(self._output):
            self._writing = bool(self._output)
            if self._writing:
                reactor.add_writer(self.fileno(), self.on_writable)
            else:
                reactor.remove_writer(self.fileno())

    def next_deadline_s(self) -> float | None:
        """time.monotonic() of the next call that would expire."""
        return min((pending.deadline_s for pending in self._pending.values()), default=None)

    def expire(self) -> None:
        """Fail the calls whose deadline is over."""
        now_s = time.monotonic()
        for serial in [s for s, pending in self._pending.items() if pending.deadline_s <= now_s]:
            pending = self._pending.pop(serial)
            if pending.callback is not None:
                pending.callback(None, HostError(f"{pending.what}: no answer in time", code="timeout"))

    def close(self) -> None:
        """Close; pending calls fail, `on_lost` is not called."""
        self.on_lost = None
        self._lost(HostError("system bus connection closed by its owner"))

    def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: tuple[Any, ...] = (),
        callback: ReplyCallback | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        *,
        later: bool = False,
    ) -> None:
        """Call a method; `callback(reply_body, None)` or `callback(None, error)` (DBusError: the peer's).

        timeout is in seconds; `later` leaves the sending to a `flush` that the caller owes. Raises HostError when
        the connection is gone, ValueError or TypeError for a body that does not fit its signature.
        """
        if self._sock is None:
            raise HostError("system bus connection is closed")
        address = self._wrappers.DBusAddress(path, bus_name=destination, interface=interface)
        message = self._wrappers.new_method_call(address, member, signature or None, body)
        self._serial += 1
        data = message.serialise(serial=self._serial)
        if len(self._output) + sum(map(len, self._waiting.values())) + len(data) > MAX_OUTPUT_BYTES:
            raise HostError("system bus does not take messages fast enough", code="busy")
        what = f"{interface}.{member}"
        self._pending[self._serial] = _Pending(callback, time.monotonic() + timeout, what)
        self._waiting[self._serial] = data
        self._let_go()
        if not later:
            self.flush()
        self._arm()

    def _let_go(self) -> None:
        """Move to the output what may be sent now; a call whose deadline is over is not sent any more."""
        while self._auth is None and self._waiting and len(self._unanswered) < MAX_UNANSWERED:
            data = self._waiting.pop(serial := next(iter(self._waiting)))
            if serial in self._pending:
                self._output += data
                self._unanswered.add(serial)

    def match(self, rule: MatchRule, callback: SignalCallback) -> Subscription:
        """Subscribe to signals."""
        subscription = Subscription(rule, callback)
        self._subscriptions.append(subscription)
        sender = rule.sender
        if not sender.startswith(":") and sender != DBUS_NAME and sender not in self._owners:
            self._owners[sender] = ""
            self._follow_owner(sender)
        self.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "AddMatch", "s", (rule.text(),))
        return subscription

    def unmatch(self, subscription: Subscription) -> None:
        """End a subscription; unknown ones are ignored."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
            if self._sock is not None:
                self.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "RemoveMatch", "s", (subscription.rule.text(),))

    def owner(self, name: str) -> str:
        """Unique name that owns a followed well-known name; "" while nobody does or it is not known."""
        return self._owners.get(name, "")

    def _follow_owner(self, name: str) -> None:
        rule = MatchRule(DBUS_NAME, path=DBUS_PATH, interface=DBUS_NAME, member="NameOwnerChanged", arg0=name)
        self.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "AddMatch", "s", (rule.text(),))

        def learned(reply: tuple[Any, ...] | None, error: HostError | None) -> None:
            # No owner is an answer too: NameOwnerChanged will tell when there is one.
            if reply is not None and error is None and not self._owners[name]:
                self._owners[name] = str(reply[0])

        self.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "GetNameOwner", "s", (name,), learned)

    def _hello(self, reply: tuple[Any, ...] | None, error: HostError | None) -> None:
        if reply is not None:
            self.unique_name = str(reply[0])
        elif error is not None and self._sock is not None:
            self._lost(error)

    def _feed(self, data: bytes) -> None:
        if self._auth is not None:
            try:
                self._auth.feed(data)
            except ValueError as problem:  # AuthenticationError is one
                self._lost(HostError(f"system bus refused this process: {problem}"))
                return
            if self._auth.authenticated:
                # data_to_send answers None once it succeeded: the closing line is the caller's to send.
                self._auth = None
                self._output += b"BEGIN\r\n"
                self._let_go()
            self.flush()
            return
        try:
            messages = self._frames.feed(data)
        except (
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AssertionError,
            ArithmeticError,
            OSError,
            struct.error,
        ) as problem:
            self._lost(HostError(f"system bus sent what is not D-Bus: {problem!r}"))
            return
        for message in messages:
            if self._sock is None:
                return
            self._dispatch(message)

    def _dispatch(self, message: Any) -> None:
        fields = message.header.fields
        kinds, names = self._low.MessageType, self._low.HeaderFields
        kind = message.header.message_type
        if kind is kinds.signal:
            self._signal(
                Signal(
                    fields.get(names.sender, ""),
                    fields.get(names.path, ""),
                    fields.get(names.interface, ""),
                    fields.get(names.member, ""),
                    message.body,
                )
            )
        elif kind is kinds.method_return or kind is kinds.error:
            serial = fields.get(names.reply_serial, 0)
            self._unanswered.discard(serial)
            # Before the flush, which may lose the connection and fail whatever has no answer.
            pending = self._pending.pop(serial, None)
            if self._waiting:
                self._let_go()
                self.flush()
            if pending is None or pending.callback is None:
                return
            if kind is kinds.error:
                text = message.body[0] if message.body and isinstance(message.body[0], str) else ""
                pending.callback(None, DBusError(fields.get(names.error_name, "unknown"), text))
            else:
                pending.callback(message.body, None)
        # Method calls to us are not answered: this connection offers no object and owns no name.

    def _signal(self, signal: Signal) -> None:
        if signal.sender == DBUS_NAME and signal.member == "NameOwnerChanged" and len(signal.body) == 3:
            name, _old, new = signal.body
            if name in self._owners:
                self._owners[name] = new
                if self.on_owner_changed is not None:
                    self.on_owner_changed(name, new)
        for subscription in list(self._subscriptions):
            wanted = subscription.rule.sender
            if signal.sender == self._owners.get(wanted, wanted) and subscription.rule.accepts(signal):
                subscription.callback(signal)

    def _arm(self) -> None:
        reactor = self._reactor
        deadline_s = self.next_deadline_s()
        if reactor is None or deadline_s is None:
            return
        if self._timer is not None and self._timer_at_s <= deadline_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = deadline_s
        self._timer = reactor.call_later(max(0.0, deadline_s - time.monotonic()) + 0.001, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.expire()
        self._arm()

    def _lost(self, problem: HostError) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        if self._reactor is not None:
            self._reactor.remove_reader(sock.fileno())
            if self._writing:
                self._reactor.remove_writer(sock.fileno())
        if self._timer is not None:
            self._timer.cancel()
        sock.close()
        pending, self._pending = self._pending, {}
        self._waiting.clear()
        self._unanswered.clear()
        self._subscriptions.clear()
        for call in pending.values():
            if call.callback is not None:
                call.callback(None, problem)
        if self.on_lost is not None:
            self.on_lost(problem)
