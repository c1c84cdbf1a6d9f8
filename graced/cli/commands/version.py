"""gracectl version."""

from __future__ import annotations

import click

from graced.cli.app import json_option
from graced.cli.output import show


@click.command()
@json_option
def version(form: str) -> None:
    """Print the installed version, and the running one when it differs."""
    from graced import __version__
    from graced.cli.app import attempt

    reply, _ = attempt("io.graced.Supervisor.Status")
    running = reply.get("version") if reply else None
    human = f"graced {__version__}"
    if running is not None and running != __version__:
        human += f" (running: {running}; systemctl restart graced.target brings them together)"
    show({"installed": __version__, "running": running}, form, human)
