"""damage.compare: every state, and what must hold for any content."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.heal.damage import DAMAGED, EDITED, EXTRA, METADATA, MISSING, SAME, Facts, compare, damage

GOOD = Facts("file", b"listen 80;\nroot /srv;\nindex index.html;\n", 0, 0, 0o644)
text = st.binary(max_size=200)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (GOOD.data[:5], "middle of a line"),
        (GOOD.data[:11], "before its half"),
        (GOOD.data[:32], "middle of a line"),
        (b"listen \x00\x00", "NUL"),
    ],
)
def test_what_nobody_can_have_meant(data, reason):
    finding = compare(GOOD.replace(data=data), GOOD)
    assert (finding.state, finding.harmful) == (DAMAGED, True)
    assert reason in finding.reason


@pytest.mark.parametrize("data", [b"garbage", GOOD.data[:22], GOOD.data[:-1], GOOD.data + b"more\n", b"\n"])
def test_what_may_be_an_edit(data):
    finding = compare(GOOD.replace(data=data), GOOD)
    assert (finding.state, finding.harmful) == (EDITED, False)


def test_absence():
    assert compare(None, None).state == SAME
    assert compare(None, GOOD).state == MISSING
    assert compare(GOOD, None).state == EXTRA
    assert compare(Facts("unreadable", b"a directory", 0, 0, 0), GOOD).state == DAMAGED


def test_links():
    link = Facts("symlink", b"../a", 0, 0, 0o777)
    assert compare(link.replace(uid=5), link).state == SAME
    assert compare(link.replace(data=b""), link).state == EDITED
    assert compare(link, GOOD).state == EDITED


@pytest.mark.parametrize(
    ("changes", "harmful"),
    [
        ({"uid": 33}, True),
        ({"gid": 33}, True),
        ({"mode": 0o666}, True),
        ({"mode": 0o000}, True),
        ({"mode": 0o640}, False),
        ({"mode": 0o755}, False),
        ({"mode": 0o600}, True),
    ],
)
def test_metadata(changes, harmful):
    finding = compare(GOOD.replace(**changes), GOOD)
    assert (finding.state, finding.harmful) == (METADATA, harmful)
    assert finding.reason


@given(text)
def test_the_same_content_is_never_damage(data):
    assert damage(data, data) == ""


@given(text, text)
def test_damage_needs_a_sign(now, good):
    if damage(now, good):
        assert b"\0" in now or not now or (good.startswith(now) and len(now) < len(good))


@given(text, st.binary(min_size=1, max_size=50))
def test_appending_is_always_an_edit(good, more):
    if b"\0" not in more:
        assert damage(good + more, good) == ""


@given(st.lists(st.binary(max_size=20).filter(lambda b: b"\n" not in b and b"\0" not in b), min_size=2, max_size=12))
def test_dropping_last_lines_up_to_half_is_an_edit(lines):
    good = b"".join(line + b"\n" for line in lines)
    now = b"".join(line + b"\n" for line in lines[:-1])
    assert (damage(now, good) == "") == (len(now) * 2 >= len(good))
