"""Out of a D-Bus ``a{sv}``, the values somebody wants; the others are stepped over and never built.

systemd tells 400 properties of a service, of which graced reads 25, and jeepney builds each value from Python calls:
3 ms of an act that takes 6. Stepping over follows the D-Bus Specification, "Marshaling (Wire Format)"; what is wanted
is still read by jeepney's own types.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    Order = Literal["little", "big"]

VARIANTS = "a{sv}"
_ORDERS: dict[str, Order] = {"<": "little", ">": "big"}
_SIZES = {"y": 1, "n": 2, "q": 2, "b": 4, "i": 4, "u": 4, "h": 4, "x": 8, "t": 8, "d": 8}
_ALIGNMENTS = {**_SIZES, "s": 4, "o": 4, "a": 4, "g": 1, "v": 1, "(": 8, "{": 8}


class Wanted:
    """A stand-in for jeepney's type of ``a{sv}``: `parse_data` gives {name: (signature, value)} of the wanted names.

    `parse` is jeepney's ``parse_signature``.
    """

    alignment = 4

    def __init__(self, names: frozenset[str], parse: Callable[[list[str]], Any]) -> None:
        self._names = {name.encode(): name for name in names}
        self._parse = parse

    def parse_data(self, buf: bytes, pos: int, endianness: Any, fds: Any = ()) -> tuple[dict[str, Any], int]:
        """Found and the position behind the array. ValueError (or jeepney's own errors) for what is not D-Bus."""
        order = _ORDERS[endianness.struct_code()]
        pos = -(-pos // 4) * 4
        pos, end = _array(buf, pos, 8, order)
        found: dict[str, Any] = {}
        while pos < end:
            pos = -(-pos // 8) * 8
            start = pos + 4
            pos = start + int.from_bytes(buf[pos:start], order) + 1
            name = self._names.get(buf[start : pos - 1])
            start = pos + 1
            pos = start + buf[pos] + 1
            signature = buf[start : pos - 1].decode("ascii")
            if name is None:
                pos = step_over(signature, buf, pos, order)
            else:
                value, pos = self._parse(list(signature)).parse_data(buf, pos, endianness, fds=fds)
                found[name] = (signature, value)
        if pos != end:
            raise ValueError("the variants do not fill their array")
        return found, pos


def step_over(signature: str, buf: bytes, pos: int, order: Order) -> int:
    """The position behind the values of `signature` that begin at `pos`.

    order is "little" or "big". ValueError for a signature or a length that cannot be.
    """
    at = 0
    while at < len(signature):
        kind = signature[at]
        at += 1
        size = _SIZES.get(kind)
        if size is not None:
            pos = -(-pos // size) * size + size
        elif kind == "a":
            element = signature[at : at + 1]
            if element not in _ALIGNMENTS:
                raise ValueError(f"an array of {element!r}")
            _start, pos = _array(buf, -(-pos // 4) * 4, _ALIGNMENTS[element], order)
            at = _behind(signature, at)
        elif kind in "({":
            # Its fields follow in the signature as they do in the data.
            pos = -(-pos // 8) * 8
        elif kind not in ")}":
            pos = _over_text(kind, buf, pos, order)
    if pos > len(buf):
        raise ValueError("a value ends behind the message")
    return pos


def _over_text(kind: str, buf: bytes, pos: int, order: Order) -> int:
    if kind in "so":
        pos = -(-pos // 4) * 4
        return pos + 5 + int.from_bytes(buf[pos : pos + 4], order)
    start = pos + 1
    pos = start + buf[pos] + 1
    if kind == "v":
        return step_over(buf[start : pos - 1].decode("ascii"), buf, pos, order)
    if kind == "g":
        return pos
    raise ValueError(f"{kind!r} is not a type of D-Bus")


def _array(buf: bytes, pos: int, alignment: int, order: Order) -> tuple[int, int]:
    """Where the elements of the array whose length is at `pos` begin and end."""
    start = -(-(pos + 4) // alignment) * alignment
    end = start + int.from_bytes(buf[pos : pos + 4], order)
    if end > len(buf):
        raise ValueError("an array ends behind the message")
    return start, end


def _behind(signature: str, at: int) -> int:
    """The index behind the complete type that begins at `at`."""
    while signature[at : at + 1] == "a":
        at += 1
    depth = 0
    while True:
        kind = signature[at : at + 1]
        if not kind:
            raise ValueError(f"{signature!r} ends too early")
        depth += (kind in "({") - (kind in ")}")
        at += 1
        if depth <= 0:
            return at
