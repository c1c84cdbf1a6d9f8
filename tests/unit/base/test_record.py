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


def test_by_position_and_by_name_make_the_same():
    values = {"x": 1, "y": 2.0, "tags": ("a",), "note": "n"}
    for count in range(1, 5):
        given = dict(list(values.items())[:count])
        assert Point(*given.values()) == Point(**given)
    with pytest.raises(TypeError):
        Point(1, 2.0, ("a",), "n", 5)


def test_a_field_without_a_default_after_one_with():
    class Odd(Point):
        must: int

    assert Odd(1, must=7).note is None
    assert Odd(1, 0.5, (), None, 7) == Odd(1, must=7)
    for args in ((), (1,), (1, 0.5, (), None)):
        with pytest.raises(TypeError, match="must"):
            Odd(*args)


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
