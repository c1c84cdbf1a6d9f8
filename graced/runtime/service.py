"""Varlink on the loop: interfaces, calls, connections, access by peer credentials.

Deny by default: only methods named in an interface's `acl` can be called, only by the roles named there (and by
root, who could impersonate anyone, except for methods in `no_root`). Every peer is bounded: message size, unread
replies, connections per account, and a time for a message that has begun to end.
"""

from __future__ import annotations

import os

from graced.base.errors import FormatError, GracedError
from graced.base.log import ERR, NOTICE, log
from graced.base.messages import ACCESS_REFUSED, INTERNAL_ERROR
from graced.base.sockets import Socket, accept, unix_stream
from graced.runtime.connection import Call, Connection, Run
from graced.runtime.peer import READ, Accounts
from graced.runtime.seldom import Seldom, left_out
from graced.varlink.wire import SERVICE, VarlinkError, split_method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from graced.base.json import JsonDict
    from graced.runtime.loop import Future, Loop
    from graced.runtime.peer import Peer

__all__ = ["READ", "Call", "Interface", "Run", "Service", "listen_unix"]

MAX_CONNECTIONS = 2048
MAX_CONNECTIONS_PER_UID = 1024
MAX_CONNECTIONS_STRANGER = 16
# Descriptors that stay free for stores, programs and calls to the others.
SPARE_FILES = 128
ACCEPT_PAUSE_SECONDS = 0.1
HALF_MESSAGE_SECONDS = 10.0


class Interface:
    """A Varlink interface: a name, an access table, and one Python method per Varlink method.

    A method takes a Call and returns the reply's parameters (or their JSON text as bytes), or a coroutine that does, or
    None to reply later through the call. It raises VarlinkError for the errors of its IDL; other GracedErrors become
    ``<interface>.InvalidRequest`` (FormatError) or ``.Unavailable``.

    `runs` names, for some methods, another one that answers many calls at once: it takes a Run and returns the text of
    the replies of as many of its first calls as are as usual, and no trace is left of the others. The next call is then
    answered by itself, and so are its errors.
    """

    name = ""
    runs: Mapping[str, str] = {}
    acl: Mapping[str, frozenset[str]] = {}
    no_root: frozenset[str] = frozenset()


class _ServiceInterface(Interface):
    """org.varlink.service, as the Varlink specification asks of every service."""

    name = SERVICE
    acl = {"GetInfo": READ, "GetInterfaceDescription": READ}

    def __init__(self, service: Service, product: str, version: str, share: str) -> None:
        self._service = service
        self._product = product
        self._version = version
        self._share = share

    def GetInfo(self, _call: Call) -> JsonDict:
        return {
            "vendor": "graced",
            "product": self._product,
            "version": self._version,
            "url": "https://graced.io/",
            "interfaces": sorted(self._service.interfaces),
        }

    def GetInterfaceDescription(self, call: Call) -> JsonDict:
        name = call.parameters.get("interface")
        if name == SERVICE:
            return {"description": _SERVICE_IDL}
        if not isinstance(name, str) or name not in self._service.interfaces:
            raise VarlinkError(f"{SERVICE}.InterfaceNotFound", {"interface": str(name)})
        with open(f"{self._share}/varlink/{name}.varlink", encoding="utf-8") as file:
            return {"description": file.read()}


_SERVICE_IDL = """\
# The Varlink service interface
interface org.varlink.service
method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)
method GetInterfaceDescription(interface: string) -> (description: string)
error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
error PermissionDenied ()
error ExpectedMore ()
"""


class _Method:
    """A method that was found: what runs, and the roles of which its caller needs one."""

    __slots__ = ("function", "interface", "needed", "roles", "run")

    def __init__(self, interface: Interface, name: str) -> None:
        self.interface = interface.name
        self.function: Callable[[Call], Any] = getattr(interface, name)
        run = interface.runs.get(name)
        self.run: Callable[[Run], list[bytes]] | None = None if run is None else getattr(interface, run)
        needed = interface.acl[name]
        self.roles = needed if name in interface.no_root else needed | {"root"}
        self.needed = sorted(self.roles)


class Service:
    """Listening sockets and the interfaces behind them."""

    def __init__(self, loop: Loop, product: str, version: str, share: str) -> None:
        self.loop = loop
        self.interfaces: dict[str, Interface] = {}
        self._methods: dict[str, _Method] = {}
        self.internal_errors = 0
        self.refused = 0
        self._accounts = Accounts()
        self._refusals = Seldom(loop.now_s)
        self._listeners: list[Socket] = []
        self._connections: set[Connection] = set()
        self._dirty: list[Connection] = []
        self._per_uid: dict[int, int] = {}
        self._limit = max(64, min(MAX_CONNECTIONS, os.sysconf("SC_OPEN_MAX") - SPARE_FILES))
        self._limit_per_uid = min(MAX_CONNECTIONS_PER_UID, self._limit * 3 // 4)
        self.before_flush: list[Callable[[], object]] = []
        self.add(_ServiceInterface(self, product, version, share))
        loop.after_turn.append(self.flush)
        loop.call_later(HALF_MESSAGE_SECONDS, self._reap)

    def add(self, interface: Interface) -> None:
        """Serve one more interface."""
        self.interfaces[interface.name] = interface

    def listen(self, sock: Socket) -> None:
        """Accept on a listening socket."""
        os.set_blocking(sock.fileno(), False)
        self._listeners.append(sock)
        self.loop.add_reader(sock.fileno(), lambda: self._accept(sock))

    def _accept(self, listener: Socket) -> None:
        for _ in range(64):
            try:
                sock = accept(listener)
            except BlockingIOError:
                return
            except OSError:
                # Out of descriptors or memory: the listener stays readable, so asking it at once would spin.
                self._pause(listener)
                return
            os.set_blocking(sock.fileno(), False)
            try:
                peer = self._accounts.peer_of(sock)
            except OSError:
                sock.close()
                continue
            count = self._per_uid.get(peer.uid, 0)
            limit = self._limit_per_uid if peer.roles else MAX_CONNECTIONS_STRANGER
            if count >= limit or len(self._connections) >= self._limit:
                self.refused += 1
                self._note_refusal(peer, "one more connection", {"GRACED_CONNECTIONS": count})
                sock.close()
                continue
            self._per_uid[peer.uid] = count + 1
            self._connections.add(Connection(self, sock, peer))

    def _pause(self, listener: Socket) -> None:
        self.loop.remove_reader(listener.fileno())

        def again() -> None:
            if listener in self._listeners:
                self.loop.add_reader(listener.fileno(), lambda: self._accept(listener))

        self.loop.call_later(ACCEPT_PAUSE_SECONDS, again)

    def _reap(self) -> None:
        now_s = self.loop.now_s()
        for connection in [one for one in self._connections if one.half_for_s(now_s) > HALF_MESSAGE_SECONDS]:
            connection.expire(HALF_MESSAGE_SECONDS)
        self.loop.call_later(HALF_MESSAGE_SECONDS if self._connections else 60.0, self._reap)

    def forget(self, connection: Connection) -> None:
        """A connection has closed."""
        self._connections.discard(connection)
        left = self._per_uid.get(connection.peer.uid, 1) - 1
        if left > 0:
            self._per_uid[connection.peer.uid] = left
        else:
            self._per_uid.pop(connection.peer.uid, None)

    def touch(self, connection: Connection) -> None:
        """A connection has something to send at the end of this turn."""
        self._dirty.append(connection)

    def flush(self) -> None:
        """Send everything queued in this turn. Stores commit in `before_flush`: an answer leaves after its fsync."""
        for hook in self.before_flush:
            hook()
        dirty, self._dirty = self._dirty, []
        # The last first: what a hook pushes has somebody waiting for the work, the answers only say that it came.
        for connection in reversed(dirty):
            connection.end_turn()

    @property
    def busy(self) -> bool:
        """Whether any call is unanswered or any reply unsent (streams do not count once their peer has all)."""
        return any(connection.busy for connection in self._connections)

    @property
    def connection_count(self) -> int:
        """Open connections."""
        return len(self._connections)

    def close_listeners(self) -> None:
        """Take no new connections (the sockets stay with systemd: nothing is refused)."""
        for sock in self._listeners:
            self.loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()

    def dispatch(self, call: Call) -> None:
        """Find the method, check the peer, run it, answer."""
        method = self._methods.get(call.method)
        try:
            if method is None:
                method = self._resolve(call.method)
            if method.roles.isdisjoint(call.peer.roles):
                raise VarlinkError(
                    f"{method.interface}.PermissionDenied",
                    {} if method.interface == SERVICE else {"method": call.method, "needed": method.needed},
                )
            result = method.function(call)
        except Exception as error:  # noqa: BLE001  # answered and counted; the loop's owner gives up on too many
            self._failed(call, method.interface if method else split_method(call.method)[0], error)
            return
        if type(result) is bytes and not call.answered:
            call.answer(result)
            return
        if result is None:
            return
        if isinstance(result, dict | bytes):
            call.reply(result)
            return
        task = self.loop.spawn(result)
        task.when_done(lambda done: self._settled(call, method.interface, done))

    def run_of(self, name: str, peer: Peer) -> Callable[[Run], list[bytes]] | None:
        """What answers many calls of a method at once for this peer, once its first call has come; None: nothing."""
        method = self._methods.get(name)
        return None if method is None or method.roles.isdisjoint(peer.roles) else method.run

    def dispatch_run(self, function: Callable[[Run], list[bytes]], run: Run) -> None:
        """Answer the first calls of a run."""
        try:
            run.answer(function(run))
        except Exception as error:  # noqa: BLE001  # as in dispatch
            run.error(self._bug(run.method, error))

    def _resolve(self, name: str) -> _Method:
        interface_name, method_name = split_method(name)
        interface = self.interfaces.get(interface_name)
        if interface is None:
            raise VarlinkError(f"{SERVICE}.InterfaceNotFound", {"interface": interface_name})
        if method_name not in interface.acl:
            raise VarlinkError(f"{SERVICE}.MethodNotFound", {"method": name})
        method = self._methods[name] = _Method(interface, method_name)
        return method

    def _settled(self, call: Call, interface_name: str, done: Future) -> None:
        try:
            result = done.result()
        except Exception as error:  # noqa: BLE001  # as in dispatch
            self._failed(call, interface_name, error)
            return
        if result is not None:
            call.reply(result)

    def _failed(self, call: Call, interface_name: str, error: Exception) -> None:
        if isinstance(error, VarlinkError):
            if error.name == "PermissionDenied":
                self._note_refusal(call.peer, call.method, {"GRACED_METHOD": call.method})
            call.error(error)
        elif isinstance(error, FormatError):
            call.error(VarlinkError(f"{interface_name}.InvalidRequest", {"reason": error.message}))
        elif isinstance(error, GracedError):
            call.error(VarlinkError(f"{interface_name}.Unavailable", {"reason": str(error)}))
        else:
            call.error(self._bug(call.method, error))

    def _bug(self, name: str, error: Exception) -> VarlinkError:
        self.internal_errors += 1
        import traceback

        trace = "".join(traceback.format_exception(error))
        log(ERR, f"{name} failed: {error!r}\n{trace}", INTERNAL_ERROR, GRACED_METHOD=name)
        return VarlinkError(f"{split_method(name)[0]}.Unavailable", {"reason": f"internal error: {error!r}"})

    def _note_refusal(self, peer: Peer, what: str, fields: JsonDict) -> None:
        """Who asks for what they have no right to is in the journal; a flood of it is counted there."""
        missed = self._refusals.take(peer.uid, what)
        if missed is not None:
            text = f"{what} is refused to {peer.name} (uid {peer.uid}, pid {peer.pid}){left_out(missed)}"
            log(NOTICE, text, ACCESS_REFUSED, GRACED_UID=peer.uid, GRACED_PID=peer.pid, **fields)


def listen_unix(path: str) -> Socket:
    """Bind a socket ourselves (development: systemd does it on a host). Replaces a dead socket file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path):
        os.unlink(path)
    sock = unix_stream()
    sock.bind(path)
    sock.listen(256)
    return sock
