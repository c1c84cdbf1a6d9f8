"""gracectl log: the journal of graced, read by journalctl itself."""

from __future__ import annotations

import click

from graced.cli.app import Failure, verbose_option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def journal_argv(unit: str | None, options: Sequence[str] = ()) -> list[str]:
    """The journalctl command: all of graced, or what graced's root process recorded about `unit`.

    OBJECT_SYSTEMD_UNIT= is trusted only from the actuator's own cgroup and root (anybody can write that field).
    """
    from graced.model.daemons import DAEMONS

    if unit is None:
        names = (*DAEMONS, "actuator", "keys", "rescue")
        matches = [f"--unit=graced-{name}.service" for name in names]
    else:
        matches = ["_UID=0", "_SYSTEMD_UNIT=graced-actuator.service", f"OBJECT_SYSTEMD_UNIT={unit}"]
    return ["journalctl", *options, *matches]


@click.command()
@click.argument("unit", required=False)
@click.option("-f", "--follow", is_flag=True, help="Wait for new records.")
@click.option("-n", "--lines", type=click.IntRange(0), help="At most so many of the newest.")
@click.option("-S", "--since", help="Not older than this, as journalctl understands it.")
@click.option("-o", "--output", help="journalctl's output form, such as json or short-monotonic.")
@click.option("-x", "--catalog", is_flag=True, help="Explain records with the message catalog.")
@verbose_option
def log(
    unit: str | None, follow: bool, lines: int | None, since: str | None, output: str | None, catalog: bool
) -> None:
    """Show the journal of graced, or what graced did to UNIT."""
    import os

    from graced.cli.units import service_name

    options = ["--follow"] if follow else []
    options += [f"--lines={lines}"] if lines is not None else []
    options += [f"--since={since}"] if since else []
    options += [f"--output={output}"] if output else []
    options += ["--catalog"] if catalog else []
    argv = journal_argv(service_name(unit) if unit else None, options)
    try:
        os.execvp(argv[0], argv)  # noqa: S606  # journalctl becomes this process: its pager and Ctrl-C are right
    except OSError as error:
        raise Failure(f"journalctl could not be run: {error.strerror}", "graced logs to the systemd journal") from error
