"""The shipped graced.toml is the option tables and nothing else."""

from pathlib import Path

from graced.base.config import check, has_content, render_default
from graced.cli.checks import all_options

SHIPPED = Path(__file__).resolve().parents[3] / "packaging/etc/graced.toml"


def test_the_shipped_file_is_in_step_with_the_option_tables():
    """After a change: `make graced.toml` writes it anew."""
    assert SHIPPED.read_text() == render_default(all_options())


def test_it_is_all_comments_and_good():
    assert not has_content(SHIPPED.read_text())
    assert check(str(SHIPPED), all_options()) == []
    assert len(all_options()) > 5
