"""What a caller may send about tasks: shapes and bounds, and errors that name the place.

Every function raises FormatError with the path of what is wrong, as in ``$.children[2].handler``. The rules of the
queue are in graced.htm; what it answers is in graced.supervisor.taskview.
"""

from __future__ import annotations

from graced.base.errors import FormatError
from graced.base.json import (
    dumps_ascii,
    dumps_text,
    get_float,
    get_int,
    get_list,
    get_str,
    opt_dict,
    opt_float,
    opt_int,
    opt_list,
    opt_str,
)
from graced.model.task import NORMAL, ON_CHILD_FAILURE, PRIORITIES, STATES, task_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from graced.base.json import JsonDict
    from graced.htm.runs import Plain

MAX_NAME_CHARS = 64
MAX_KEY_CHARS = 256
MAX_TEXT_CHARS = 8192
MAX_MESSAGE_CHARS = 1024
MAX_SLA_SECONDS = 366 * 86400
MAX_DELAY_SECONDS = 31 * 86400.0
MAX_EXTEND_SECONDS = 3600.0
MAX_ATTEMPTS = 100
MAX_RESULT_BYTES = 65_536
MAX_TREE_DEPTH = 16
"""Levels of tasks in one call."""
MAX_TREE_TASKS = 1000
"""Tasks in one call, children included."""
ALL_HANDLERS = "*"
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-.")
_PRIORITY = {word: number for number, word in enumerate(PRIORITIES)}
_known_names: set[str] = set()
"""Names that were found good: the same few come again and again."""
_MAX_KNOWN_NAMES = 1024


def name_of(obj: JsonDict, key: str, path: str = "$") -> str:
    """A handler or task type: lower-case letters, digits, ``_ - .``."""
    return _name(get_str(obj, key, path), key, path)


def _name(name: str, key: str, path: str) -> str:
    if name in _known_names:
        return name
    if not 0 < len(name) <= MAX_NAME_CHARS or not _NAME_CHARS.issuperset(name):
        raise _wrong(path, key, f"1 to {MAX_NAME_CHARS} of a-z 0-9 _ - . are needed, not {name[:80]!r}")
    if len(_known_names) < _MAX_KNOWN_NAMES:
        _known_names.add(name)
    return name


def handlers_of(obj: JsonDict) -> str:
    """`handler` where ``*`` stands for all of them."""
    return ALL_HANDLERS if obj.get("handler") == ALL_HANDLERS else name_of(obj, "handler")


def text_of(obj: JsonDict, key: str, max_chars: int = MAX_TEXT_CHARS, path: str = "$") -> str | None:
    """An optional text that is not too long."""
    text = opt_str(obj, key, path)
    return None if text is None else _text(text, key, max_chars, path)


def _text(text: str, key: str, max_chars: int, path: str) -> str:
    if len(text) > max_chars:
        raise _wrong(path, key, f"{len(text)} characters, at most {max_chars} are accepted")
    return _storable(text, key, path)


def reason_of(obj: JsonDict, key: str) -> str:
    """A text that is needed, cut where it is too long."""
    return _storable(get_str(obj, key)[:MAX_TEXT_CHARS], key, "$")


def _storable(text: str, key: str, path: str) -> str:
    if text.isascii():
        return text
    # JSON can spell half a surrogate pair, which no file can hold
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _wrong(path, key, f"it is not Unicode text: {error.reason}") from error
    return text


def number_of(obj: JsonDict, key: str = "task_id", path: str = "$") -> int:
    """A task's number from its name."""
    name = get_str(obj, key, path)
    number = task_number(name)
    if number == 0:
        raise _wrong(path, key, f"{name[:80]!r} is not a task's id such as 'task_7'")
    return number


def object_text(obj: JsonDict, key: str, max_bytes: int, path: str = "$") -> str | None:
    """An optional object as JSON text of bounded size."""
    value = opt_dict(obj, key, path)
    if value is None:
        return None
    try:
        text = dumps_text(value)
    except FormatError as error:
        raise _wrong(path, key, error.message) from error
    if text.isascii() and len(text) <= max_bytes:
        return text
    size = len(text) if _storable(text, key, path).isascii() else len(text.encode())
    if size > max_bytes:
        raise _wrong(path, key, f"{size} bytes, at most {max_bytes} are accepted")
    return text


def delay_us_of(obj: JsonDict, path: str = "$") -> int:
    """`delay_seconds` in µs; 0 when missing."""
    delay_seconds = opt_float(obj, "delay_seconds", path)
    if delay_seconds is None:
        return 0
    _between(delay_seconds, 0.0, MAX_DELAY_SECONDS, path, "delay_seconds")
    return int(delay_seconds * 1e6)


def extend_us_of(obj: JsonDict) -> int:
    """`seconds` of Extend in µs: an hour at most."""
    seconds = get_float(obj, "seconds")
    _between(seconds, 0.0, MAX_EXTEND_SECONDS, "$", "seconds")
    return int(seconds * 1e6)


def progress_of(obj: JsonDict) -> tuple[float | None, str | None]:
    """`percent` and `message` of Progress; the message is cut where it is too long."""
    percent = opt_float(obj, "percent")
    if percent is not None:
        _between(percent, 0.0, 100.0, "$", "percent")
    message = opt_str(obj, "message")
    return percent, None if message is None else _storable(message[:MAX_MESSAGE_CHARS], "message", "$")


def state_of(obj: JsonDict) -> int | None:
    """An optional state's number."""
    return _word(obj, "state", STATES, "$")


def limit_of(obj: JsonDict, default: int, most: int) -> int:
    """An optional `limit`."""
    limit = opt_int(obj, "limit")
    if limit is None:
        return default
    if not 0 < limit <= most:
        raise _wrong("$", "limit", f"1 to {most} are accepted, not {limit}")
    return limit


def submission(obj: JsonDict, max_context_bytes: int, path: str = "$") -> JsonDict:
    """The arguments of `Engine.submit`, except origin, from the parameters of Submit; children are left out.

    What is not there is left to the engine's defaults.
    """
    usual = plain(obj, max_context_bytes)
    if usual is not None:
        return dict(zip(_PLAIN, usual, strict=True))
    arguments: JsonDict = {}
    for key in _NAMES:
        value = obj.get(key)
        known = type(value) is str and value in _known_names
        arguments[key] = value if known else _name(get_str(obj, key, path), key, path)
    for key, value in obj.items():
        if value is None:
            continue
        parse = _SUBMIT.get(key)
        if parse is not None:
            name, of = parse
            arguments[name] = of(obj, key, path)
        elif key == "context":
            arguments[key] = object_text(obj, key, max_context_bytes, path)
        elif key not in _ELSEWHERE:
            raise FormatError(f"{path}: Submit has no parameter {key[:80]!r}", path=path)
    return arguments


def plain(obj: JsonDict, max_context_bytes: int) -> Plain | None:
    """What `Engine.submit_run` takes; None when there is more in it, or something is wrong: see `submission`."""
    get = obj.get
    handler, task_type, context = get("handler"), get("task_type"), get("context")
    if type(handler) is not str or type(task_type) is not str or type(context) is not dict:
        return None
    if handler not in _known_names or task_type not in _known_names:
        return None
    word, seconds, key = get("priority"), get("sla_seconds"), get("idempotency_key")
    priority = NORMAL if word is None else _PRIORITY.get(word) if type(word) is str else None
    if priority is None or (seconds is not None and (type(seconds) is not int or not 0 < seconds <= MAX_SLA_SECONDS)):
        return None
    if key is not None and (type(key) is not str or not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii()):
        return None
    if len(obj) != 3 + (word is not None) + (seconds is not None) + (key is not None):
        return None
    text = plain_text(context, max_context_bytes)
    return None if text is None else (handler, task_type, priority, seconds, text, key)


def all_plain(obj: JsonDict, max_context_bytes: int) -> list[Plain] | None:
    """Each of ``tasks`` as `plain`; None when one is not: see `submissions`."""
    tasks = obj.get("tasks")
    if type(tasks) is not list or len(tasks) > MAX_TREE_TASKS:
        return None
    every: list[Plain] = []
    for task in tasks:
        spec = plain(task, max_context_bytes) if type(task) is dict else None
        if spec is None:
            return None
        every.append(spec)
    return every


def plain_text(value: JsonDict, max_bytes: int) -> str | None:
    """As `object_text`; None when it is not ASCII, or something is wrong."""
    try:
        text = dumps_ascii(value)
    except (TypeError, ValueError, RecursionError):
        return None
    # what has an escape like that has, or may have, characters that are no ASCII
    return text if len(text) <= max_bytes and "\\u" not in text else None


def _sla_seconds(obj: JsonDict, key: str, path: str) -> int:
    seconds = get_int(obj, key, path)
    if not 0 < seconds <= MAX_SLA_SECONDS:
        _between(seconds, 1, MAX_SLA_SECONDS, path, key)
    return seconds


def _key(obj: JsonDict, key: str, path: str) -> str | None:
    """A short text; an empty one is none."""
    text = obj[key]
    if type(text) is str and len(text) <= MAX_KEY_CHARS and text.isascii():
        return text or None
    return text_of(obj, key, MAX_KEY_CHARS, path)


def _max_attempts(obj: JsonDict, key: str, path: str) -> int:
    attempts = get_int(obj, key, path)
    _between(attempts, 1, MAX_ATTEMPTS, path, key)
    return attempts


_SUBMIT: dict[str, tuple[str, Callable[[JsonDict, str, str], Any]]] = {
    "priority": ("priority", lambda obj, key, path: _word(obj, key, PRIORITIES, path)),
    "sla_seconds": ("sla_seconds", _sla_seconds),
    "reasoning": ("reasoning", lambda obj, key, path: text_of(obj, key, MAX_TEXT_CHARS, path)),
    "intent_id": ("intent_id", lambda obj, key, path: text_of(obj, key, MAX_KEY_CHARS, path)),
    "parent": ("parent", number_of),
    "idempotency_key": ("idempotency_key", _key),
    "delay_seconds": ("delay_us", lambda obj, _key, path: delay_us_of(obj, path)),
    "max_attempts": ("max_attempts", _max_attempts),
    "on_child_failure": ("on_child_failure", lambda obj, key, path: _word(obj, key, ON_CHILD_FAILURE, path)),
}
"""Parameter → (the engine's name for it, how it is read)."""
_NAMES = ("handler", "task_type")
_PLAIN = (*_NAMES, "priority", "sla_seconds", "context", "idempotency_key")
_ELSEWHERE = frozenset({*_NAMES, "children"})


class _Room:
    """How many more tasks this call may bring."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_TREE_TASKS

    def take(self, path: str) -> None:
        if self.left == 0:
            raise FormatError(f"{path}: at most {MAX_TREE_TASKS} tasks are accepted at once", path=path)
        self.left -= 1


def submission_tree(obj: JsonDict, max_context_bytes: int) -> JsonDict:
    """The arguments of `Engine.submit_tree`: as `submission`, with ``children``, a list of the same (none: no key)."""
    return _tree(obj, max_context_bytes, "$", 1, _Room())


def submissions(obj: JsonDict, max_context_bytes: int) -> list[JsonDict]:
    """The arguments of `Engine.submit_batch` from the parameters of SubmitBatch."""
    tasks = get_list(obj, "tasks")
    if not tasks:
        raise _wrong("$", "tasks", "there is no task in it")
    if len(tasks) <= MAX_TREE_TASKS:
        flat = _flat(tasks, max_context_bytes)
        if flat is not None:
            return flat
    room = _Room()
    return [_tree(task, max_context_bytes, f"$.tasks[{index}]", 1, room) for index, task in enumerate(tasks)]


def _flat(tasks: list[Any], max_context_bytes: int) -> list[JsonDict] | None:
    """Plain tasks without making the path of each; None when there are children, or something is wrong."""
    if not all(type(task) is dict and task.get("children") is None for task in tasks):
        return None
    try:
        return [submission(task, max_context_bytes) for task in tasks]
    except FormatError:
        return None


def _tree(obj: Any, max_context_bytes: int, path: str, depth: int, room: _Room) -> JsonDict:
    if not isinstance(obj, dict):
        raise FormatError(f"{path}: an object is needed, not {type(obj).__name__}", path=path)
    room.take(path)
    arguments: JsonDict = submission(obj, max_context_bytes, path)
    if depth > 1 and "parent" in arguments:
        raise _wrong(path, "parent", "the parent of a child is the task it stands in")
    children = opt_list(obj, "children", path)
    if children:
        if depth == MAX_TREE_DEPTH:
            raise _wrong(path, "children", f"at most {MAX_TREE_DEPTH} levels of tasks are accepted")
        arguments["children"] = [
            _tree(child, max_context_bytes, f"{path}.children[{index}]", depth + 1, room)
            for index, child in enumerate(children)
        ]
    return arguments


def handlers_in(specs: list[JsonDict]) -> Iterator[str]:
    """The handlers of `submissions`, children's too."""
    for spec in specs:
        yield spec["handler"]
        yield from handlers_in(spec.get("children", []))


def _word(obj: JsonDict, key: str, words: Sequence[str], path: str) -> int | None:
    word = opt_str(obj, key, path)
    if word is None:
        return None
    if word not in words:
        raise _wrong(path, key, f"one of {', '.join(words)} is needed, not {word[:80]!r}")
    return words.index(word)


def _between(value: float, low: float, high: float, path: str, key: str) -> None:
    if not low <= value <= high:
        raise _wrong(path, key, f"{str(value)[:80]} is not between {low:g} and {high:g}")


def _wrong(path: str, key: str, what: str) -> FormatError:
    return FormatError(f"{path}.{key}: {what}", path=f"{path}.{key}")
