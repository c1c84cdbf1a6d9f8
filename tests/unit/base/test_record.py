from __future__ import annotations

import pytest

from graced.base.errors import FormatError
from graced.base.record import Record


class Point(Record):
    x: int
    y: float = 0.5
    tags: tuple[str, ...] = ()
    note: str | None = None


class Line(Point):
    z: int = 3


def test_values_and_defaults():
    point = Point(1, note="n")
    assert (point.x, point.y, point.tags, point.note) == (1, 0.5, (), "n")
    assert Line(1, z=4).to_json() == {"x": 1, "y": 0.5, "tags": [], "note": None, "z": 4}


@pytest.mark.parametrize("args, kwargs", [((), {}), ((1, 2, (), None, 5), {}), ((1,), {"x": 2}), ((1,), {"q": 2})])
def test_wrong_construction(args, kwargs):
    with pytest.raises(TypeError):
        Point(*args, **kwargs)


def test_frozen_equal_hashable():
    point = Point(1)
    with pytest.raises(AttributeError):
        point.x = 2
    with pytest.raises(AttributeError):
        del point.x
    assert point == Point(1)
    assert point != Point(2)
    assert point != Line(1)
    assert len({point, Point(1), point.replace(y=2.0)}) == 2


def test_json_round_trip():
    point = Point(1, 2, ("a", "b"))
    assert Point.from_json(point.to_json()) == point


@pytest.mark.parametrize(
    "obj, path",
    [
        ({}, "$.x"),
        ({"x": "1"}, "$.x"),
        ({"x": True}, "$.x"),
        ({"x": 1, "tags": [1]}, "$.tags[0]"),
        ({"x": 1, "q": 1}, "$.q"),
        ({"x": None}, "$.x"),
    ],
)
def test_wrong_json_names_the_path(obj, path):
    with pytest.raises(FormatError) as caught:
        Point.from_json(obj)
    assert caught.value.fields["path"] == path
