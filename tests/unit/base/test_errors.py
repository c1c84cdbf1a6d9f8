"""The stand-in for contextlib.suppress swallows what it was told to, and nothing else."""

import pytest

from graced.base.errors import ConfigError, GracedError, suppress


def test_suppress_takes_the_kind_and_its_kinds():
    reached = []
    with suppress(GracedError):
        reached.append(1)
        raise ConfigError("no")
    with suppress(GracedError):
        reached.append(2)
    assert reached == [1, 2]


@pytest.mark.parametrize("error", [OSError("no"), KeyboardInterrupt()])
def test_suppress_lets_everything_else_through(error):
    with pytest.raises(type(error)), suppress(GracedError):
        raise error
