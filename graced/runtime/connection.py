"""One peer of a Varlink service: framing, order of answers, back-pressure.

Calls of one connection are answered strictly in order. A peer that sends without reading, or never ends a
message, costs a bounded amount of memory and time. Used by runtime.service.
"""

from __future__ import annotations

from itertools import islice
from time import monotonic

from graced.base.errors import WireError
from graced.varlink.wire import SERVICE, Decoder, VarlinkError, encode, reply_frame, stream_frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from graced.base.json import JsonDict
    from graced.base.sockets import Socket
    from graced.runtime.peer import Peer
    from graced.runtime.service import Service
else:
    # Its compiled half: the module around it costs 2 ms of each daemon's start.
    from _collections import deque

MAX_OUTPUT_BYTES = 8 << 20
# A peer with this much unread gets no further call answered until it has read.
HIGH_WATER_BYTES = 1 << 20
# Of one turn for one peer: the others and the watchdog come next.
SLICE_SECONDS = 0.02
MAX_QUEUED_CALLS = 4096
# As many calls are answered together: less than a slice of time.
RUN_CALLS = 64


# A buffer of this size made anew for every message is mapped, faulted in and unmapped: ten times what a message costs.
_received = bytearray(131072)
_received_view = memoryview(_received)


_NOWHERE = (-1, 0)


class Call:
    """One request being answered; `answered` once its last reply is queued."""

    __slots__ = ("_connection", "_place", "answered", "method", "more", "oneway", "parameters", "peer")

    def __init__(
        self, connection: Connection, method: str, parameters: JsonDict, *, more: bool = False, oneway: bool = False
    ) -> None:
        self._connection = connection
        self.method = method
        self.parameters = parameters
        self.more = more
        self.oneway = oneway
        self.peer: Peer = connection.peer
        self.answered = False
        self._place = _NOWHERE

    def reply(self, parameters: JsonDict | bytes, *, continues: bool = False) -> None:
        """Send a reply; with `continues` more will follow (only for calls with "more").

        `parameters` may be their JSON text in UTF-8 already.
        """
        if self.answered:
            return
        self.answered = not continues
        if isinstance(parameters, bytes):
            self._send(reply_frame(parameters, continues=continues))
            return
        message: JsonDict = {"parameters": parameters}
        if continues:
            message["continues"] = True
        self._send(encode(message))

    def push(self, every: list[str]) -> None:
        """Replies of a stream, each the JSON text of its parameters; more will follow."""
        if not self.answered:
            self._send(stream_frames(every))

    def answer(self, parameters: bytes) -> None:
        """The only reply, as JSON text in UTF-8, given before the call's method returns: the short way of `reply`."""
        self.answered = True
        if not self.oneway:
            self._place = self._connection.send(b'{"parameters":%b}\0' % parameters)

    def error(self, error: VarlinkError) -> None:
        """Send an error reply; the call is over."""
        if not self.answered:
            self.answered = True
            self._send(_error_frame(error))

    def withdraw(self, error: VarlinkError) -> None:
        """Put an error in place of the answer of this turn: what it promised could not be made durable.

        For hooks in `Service.before_flush`; an answer of an earlier turn has left and stays.
        """
        self._connection.replace(self._place, _error_frame(error))

    def _send(self, frame: bytes) -> None:
        if not self.oneway:
            self._place = self._connection.send(frame)
        if self.answered:
            self._connection.call_ended(self)

    @property
    def backlog_bytes(self) -> int:
        """Bytes this peer has not read yet; a stream's sender drops or waits on it."""
        return self._connection.unsent_bytes

    @property
    def closed(self) -> bool:
        """Whether the peer is gone."""
        return self._connection.closed

    def on_close(self, callback: Callable[[], object]) -> None:
        """Call back when the peer's connection ends."""
        self._connection.on_close.append(callback)


class Run:
    """Calls of one method that came together and want one reply each: what `Interface.runs` are given.

    `answered`: how many of them, from the first on, have their reply.
    """

    __slots__ = ("_connection", "_place", "answered", "method", "parameters", "peer")

    def __init__(self, connection: Connection, method: str, parameters: list[JsonDict]) -> None:
        self._connection = connection
        self.method = method
        self.parameters = parameters
        self.peer: Peer = connection.peer
        self.answered = 0
        self._place = _NOWHERE

    def answer(self, replies: list[bytes]) -> None:
        """The replies of the first calls, each as the JSON text of its parameters."""
        self.answered = len(replies)
        if replies:
            self._place = self._connection.send(b'{"parameters":%b}\0' % b'}\0{"parameters":'.join(replies))

    def error(self, error: VarlinkError) -> None:
        """The reply of all of them."""
        self.answered = len(self.parameters)
        self._connection.send(_error_frame(error) * self.answered)

    def withdraw(self, error: VarlinkError) -> None:
        """As `Call.withdraw`, for each that is answered."""
        self._connection.replace(self._place, _error_frame(error) * self.answered)


def _error_frame(error: VarlinkError) -> bytes:
    return encode({"error": error.error, "parameters": error.parameters})


class Connection:
    """One peer. Calls are answered strictly in order: the next one starts when the last reply is out."""

    def __init__(self, service: Service, sock: Socket, peer: Peer) -> None:
        self.peer = peer
        self.closed = False
        self.output = bytearray()
        self._fresh: list[bytes] = []
        self._turn = 0
        self._ending = False
        self.on_close: list[Callable[[], object]] = []
        self._service = service
        self._loop = service.loop
        self._socket = sock
        self._decoder = Decoder()
        self._waiting: deque[JsonDict] = deque()
        self._current: Call | None = None
        # So many of those that wait are no run.
        self._singly = 0
        self._working = False
        self._half_since_s: float | None = None
        self._fresh_bytes = 0
        self._throttled = False
        self._reading = True
        self._writing = False
        self._loop.add_reader(sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        try:
            count = self._socket.recv_into(_received)
            data = bytes(_received_view[:count])
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            messages = self._decoder.feed(data)
        except WireError as error:
            self._refuse(error.message)
            return
        self._waiting += messages
        if not self._decoder.pending_bytes:
            self._half_since_s = None
        elif messages or self._half_since_s is None:
            # From its first byte on: a byte now and then does not keep a message open.
            self._half_since_s = self._loop.now_s()
        self._work()

    def expire(self, limit_s: float) -> None:
        """End it because a message began and did not end within `limit_s` seconds."""
        self._refuse(f"a message did not end within {limit_s:g} s")

    def half_for_s(self, now_s: float) -> float:
        """Seconds since a message began without ending; 0 when none has."""
        return 0.0 if self._half_since_s is None else now_s - self._half_since_s

    @property
    def busy(self) -> bool:
        """Whether a call is unanswered or a reply unsent. A stream does not count once its peer has all of it."""
        if self._current is None:
            return bool(self._waiting or self.unsent_bytes)
        return bool(not self._current.more or self.unsent_bytes)

    @property
    def unsent_bytes(self) -> int:
        """Bytes the peer has not taken yet."""
        return len(self.output) + self._fresh_bytes

    def _refuse(self, parameter: str) -> None:
        # Closed at the end of the turn: answers before this one may still wait for their commit.
        self.send(_error_frame(VarlinkError(f"{SERVICE}.InvalidParameter", {"parameter": parameter})))
        self._ending = True
        self._waiting.clear()
        self._loop.remove_reader(self._socket.fileno())

    def _work(self) -> None:
        if self._working:
            return
        self._working = True
        try:
            waiting = self._waiting
            until_s = monotonic() + SLICE_SECONDS
            while waiting and self._current is None and not self.closed:
                self._throttled = len(self.output) + self._fresh_bytes > HIGH_WATER_BYTES
                if self._throttled:
                    break
                if self._singly or len(waiting) == 1 or not self._together():
                    self._begin(waiting.popleft())
                    self._singly -= self._singly > 0
                if monotonic() > until_s:
                    break
        finally:
            self._working = False
        if self.closed or self._ending:
            return
        # Back-pressure: a peer whose calls are not answered or whose answers are not read may not fill our memory with
        # the next ones. Otherwise keep reading, for the hang-up.
        full = self._throttled or len(self._waiting) > MAX_QUEUED_CALLS
        if full is self._reading:
            self._reading = not full
            if full:
                self._loop.remove_reader(self._socket.fileno())
            else:
                self._loop.add_reader(self._socket.fileno(), self._on_readable)
        if self._waiting and self._current is None and not self._throttled:
            self._loop.call_soon(self._work)

    def _together(self) -> bool:
        """Answer the next calls together if they are of a kind that can be; False: begin the next one by itself."""
        waiting = self._waiting
        method = waiting[0].get("method")
        if type(method) is not str or (run := self._service.run_of(method, self.peer)) is None:
            return False
        every: list[JsonDict] = []
        for message in islice(waiting, RUN_CALLS):
            parameters = message.get("parameters")
            if len(message) != 2 or message.get("method") != method or type(parameters) is not dict:
                break
            every.append(parameters)
        calls = Run(self, method, every)
        if len(every) > 1:
            self._service.dispatch_run(run, calls)
        for _ in range(calls.answered):
            waiting.popleft()
        self._singly = len(every) - calls.answered
        return calls.answered > 0

    def _begin(self, message: JsonDict) -> None:
        get = message.get
        method, parameters = get("method"), get("parameters")
        if type(method) is not str or not (parameters is None or type(parameters) is dict):
            self._refuse("method")
            return
        if len(message) == 2 and parameters:
            call = Call(self, method, parameters)
        else:
            # whoever wants no answer gets no stream: leases would be given to nobody
            oneway = get("oneway") is True
            call = Call(self, method, parameters or {}, more=get("more") is True and not oneway, oneway=oneway)
        self._service.dispatch(call)
        if not call.answered:
            self._current = call

    def call_ended(self, call: Call) -> None:
        """The call has its last reply: go on with the next."""
        if self._current is call:
            self._current = None
            if not self._working and self._waiting:
                self._loop.call_soon(self._work)

    def send(self, frame: bytes) -> tuple[int, int]:
        """Queue a frame; it goes out at the end of this turn. A peer that does not read is cut off.

        Returns its place, for `replace`.
        """
        fresh = self._fresh
        if self.closed:
            return (-1, 0)
        if len(self.output) + self._fresh_bytes > MAX_OUTPUT_BYTES:
            self.close()
            return (-1, 0)
        if not fresh:
            self._service.touch(self)
        fresh.append(frame)
        self._fresh_bytes += len(frame)
        return (self._turn, len(fresh) - 1)

    def replace(self, place: tuple[int, int], frame: bytes) -> None:
        """Send `frame` instead of the one at `place`, unless that has left already."""
        turn, index = place
        if turn == self._turn and not self.closed:
            self._fresh_bytes += len(frame) - len(self._fresh[index])
            self._fresh[index] = frame

    def end_turn(self) -> None:
        """What was queued in this turn may leave now."""
        if self.closed:
            return
        self.output += b"".join(self._fresh)
        self._fresh.clear()
        self._fresh_bytes = 0
        self._turn += 1
        self.flush()
        if self._ending:
            self.close()

    def flush(self) -> None:
        """Write what the socket takes now, of what earlier turns left."""
        if self.closed or not self.output:
            return
        try:
            sent = self._socket.send(self.output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self.output[:sent]
        if bool(self.output) is not self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._socket.fileno(), self.flush)
            else:
                self._loop.remove_writer(self._socket.fileno())
        if self._throttled and len(self.output) <= HIGH_WATER_BYTES:
            self._throttled = False
            self._loop.call_soon(self._work)

    def close(self) -> None:
        """End the connection and tell everyone who asked."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._service.forget(self)
        callbacks, self.on_close = self.on_close, []
        for callback in callbacks:
            callback()
