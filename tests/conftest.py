"""Where promtool is (`make deps` puts it there); and Hypothesis: every run tries the same examples, the nightly others.

What a random example finds is a fault for the person who looks for it, not for whoever submits next. Nor is a slow
machine a fault: no deadline, and no complaint about data that takes long to make.
"""

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

CACHE = os.environ.get("XDG_CACHE_HOME") or ("/var/cache" if os.geteuid() == 0 else f"{Path.home()}/.cache")
os.environ["PATH"] += f":{CACHE}/graced/bin"

NIGHTLY = os.environ.get("GRACED_NIGHTLY") == "1"

settings.register_profile(
    "graced",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=not NIGHTLY,
    database=None,
    print_blob=True,
)
settings.load_profile("graced")
