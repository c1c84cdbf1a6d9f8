"""Out of a D-Bus ``a{sv}``, the values somebody wants; the others are stepped over and never built.

systemd tells 400 properties of a service, of which graced reads 25, and jeepney builds each value from Python calls:
3 ms of an act that takes 6. Stepping over follows the D-Bus Specification, "Marshaling (Wire Format)"; what is wanted
is still read by jeepney's own types.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Step = tuple[int, int, int]
    U32 = Callable[[bytes, int], tuple[int]]

VARIANTS = "a{sv}"
_U32: dict[str, Any] = {order: struct.Struct(f"{order}I").unpack_from for order in "<>"}
_SIZES = {"y": 1, "n": 2, "q": 2, "b": 4, "i": 4, "u": 4, "h": 4, "x": 8, "t": 8, "d": 8}
_ALIGNMENTS = {**_SIZES, "s": 4, "o": 4, "a": 4, "g": 1, "v": 1, "(": 8, "{": 8}
_FIXED, _TEXT, _ARRAY, _SIGNATURE, _VARIANT = range(5)
_HOW = {"s": _TEXT, "o": _TEXT, "a": _ARRAY, "g": _SIGNATURE, "v": _VARIANT}
_MAX_KNOWN = 256


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
        u32, names = _U32[endianness.struct_code()], self._names
        pos, end = _array(buf, (pos + 3) & ~3, 8, u32)
        found: dict[str, Any] = {}
        while pos < end:
            start = ((pos + 7) & ~7) + 4
            pos = start + u32(buf, start - 4)[0]
            name = names.get(buf[start:pos])
            start = pos + 2
            pos = start + buf[pos + 1]
            signature = buf[start:pos]
            if name is None:
                pos = step_over(signature, buf, pos + 1, u32)
            else:
                text = signature.decode("ascii")
                value, pos = self._parse(list(text)).parse_data(buf, pos + 1, endianness, fds=fds)
                found[name] = (text, value)
        if pos != end:
            raise ValueError("the variants do not fill their array")
        return found, pos


def step_over(signature: bytes, buf: bytes, pos: int, u32: U32) -> int:
    """The position behind the values of `signature` that begin at `pos`; `u32(buf, pos)` reads a number.

    ValueError (IndexError, struct.error) for a signature or a length that cannot be.
    """
    for mask, how, size in _known.get(signature) or _know(signature):
        pos = (pos + mask) & ~mask
        if how == _FIXED:
            pos += size
        elif how == _TEXT:
            pos += 5 + u32(buf, pos)[0]
        elif how == _ARRAY:
            _start, pos = _array(buf, pos, size, u32)
        else:
            start = pos + 1
            pos = start + buf[pos] + 1
            if how == _VARIANT:
                pos = step_over(buf[start : pos - 1], buf, pos, u32)
    if pos > len(buf):
        raise ValueError("a value ends behind the message")
    return pos


def _array(buf: bytes, pos: int, alignment: int, u32: U32) -> tuple[int, int]:
    """Where the elements of the array whose length is at `pos` begin and end."""
    start = -(-(pos + 4) // alignment) * alignment
    end = start + u32(buf, pos)[0]
    if end > len(buf):
        raise ValueError("an array ends behind the message")
    return start, end


_known: dict[bytes, tuple[Step, ...]] = {}


def _know(signature: bytes) -> tuple[Step, ...]:
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    steps = _known[signature] = tuple(_steps(signature.decode("ascii")))
    return steps


def _steps(signature: str) -> list[Step]:
    """How to step over: for each value its alignment less one, what it is, and its size or its elements' alignment."""
    steps, at = [], 0
    while at < len(signature):
        kind = signature[at]
        at += 1
        if kind in ")}":
            continue
        element = signature[at : at + 1]
        if kind not in _ALIGNMENTS or (kind == "a" and element not in _ALIGNMENTS):
            raise ValueError(f"{signature!r} is not a signature of D-Bus")
        # Of a structure only the alignment counts: its fields follow in the signature as they do in the data.
        size = _SIZES.get(kind, 0)
        if kind == "a":
            size = _ALIGNMENTS[element]
            at = _behind(signature, at)
        steps.append((_ALIGNMENTS[kind] - 1, _HOW.get(kind, _FIXED), size))
    return steps


def _behind(signature: str, at: int) -> int:
    """The index behind the complete type that begins at `at`."""
    while signature[at : at + 1] == "a":
        at += 1
    depth = 0
    while True:
        kind = signature[at : at + 1]
        if kind not in _ALIGNMENTS and kind not in (")", "}"):
            raise ValueError(f"{signature!r} is not a signature of D-Bus")
        depth += (kind in "({") - (kind in ")}")
        at += 1
        if depth <= 0:
            return at
