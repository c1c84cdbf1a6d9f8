import hashlib

from hypothesis import given
from hypothesis import strategies as st

from graced.base.digest import sha256


@given(st.binary(max_size=300))
def test_it_is_the_same_sha256(data):
    assert sha256(data).digest() == hashlib.sha256(data).digest()
    assert sha256(data).hexdigest() == hashlib.sha256(data).hexdigest()
