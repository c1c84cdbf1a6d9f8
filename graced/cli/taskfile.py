"""What people write for `gracectl submit`: a context of JSON, files and key=value, and files with a task per line.

Raises Failure, which names the file, the line and what was expected.
"""

from __future__ import annotations

from graced.base.errors import FormatError
from graced.base.json import dumps, loads_object
from graced.cli.app import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO

    from graced.base.json import JsonDict

MAX_CONTEXT_BYTES = 256 * 1024
MAX_BATCH_BYTES = 900_000
MAX_BATCH_TASKS = 1000
_HOW = "--context takes a JSON object, @FILE that holds one, key=text or key:=JSON"


def context_of(texts: Sequence[str]) -> JsonDict | None:
    """The contexts of a command line put together, later ones first in rank; None when there are none."""
    merged: JsonDict = {}
    for text in texts:
        merged |= _one_context(text)
    return merged if texts else None


def _one_context(text: str) -> JsonDict:
    if text.startswith("@"):
        return _context_file(text[1:])
    key, equals, value = text.partition("=")
    if text.startswith(("{", "[")) or not equals or not key:
        try:
            return loads_object(text, max_bytes=MAX_CONTEXT_BYTES, path="--context")
        except FormatError as error:
            raise Failure(f"{text[:80]!r} is no context: {error.message}", _HOW) from error
    if not key.endswith(":"):
        return {key: value}
    try:
        return {key[:-1]: loads_object(f'{{"value":{value}}}', max_bytes=MAX_CONTEXT_BYTES, path="--context")["value"]}
    except (FormatError, KeyError) as error:
        raise Failure(f"{text[:80]!r}: what follows := is not JSON", _HOW) from error


def _context_file(path: str) -> JsonDict:
    try:
        with open(path, "rb") as file:
            return loads_object(file.read(MAX_CONTEXT_BYTES + 1), max_bytes=MAX_CONTEXT_BYTES, path=path)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", _HOW) from error


class Batch:
    """Tasks for one SubmitBatch and the lines they stand on."""

    def __init__(self) -> None:
        self.tasks: list[JsonDict] = []
        self.lines: list[int] = []
        self._bytes = 0
        self._count = 0

    def take(self, line: int, task: JsonDict) -> bool:
        """Put it in if it fits; the first always does (the supervisor says what is wrong with it)."""
        size_bytes, count = len(dumps(task)) + 1, _count(task)
        if self.tasks and (self._bytes + size_bytes > MAX_BATCH_BYTES or self._count + count > MAX_BATCH_TASKS):
            return False
        self.tasks.append(task)
        self.lines.append(line)
        self._bytes += size_bytes
        self._count += count
        return True


def _count(task: JsonDict) -> int:
    """It and all below it."""
    count = 0
    below = [task]
    while below:
        one = below.pop()
        count += 1
        children = one.get("children")
        below += [child for child in children if isinstance(child, dict)] if isinstance(children, list) else []
    return count


def read_tasks(file: BinaryIO, name: str, defaults: JsonDict) -> list[tuple[int, JsonDict]]:
    """(line, parameters of Submit) of each line that is not empty; `defaults` are what a line does not say."""
    tasks = []
    for number, raw in enumerate(file, 1):
        if not raw.strip():
            continue
        where = f"{name}:{number}"
        try:
            task = {**defaults, **loads_object(raw, max_bytes=MAX_BATCH_BYTES, path=where)}
        except FormatError as error:
            raise Failure(f"{error.message}; nothing was submitted", "one JSON object per line") from error
        for key in ("handler", "task_type"):
            if not isinstance(task.get(key), str):
                raise Failure(
                    f'{where}: it has no "{key}"; nothing was submitted',
                    "say it in the line, or as HANDLER and TYPE for all lines",
                )
        tasks.append((number, task))
    if not tasks:
        raise Failure(f"{name}: there is no task in it", "a JSON object per line, with the parameters of Submit")
    return tasks


def batches(tasks: Iterable[tuple[int, JsonDict]]) -> Iterator[Batch]:
    """The tasks in as few calls as the wire allows."""
    batch = Batch()
    for line, task in tasks:
        if not batch.take(line, task):
            yield batch
            batch = Batch()
            batch.take(line, task)
    yield batch
