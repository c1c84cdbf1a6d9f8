"""Fixtures of this directory."""

from tests.support.fixtures import deb, suite

__all__ = ["deb", "suite"]
