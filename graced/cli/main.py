"""gracectl: the group of all commands. A command's module is imported when it is used."""

from __future__ import annotations

from importlib import import_module

import click

from graced.cli.app import CONTEXT, Failure, begin, failure_of, verbose_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# verb -> module in graced/cli/commands that holds a command of that name, in the order --help shows them.
COMMANDS = {
    "status": "status",
    "incidents": "incidents",
    "tasks": "tasks",
    "task": "tasks",
    "tree": "tasks",
    "why": "tasks",
    "top": "top",
    "explain": "explain",
    "plan": "explain",
    "submit": "submit",
    "cancel": "steer",
    "requeue": "steer",
    "adopt": "adopt",
    "release": "adopt",
    "pause": "pause",
    "resume": "pause",
    "drain": "pause",
    "shadow": "pause",
    "reset": "pause",
    "approvals": "approvals",
    "approve": "approvals",
    "deny": "approvals",
    "policy": "policy",
    "log": "log",
    "search": "search",
    "config": "config",
    "audit": "audit",
    "keys": "keys",
    "version": "version",
}

EPILOG = """\b
Exit status: 0 done; 1 refused or failed, the reason is on stderr; 2 wrong usage.
status: 0 healthy, 3 degraded, 4 not running.
submit --wait, task --follow: 5 failed or dead, 6 cancelled, 7 still live.
See gracectl(1), graced(8)."""


class Gracectl(click.Group):
    """Loads commands on first use and turns graced errors into sentences."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, its module imported."""
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(import_module(f"graced.cli.commands.{module}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run; a GracedError becomes a Failure with its cause attached."""
        from graced.base.errors import GracedError

        try:
            return super().invoke(ctx)
        except GracedError as error:
            failure = failure_of(error)
            raise failure from error

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """click's own entry, with a clean slate."""
        begin()
        return super().main(*args, **kwargs)


@click.group(cls=Gracectl, context_settings=CONTEXT, epilog=EPILOG, no_args_is_help=True)
@verbose_option
def gracectl() -> None:
    """See and steer graced, which keeps the services of this host in repair."""


def main() -> None:
    """Entry point of /usr/bin/gracectl."""
    gracectl(prog_name="gracectl")


__all__ = ["COMMANDS", "Failure", "gracectl", "main"]
