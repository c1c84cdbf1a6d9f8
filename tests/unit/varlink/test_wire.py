import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import WireError
from graced.varlink.wire import Decoder, VarlinkError, encode, reply_or_raise, split_method

messages = st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20)), max_size=8)


@given(messages, st.data())
def test_any_cut_gives_the_same_messages(sent, data):
    stream = b"".join(encode(message) for message in sent)
    decoder = Decoder()
    received = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        received += decoder.feed(stream[:size])
        stream = stream[size:]
    assert received == sent
    assert decoder.pending_bytes == 0


@given(st.binary(max_size=200))
def test_hostile_bytes_only_raise_wire_error(data):
    with contextlib.suppress(WireError):
        Decoder().feed(data)


@pytest.mark.parametrize(
    "frames",
    [
        [b'{"a":1', b'"b":2}'],
        [b'{"a":{}', b'{"b":1}}'],
        [b'{"a":[{}', b"{}]},{}"],
        [b"{},{}", b"{}"],
        [b"{}", b""],
        [b"{}", b"[]"],
        [b"{}", b"1],[2"],
        [b'{"a":"', b'"}'],
        [b"{}", b"{}", b"nonsense"],
    ],
)
def test_what_is_no_message_by_itself_is_none_with_its_neighbours(frames):
    with pytest.raises(WireError):
        Decoder().feed(b"\0".join(frames) + b"\0")


def test_spaces_and_letters_of_any_kind_may_stand_in_messages_that_come_together():
    assert Decoder().feed(b' {"a": 1}\n\0{}\0') == [{"a": 1}, {}]
    assert Decoder().feed('{"a":"ü"}\0{"b":"\\u00fc"}\0'.encode()) == [{"a": "ü"}, {"b": "ü"}]


def test_limits():
    decoder = Decoder(max_bytes=100)
    with pytest.raises(WireError, match="over 100 bytes"):
        decoder.feed(b"x" * 101)
    with pytest.raises(WireError):
        Decoder(max_bytes=10).feed(encode({"a": "x" * 20}))
    with pytest.raises(WireError):
        Decoder().feed(b"[]\0")


def test_replies():
    assert reply_or_raise({"parameters": {"a": 1}}) == {"a": 1}
    assert reply_or_raise({}) == {}
    with pytest.raises(VarlinkError) as caught:
        reply_or_raise({"error": "io.graced.Memory.NoSuchIncident", "parameters": {"id": "x"}})
    assert (caught.value.name, caught.value.parameters) == ("NoSuchIncident", {"id": "x"})
    with pytest.raises(WireError):
        reply_or_raise({"parameters": [1]})


def test_split_method():
    assert split_method("io.graced.HTM.Get") == ("io.graced.HTM", "Get")
    assert split_method("Get") == ("", "Get")
