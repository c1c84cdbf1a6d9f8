import contextlib
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base import json as gjson
from graced.base.errors import FormatError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_canonical_is_stable_and_reads_back(obj):
    try:
        data = gjson.canonical(obj)
    except FormatError:
        assert any(0xD800 <= ord(char) <= 0xDFFF for char in json.dumps(obj, ensure_ascii=False))
        return
    shuffled = dict(reversed(list(obj.items())))
    assert gjson.canonical(shuffled) == data
    assert gjson.loads_object(data) == obj


@given(st.binary(max_size=200))
def test_parser_only_raises_format_error(data):
    with contextlib.suppress(FormatError):
        assert isinstance(gjson.loads_object(data), dict)


def outcome(function, text):
    try:
        return repr(function(text))
    except ValueError as error:
        return f"{type(error).__name__}: {error}"


spaces = st.text(" \t\n\r", max_size=3)
near_json = st.one_of(
    st.text(max_size=40),
    st.text('{}[]",:-+.eE0123456789 tfnNI\n\\', max_size=20),
    st.builds(lambda before, value, after: before + json.dumps(value) + after, spaces, values, spaces | st.text()),
)


@given(near_json)
def test_loads_is_that_of_the_standard_library(text):
    plain = json.JSONDecoder(parse_constant=gjson._no_constant)
    assert outcome(gjson.loads, text) == outcome(plain.decode, text)


@given(values)
def test_encoding_is_that_of_the_standard_library(value):
    for encode, sort_keys in ((gjson.canonical_text, True), (gjson.dumps_text, False)):
        options = {"ensure_ascii": False, "separators": (",", ":"), "sort_keys": sort_keys}
        assert encode(value) == json.dumps(value, **options)
    assert gjson.dumps_ascii(value) == json.dumps(value, separators=(",", ":"))


def test_ascii_takes_what_no_store_would():
    text = gjson.dumps_ascii({"x": "\ud800ü"})
    assert text.encode() == b'{"x":"\\ud800\\u00fc"}'
    assert gjson.loads(text) == {"x": "\ud800ü"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, "\ud800"])
def test_not_json(value):
    with pytest.raises(FormatError):
        gjson.canonical({"x": value})


def test_bounds():
    with pytest.raises(FormatError, match="at most"):
        gjson.loads_object(b'{"a": "' + b"x" * 100 + b'"}', max_bytes=50)
    with pytest.raises(FormatError):
        gjson.loads_object(b"[" * 100_000)
    with pytest.raises(FormatError):
        gjson.loads_object(b'{"a": NaN}')


@pytest.mark.parametrize(
    "getter, good, bad",
    [
        (gjson.get_str, "x", 1),
        (gjson.get_int, 1, True),
        (gjson.get_float, 1.5, "1"),
        (gjson.get_bool, True, 1),
        (gjson.get_dict, {}, []),
        (gjson.get_list, [], {}),
        (gjson.get_strs, ["a"], ["a", 1]),
    ],
)
def test_getters(getter, good, bad):
    assert getter({"k": good}, "k") == good
    for obj in ({"k": bad}, {}):
        with pytest.raises(FormatError, match=r"q\.k"):
            getter(obj, "k", "q")


def test_optional():
    assert gjson.opt_int({}, "k") is None
    assert gjson.opt_int({"k": None}, "k") is None
    assert gjson.opt_float({"k": 1}, "k") == 1.0
    with pytest.raises(FormatError):
        gjson.opt_int({"k": "1"}, "k")


FRESH = """
import sys
from graced.base.errors import FormatError
from graced.base.json import loads, loads_object, scan_object
assert "json" not in sys.modules
text = sys.argv[1]
assert scan_object(text) is None
try:
    loads_object(text)
except FormatError as error:
    assert "not JSON" in error.message, error
else:
    raise AssertionError(text)
"""


@pytest.mark.parametrize("text", ["{", "{x", '{"a":01x}', '{"a":"\n"}', '{"a', "[", "{" * 90_000, "[" * 90_000])
def test_what_is_wrong_is_said_before_anybody_imported_json(text):
    """The compiled scanner has its exception from a module that a daemon does not import."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, text], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
