"""The last line of `make test`: what counts as passed, and that nothing bad is counted away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.run_all import summary

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

# One test passes, one fails and its teardown too (told twice, counted once), one is skipped.
REPORT = """<testsuites><testsuite tests="3" failures="1" errors="1" skipped="1">
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure message="no"/></testcase>
<testcase classname="a" name="bad"><error message="teardown"/></testcase>
<testcase classname="a" name="lazy"><skipped message="not here"/></testcase>
</testsuite></testsuites>"""


def test_a_test_that_fails_twice_is_one_and_a_skipped_one_has_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "junit.xml").write_text(REPORT)
    assert summary(tmp_path / "junit.xml", 0) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 2 failed (1 of them skipped)"


def test_no_report_is_a_failure(tmp_path: Path) -> None:
    assert summary(tmp_path / "junit.xml", 0) == 1
