"""The names of graced's daemons: one list, from which accounts, sockets, metrics and the command line follow."""

from __future__ import annotations

KERNELS = (
    "supervisor",
    "infrastructure",
    "governance",
    "memory",
    "librarian",
    "verification",
    "healing",
    "code",
)
"""The eight that graced.target waits for: the supervisor and the seven kernels."""

DAEMONS = (*KERNELS, "exporter")
"""All with an account of their own; the actuator is root."""
