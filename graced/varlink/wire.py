"""The Varlink wire: one JSON object and a NUL per message, both ways (varlink.org, "Protocol").

Pure: bytes in, dicts out. A message over the limit or that is not a JSON object is a WireError, and the
connection it came from is closed: there is no way back into step.
"""

from __future__ import annotations

from graced.base.errors import FormatError, GracedError, WireError
from graced.base.json import dumps, loads_object, scan_object, scan_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict

MAX_MESSAGE_BYTES = 1 << 20
SERVICE = "org.varlink.service"

_NEXT = ',"continues":true}\0{"parameters":'


class VarlinkError(GracedError):
    """An error reply: `error` is the qualified name (``io.graced.Memory.NoSuchIncident``), `parameters` its object."""

    code = "varlink"

    def __init__(self, error: str, parameters: JsonDict | None = None, *, hint: str = "") -> None:
        self.error = error
        self.parameters = parameters or {}
        detail = ", ".join(f"{key}={value}" for key, value in self.parameters.items())
        super().__init__(f"{error}: {detail}" if detail else error, hint=hint)

    @property
    def name(self) -> str:
        """The last part of the error's name: ``NoSuchIncident``."""
        return self.error.rpartition(".")[2]


def encode(message: JsonDict) -> bytes:
    """One message as it goes over the wire. Raises FormatError for what is not JSON."""
    return dumps(message) + b"\0"


def reply_frame(parameters: bytes, *, continues: bool = False) -> bytes:
    """A reply whose parameters are JSON text already."""
    return b'{"parameters":%b%b' % (parameters, b',"continues":true}\0' if continues else b"}\0")


def stream_frames(every: list[str]) -> bytes:
    """Replies of a stream, each with its parameters as JSON text; more will follow."""
    return f'{{"parameters":{_NEXT.join(every)},"continues":true}}\0'.encode()


class Decoder:
    """Cuts a byte stream into messages."""

    def __init__(self, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Bytes of a message that has begun but not ended."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[JsonDict]:
        """The messages that `data` completes. Raises WireError for an oversized or malformed one."""
        if not self._buffer and data[-1:] == b"\0":
            return self._messages(data[:-1])
        if self._buffer:
            self._buffer += data
            data = bytes(self._buffer) if b"\0" in data else b""
        if data:
            data, nul, rest = data.rpartition(b"\0")
            self._buffer = bytearray(rest)
            data += nul
        if len(self._buffer) > self._max_bytes:
            raise WireError(f"a message over {self._max_bytes} bytes was refused")
        return self._messages(data[:-1]) if data else []

    def _messages(self, data: bytes) -> list[JsonDict]:
        """Whole messages, with a NUL between two of them."""
        if len(data) <= self._max_bytes and data.isascii():
            text = data.decode("ascii")
            if b"\0" in data:
                messages = scan_objects(text)
            else:
                message = scan_object(text)
                messages = None if message is None else [message]
            if messages is not None:
                return messages
        return [self._message(frame) for frame in data.split(b"\0")]

    def _message(self, frame: bytes) -> JsonDict:
        try:
            return loads_object(frame, max_bytes=self._max_bytes)
        except FormatError as error:
            raise WireError(f"a malformed message was refused: {error.message}") from error


def split_method(method: str) -> tuple[str, str]:
    """``io.graced.Memory.Search`` as interface and method name; both empty parts when there is no dot."""
    interface, _, name = method.rpartition(".")
    return interface, name


def reply_or_raise(message: JsonDict) -> JsonDict:
    """The parameters of a reply; raises VarlinkError for an error reply and WireError for neither."""
    parameters = message.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise WireError("a reply's parameters are not an object")
    error = message.get("error")
    if error is not None:
        raise VarlinkError(str(error), parameters)
    return parameters
