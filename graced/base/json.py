"""JSON at the edges: canonical output, bounded input, getters whose errors name the path.

Inside graced there are Records; a dict from outside is taken apart with these getters and nothing else. The standard
library's compiled JSON is used without the module `json` around it: that compiles regular expressions for its
fallbacks, 6 ms of each daemon's start. Nothing that a daemon imports before READY imports `json`.
"""

from __future__ import annotations

import os
from _json import encode_basestring, encode_basestring_ascii, make_encoder, make_scanner

from graced.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    JsonDict: TypeAlias = dict[str, Any]


def _not_json(value: Any) -> Any:
    raise TypeError(f"a {type(value).__name__} is not a JSON value")


def _encoder(string: Callable[[str], str], *, sort_keys: bool) -> Callable[[Any], str]:
    # Built once; json.JSONEncoder.encode does so for every call, half of what a small message takes. Loops in a value
    # end as RecursionError.
    chunks: Any = make_encoder(None, _not_json, string, None, ":", ",", sort_keys, False, False)  # noqa: FBT003
    join = "".join
    return lambda value: join(chunks(value, 0))


_canonical = _encoder(encode_basestring, sort_keys=True)
_compact = _encoder(encode_basestring, sort_keys=False)
_ascii = _encoder(encode_basestring_ascii, sort_keys=False)
string_text = encode_basestring
"""One string as JSON, as it stands in the others' text; for hot paths."""


def canonical(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8. Signatures and digests are over this.

    Raises FormatError when the value is not JSON (NaN, lone surrogates, foreign types).
    """
    try:
        return _canonical(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"not a JSON value: {error}") from error


def canonical_text(value: Any) -> str:
    """As `canonical`, but the text before it becomes UTF-8; it may hold lone surrogates.

    For hot paths: errors are those of json (TypeError, ValueError, RecursionError).
    """
    return _canonical(value)


def dumps(value: Any) -> bytes:
    """Compact JSON in insertion order, UTF-8. Raises FormatError as `canonical` does."""
    try:
        return _compact(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"not a JSON value: {error}") from error


def dumps_text(value: Any) -> str:
    """As `dumps`, but the text before it becomes UTF-8; it may hold lone surrogates."""
    try:
        return _compact(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"not a JSON value: {error}") from error


def dumps_ascii(value: Any) -> str:
    """As `dumps_text`, but nothing but ASCII: what any store takes, lone surrogates too. Errors are those of json."""
    return _ascii(value)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class _Decoding:
    """What json.JSONDecoder tells the compiled scanner; its defaults but for the constants."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_no_constant)


_scan: Callable[[str, int], tuple[Any, int]] = make_scanner(_Decoding)  # type: ignore[arg-type]  # any such object
_SPACE = " \t\n\r"


def loads(text: str) -> Any:
    """What `text` says, as json.loads; ValueError says where it is no JSON, and NaN and Infinity are none."""
    start = len(text) - len(text.lstrip(_SPACE))
    try:
        try:
            value, end = _scan(text, start)
        except SystemError:
            # Its exception is json.decoder's, and up to Python 3.12 it has none until somebody imported that.
            import json.decoder  # noqa: F401

            value, end = _scan(text, start)
    except StopIteration as stop:
        raise _json_error("Expecting value", text, stop.value) from stop
    if end != len(text) and text[end:].strip(_SPACE):
        raise _json_error("Extra data", text, len(text) - len(text[end:].lstrip(_SPACE)))
    return value


def _json_error(what: str, text: str, position: int) -> ValueError:
    from json import JSONDecodeError

    return JSONDecodeError(what, text, position)


def loads_object(data: bytes | str, *, max_bytes: int = 1 << 20, path: str = "$") -> JsonDict:
    """Parse one JSON object of at most `max_bytes`; FormatError says why not."""
    if len(data) > max_bytes:
        raise FormatError(f"{path}: {len(data)} bytes, at most {max_bytes} are accepted", path=path)
    try:
        text = data.decode() if isinstance(data, bytes) else data
        value = loads(text)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON: {error}", path=path) from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: a {type(value).__name__} where an object is needed", path=path)
    return value


def scan_object(text: str) -> JsonDict | None:
    """`text` as a JSON object when it is nothing but one, from the first character to the last; else None.

    For hot paths: `loads_object` says what is wrong, and takes what is only spelt with spaces around it.
    """
    try:
        value, end = _scan(text, 0)
    except (StopIteration, ValueError, RecursionError, SystemError):
        return None
    return value if end == len(text) and type(value) is dict else None


_BETWEEN = os.urandom(16).hex()
"""Stands between two texts that are scanned as one. Nobody outside knows it, so no text can have it by itself."""
_COMMAS = f',"{_BETWEEN}",'


def scan_objects(texts: str) -> list[JsonDict] | None:
    """The JSON objects that stand in `texts` with a NUL between them; None when any of them is not just that.

    One scan for all of them, as `scan_object` does for one.
    """
    text = texts.replace("\0", _COMMAS)
    # what was put in says how often: counting the NULs is dearer than finding them
    count = (len(text) - len(texts)) // (len(_COMMAS) - 1) + 1
    try:
        values, end = _scan(f"[{text}]", 0)
    except (StopIteration, ValueError, RecursionError, SystemError):
        return None
    objects: list[JsonDict] = values[::2]
    if end != len(text) + 2 or len(objects) != count or {*map(type, objects)} != {dict}:
        return None
    return objects if values[1::2] == [_BETWEEN] * (count - 1) else None


_FLOAT_INTS = 1 << 1023
"""Whole numbers below this are also floats; a longer one is no number that anything here could use."""


def _typed(kind: type, word: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def check(value: Any, key: str, path: str) -> Any:
        if kind is float and type(value) is int and abs(value) < _FLOAT_INTS:
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise FormatError(f"{path}.{key}: {word} is needed, not {type(value).__name__}", path=f"{path}.{key}")
        return value

    def get(obj: JsonDict, key: str, path: str = "$") -> Any:
        if key not in obj:
            raise FormatError(f"{path}.{key} is missing", path=f"{path}.{key}")
        return check(obj[key], key, path)

    def opt(obj: JsonDict, key: str, path: str = "$") -> Any:
        value = obj.get(key)
        return None if value is None else check(value, key, path)

    return get, opt


_str, _opt_str = _typed(str, "a string")
_int, _opt_int = _typed(int, "a whole number")
_float, _opt_float = _typed(float, "a number")
_bool, _opt_bool = _typed(bool, "true or false")
_dict, _opt_dict = _typed(dict, "an object")
_list, _opt_list = _typed(list, "a list")


def get_str(obj: JsonDict, key: str, path: str = "$") -> str:
    """`obj[key]` as a string; FormatError names `path.key`."""
    value: str = _str(obj, key, path)
    return value


def get_int(obj: JsonDict, key: str, path: str = "$") -> int:
    """`obj[key]` as a whole number; FormatError names `path.key`."""
    value: int = _int(obj, key, path)
    return value


def get_float(obj: JsonDict, key: str, path: str = "$") -> float:
    """`obj[key]` as a number; FormatError names `path.key`."""
    value: float = _float(obj, key, path)
    return value


def get_bool(obj: JsonDict, key: str, path: str = "$") -> bool:
    """`obj[key]` as a boolean; FormatError names `path.key`."""
    value: bool = _bool(obj, key, path)
    return value


def get_dict(obj: JsonDict, key: str, path: str = "$") -> JsonDict:
    """`obj[key]` as an object; FormatError names `path.key`."""
    value: JsonDict = _dict(obj, key, path)
    return value


def get_list(obj: JsonDict, key: str, path: str = "$") -> list[Any]:
    """`obj[key]` as a list; FormatError names `path.key`."""
    value: list[Any] = _list(obj, key, path)
    return value


def get_strs(obj: JsonDict, key: str, path: str = "$") -> list[str]:
    """`obj[key]` as a list of strings; FormatError names the first wrong element."""
    values = get_list(obj, key, path)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            where = f"{path}.{key}[{index}]"
            raise FormatError(f"{where}: a string is needed, not {type(value).__name__}", path=where)
    return values


def opt_str(obj: JsonDict, key: str, path: str = "$") -> str | None:
    """As `get_str`, None when missing or null."""
    value: str | None = _opt_str(obj, key, path)
    return value


def opt_int(obj: JsonDict, key: str, path: str = "$") -> int | None:
    """As `get_int`, None when missing or null."""
    value: int | None = _opt_int(obj, key, path)
    return value


def opt_float(obj: JsonDict, key: str, path: str = "$") -> float | None:
    """As `get_float`, None when missing or null."""
    value: float | None = _opt_float(obj, key, path)
    return value


def opt_bool(obj: JsonDict, key: str, path: str = "$") -> bool | None:
    """As `get_bool`, None when missing or null."""
    value: bool | None = _opt_bool(obj, key, path)
    return value


def opt_dict(obj: JsonDict, key: str, path: str = "$") -> JsonDict | None:
    """As `get_dict`, None when missing or null."""
    value: JsonDict | None = _opt_dict(obj, key, path)
    return value


def opt_list(obj: JsonDict, key: str, path: str = "$") -> list[Any] | None:
    """As `get_list`, None when missing or null."""
    value: list[Any] | None = _opt_list(obj, key, path)
    return value
