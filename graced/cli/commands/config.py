"""gracectl config: check what people write for graced."""

from __future__ import annotations

import click

from graced.cli.app import EXIT_FAILED, json_option
from graced.cli.output import printable, say, show


@click.group()
def config() -> None:
    """Look after graced's own configuration."""


@config.command(epilog="Exit status: 0 when all is well, 1 when anything is wrong.")
@json_option
@click.pass_context
def check(context: click.Context, form: str) -> None:
    """Report every mistake in graced.toml, playbooks, profiles, policies and watches, as file:line: message."""
    from graced.cli.app import paths
    from graced.cli.checks import all_options, check_all

    problems, count = check_all(paths(), all_options())
    human = "\n".join(printable(str(problem)) for problem in problems)
    show([problem.to_json() for problem in problems], form, human)
    if problems:
        context.exit(EXIT_FAILED)
    if form == "off":
        say(f"{count} files are well. Running daemons take them over with: systemctl reload graced.target")
