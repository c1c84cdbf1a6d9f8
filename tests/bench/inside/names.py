"""The eight daemons, for both sides of the container's wall."""

KERNELS = ("supervisor", "infrastructure", "governance", "memory", "librarian", "verification", "healing", "code")
UNITS = tuple(f"graced-{name}.service" for name in KERNELS)
