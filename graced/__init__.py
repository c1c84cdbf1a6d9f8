"""graced: a Linux host that heals itself and can prove it."""

__version__ = "0.1.0"
