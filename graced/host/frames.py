"""D-Bus messages out of a stream of bytes, read by jeepney except for what nobody wants of an ``a{sv}``."""

from __future__ import annotations

from graced.host.variants import VARIANTS, Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_FIXED_HEADER_BYTES = 16


class Frames:
    """`low` is jeepney.low_level. Of an ``a{sv}`` in a body only the names in `wanted` are read, when there are any."""

    def __init__(self, low: Any) -> None:
        self._low = low
        self._received = bytearray()
        self.wanted: frozenset[str] = frozenset()

    def feed(self, data: bytes) -> list[Any]:
        """The messages that are whole now. ValueError (or an error of jeepney's) for what is not D-Bus."""
        received, messages = self._received, []
        received += data
        while len(received) >= _FIXED_HEADER_BYTES:
            size = self._low.calc_msg_size(bytes(received[:_FIXED_HEADER_BYTES]))
            if size > MAX_MESSAGE_BYTES:
                raise ValueError("message too large")
            if len(received) < size:
                break
            messages.append(self._message(bytes(received[:size])))
            del received[:size]
        return messages

    def _message(self, data: bytes) -> Any:
        names = self._low.HeaderFields
        header, pos = self._low.Header.from_buffer(data)
        if header.fields.get(names.unix_fds, 0):
            raise ValueError("file descriptors were not asked for")
        signature, body = header.fields.get(names.signature, ""), ()
        if signature:
            body = self._type(signature).parse_data(data, pos, header.endianness)[0]
        return self._low.Message(header, body)

    def _type(self, signature: str) -> Any:
        parse = self._low.parse_signature
        kind = parse(list(f"({signature})"))
        if self.wanted and VARIANTS in signature:
            variants, some = parse(list(VARIANTS)), Wanted(self.wanted, parse)
            kind.fields = [some if field == variants else field for field in kind.fields]
        return kind
