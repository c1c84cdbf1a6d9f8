"""Calls from one daemon to another, on the loop.

A link keeps a few connections per socket. Replies on a connection come in order, so every call in flight has a
connection of its own, or shares it with those that were sent in the same moment; idle ones are kept for the next.
"""

from __future__ import annotations

from graced.base.errors import WireError
from graced.base.sockets import unix_stream
from graced.runtime.loop import Expired, Future
from graced.varlink.wire import Decoder, VarlinkError, encode, reply_or_raise, split_method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from graced.base.json import JsonDict
    from graced.base.paths import Paths
    from graced.runtime.loop import Loop, Timer

MAX_IDLE_PER_SOCKET = 4
MAX_OPEN_PER_SOCKET = 64
# This daemon exits when nobody is connected: a kept connection would hold it up, and its exit would hit a later call.
LEAVES_WHEN_IDLE = "/io.graced.Actuator"


class Link:
    """One client connection. `on_reply` gets each message; `on_close` is called once when it ends."""

    def __init__(self, loop: Loop, path: str) -> None:
        self.path = path
        self.closed = False
        self.on_reply: Callable[[JsonDict], None] = _ignore
        self.on_close: Callable[[], None] = _nothing
        self._loop = loop
        self._decoder = Decoder(max_bytes=16 << 20)
        self._output = bytearray()
        self._socket = unix_stream()
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            self.closed = True
            raise WireError(
                f"{path}: {error.strerror}", hint="systemctl status graced.target", path=path, errno=error.errno
            ) from error
        loop.add_reader(self._socket.fileno(), self._on_readable)

    def send(self, *messages: JsonDict) -> None:
        """Queue messages and write what the socket takes, all at once when it can."""
        for message in messages:
            self._output += encode(message)
        self._flush()

    def _flush(self) -> None:
        if self.closed:
            return
        try:
            sent = self._socket.send(self._output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._output[:sent]
        if self._output:
            self._loop.add_writer(self._socket.fileno(), self._flush)
        else:
            self._loop.remove_writer(self._socket.fileno())

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(262144)
            messages = self._decoder.feed(data) if data else None
        except BlockingIOError:
            return
        except (OSError, WireError):
            messages = None
        if messages is None:
            self.close()
            return
        for message in messages:
            if not self.closed:
                self.on_reply(message)

    def close(self) -> None:
        """End it; `on_close` is called."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self.on_close()


def _ignore(_message: JsonDict) -> None:
    return


def _nothing() -> None:
    return


class Links:
    """All of a daemon's connections to the others."""

    def __init__(self, loop: Loop, paths: Paths) -> None:
        self._loop = loop
        self._paths = paths
        self._idle: dict[str, list[Link]] = {}
        self._open: dict[str, int] = {}

    async def call(self, method: str, parameters: JsonDict, timeout_s: float) -> JsonDict:
        """One call, one reply. Raises VarlinkError (the daemon said no) or WireError (it could not be asked)."""
        return (await self.calls(method, [parameters], timeout_s))[0]

    async def calls(
        self, method: str, several: Sequence[JsonDict], timeout_s: float, meanwhile: Callable[[], object] | None = None
    ) -> list[JsonDict]:
        """Calls that are one message to the kernel: the daemon takes them in one turn, with one commit.

        `meanwhile` is done while it works on them; what it raises is raised. Raises as `call`, for the first that fails
        when all are answered.
        """
        path = self._paths.socket(split_method(method)[0])
        link = self._take(path)
        replies: list[JsonDict] = []
        done = Future()

        def take(message: JsonDict) -> None:
            if len(replies) < len(several):
                replies.append(message)
            if len(replies) == len(several):
                done.set_result()

        link.on_reply = take
        link.on_close = lambda: done.set_exception(
            WireError(f"{path} closed before it answered {method}", hint="its journal says why", path=path)
        )
        try:
            link.send(*[{"method": method, "parameters": parameters} for parameters in several])
            if meanwhile is not None:
                meanwhile()
            await self._loop.within(done, timeout_s, f"{method} at {path}")
        except Expired:
            # The reply may still come: this connection is out of step for anyone else.
            self._drop(link)
            raise
        except BaseException:
            self._drop(link)
            raise
        self._give_back(link)
        return [reply_or_raise(message) for message in replies]

    def _take(self, path: str) -> Link:
        idle = self._idle.get(path, [])
        while idle:
            link = idle.pop()
            if not link.closed:
                return link
        if self._open.get(path, 0) >= MAX_OPEN_PER_SOCKET:
            raise WireError(f"{path}: {MAX_OPEN_PER_SOCKET} calls are under way already", path=path)
        link = Link(self._loop, path)
        self._open[path] = self._open.get(path, 0) + 1
        return link

    def _drop(self, link: Link) -> None:
        link.on_close = _nothing
        link.close()
        self._open[link.path] = max(0, self._open.get(link.path, 1) - 1)

    def _give_back(self, link: Link) -> None:
        idle = self._idle.setdefault(link.path, [])
        if link.closed or len(idle) >= MAX_IDLE_PER_SOCKET or link.path.endswith(LEAVES_WHEN_IDLE):
            self._drop(link)
            return
        link.on_reply = _ignore
        link.on_close = lambda: self._lost(link)
        idle.append(link)

    def _lost(self, link: Link) -> None:
        idle = self._idle.get(link.path, [])
        if link in idle:
            idle.remove(link)
        self._open[link.path] = max(0, self._open.get(link.path, 1) - 1)


class Stream:
    """A call with "more" that is asked again whenever it breaks, with a growing pause (bounded)."""

    FIRST_PAUSE_S = 0.05
    LAST_PAUSE_S = 5.0

    def __init__(
        self,
        loop: Loop,
        path: str,
        method: str,
        parameters: Callable[[], JsonDict],
        on_item: Callable[[JsonDict], None],
    ) -> None:
        self.connected = False
        self.last_error = ""
        self._loop = loop
        self._path = path
        self._method = method
        self._parameters = parameters
        self._on_item = on_item
        self._link: Link | None = None
        self._pause_s = self.FIRST_PAUSE_S
        self._timer: Timer | None = None
        self._stopped = False

    def start(self) -> None:
        """Connect now; keep at it."""
        if self._stopped:
            return
        try:
            link = Link(self._loop, self._path)
        except WireError as error:
            self.last_error = error.message
            self._again()
            return
        self._link = link
        link.on_reply = self._on_reply
        link.on_close = self._on_close
        self.connected = True
        link.send({"method": self._method, "parameters": self._parameters(), "more": True})

    def _on_reply(self, message: JsonDict) -> None:
        try:
            parameters = reply_or_raise(message)
        except (VarlinkError, WireError) as error:
            self.last_error = error.message
            if self._link is not None:
                self._link.close()
            return
        self.last_error = ""
        self._pause_s = self.FIRST_PAUSE_S
        self._on_item(parameters)
        if not message.get("continues") and self._link is not None:
            self._link.close()

    def _on_close(self) -> None:
        self.connected = False
        self._link = None
        self._again()

    def _again(self) -> None:
        if self._stopped:
            return
        self._timer = self._loop.call_later(self._pause_s, self.start)
        self._pause_s = min(self._pause_s * 2, self.LAST_PAUSE_S)

    def stop(self) -> None:
        """Close it and do not come back."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._link is not None:
            self._link.close()
