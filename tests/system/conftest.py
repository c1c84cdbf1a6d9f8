"""Fixtures of this directory."""

from tests.support.fixtures import bare, deb, machine, pytest_runtest_makereport, suite

__all__ = ["bare", "deb", "machine", "pytest_runtest_makereport", "suite"]
