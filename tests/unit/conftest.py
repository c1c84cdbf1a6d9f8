"""What a unit test leaves open is closed at its end, not whenever the interpreter comes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from graced.store.db import Database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MOST_OPEN = 64


@pytest.fixture(autouse=True)
def databases_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python 3.13 complains of a database that nobody closed; most tests drop theirs with all that stands on it."""
    opened: list[Any] = []
    make = Database.__init__

    def made(self: Database, *arguments: Any) -> None:
        make(self, *arguments)
        opened.append(self.connection)
        if len(opened) > MOST_OPEN:
            # a property test opens many, one after the other
            opened.pop(0).close()

    monkeypatch.setattr(Database, "__init__", made)
    yield
    for connection in opened:
        connection.close()
