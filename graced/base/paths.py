"""Where things live on the host, and how a checkout or a test moves them.

The environment can move the directories for development only: a process that systemd started (it has an
INVOCATION_ID) or that acts as root by warrant ignores it, so nobody can point a daemon at foreign files.
"""

from __future__ import annotations

import os

SUPERVISOR_INTERFACES = ("io.graced.Supervisor", "io.graced.Bus", "io.graced.HTM", "io.graced.Ledger")


class Paths:
    """The five directories. `fixed=True` ignores the environment altogether (the actuator)."""

    def __init__(self, *, fixed: bool = False) -> None:
        env = {} if fixed or "INVOCATION_ID" in os.environ else os.environ
        self.etc = env.get("GRACED_ETC", "/etc/graced")
        self.share = env.get("GRACED_SHARE", "/usr/share/graced")
        self.run = env.get("GRACED_RUN", "/run/graced")
        self.lib = env.get("GRACED_LIB", "/var/lib/graced")

    def state(self, name: str) -> str:
        """The StateDirectory= of daemon `name` (systemd's own answer where there is one)."""
        return os.environ.get("STATE_DIRECTORY") or f"{self.lib}/{name}"

    def socket(self, interface: str) -> str:
        """The socket that serves a Varlink interface such as ``io.graced.Memory``."""
        return f"{self.run}/{'io.graced.Supervisor' if interface in SUPERVISOR_INTERFACES else interface}"

    def config_file(self) -> str:
        """The one configuration file."""
        return f"{self.etc}/graced.toml"

    def watch_dir(self) -> str:
        """Adopted units, one TOML file each."""
        return f"{self.etc}/watch.d"

    def code_dirs(self, kind: str) -> tuple[str, str]:
        """Shipped and admin's directories of ``profiles``, ``playbooks`` or ``policy.d``; the second wins by name."""
        return f"{self.share}/{kind}", f"{self.etc}/{kind}"
