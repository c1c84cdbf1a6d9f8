"""The compiled half of sqlite3, as the name `sqlite3`: 5 ms less of a start.

Without the dates that the module around it converts, and without functools, of which it takes one function.

functools brings collections, operator and types along, which no daemon needs before READY; the one function, for the
statements that a connection keeps, is compiled itself. Used by graced.store.
"""

from __future__ import annotations

import sys
from _functools import _lru_cache_wrapper  # type: ignore[import-not-found]  # typeshed leaves it out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["sqlite3"]


class _Functools:
    """Stands in for the module while `_sqlite3` is imported."""

    @staticmethod
    def lru_cache(maxsize: int) -> Callable[[Callable[..., Any]], Any]:
        """As functools.lru_cache(maxsize), but that `cache_info` is a plain tuple."""
        return lambda function: _lru_cache_wrapper(function, maxsize, False, _info)  # noqa: FBT003


def _info(*values: int) -> tuple[int, ...]:
    return values


if "functools" in sys.modules:
    import _sqlite3 as sqlite3
else:
    sys.modules["functools"] = _Functools  # type: ignore[assignment]
    try:
        import _sqlite3 as sqlite3
    finally:
        del sys.modules["functools"]
