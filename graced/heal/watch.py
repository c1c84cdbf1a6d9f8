"""An adopted unit: which profile knows it and how much graced may do there by itself.

`gracectl adopt` writes one such file to /etc/graced/watch.d; what has none is observed only. Pure; used by every
kernel that needs the tier cap, by the actuator and by the command line.
"""

from __future__ import annotations

from graced.base.record import Record
from graced.base.schema import Problems, Table, no_lines
from graced.heal.playbook import MAX_TIER, NAME
from graced.heal.profile import UNIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.base.schema import LineOf


class Watch(Record):
    """A checked watch file. `tier`: 0 observe, 1 suggest, 2 safe, 3 reversible, 4 approved by a human."""

    unit: str
    profile: str
    tier: int
    adopted_at: str = ""
    adopted_by: int = 0
    digest: str = ""
    path: str = ""


def parse_watch(name: str, data: JsonDict, line_of: LineOf = no_lines, *, digest: str = "", path: str = "") -> Watch:
    """Check a parsed TOML file and build the Watch. ConfigError lists every problem with dotted key and line."""
    problems = Problems(path or f"{name}.toml", line_of)
    top = Table(problems, data)
    adopted_at = top.take("adopted_at")
    if adopted_at is not None and not isinstance(adopted_at, str):
        if not hasattr(adopted_at, "isoformat"):
            top.bad("adopted_at", "a time is needed")
        adopted_at = adopted_at.isoformat() if hasattr(adopted_at, "isoformat") else ""
    watch = Watch(
        unit=top.text("unit", required=True, match=UNIT),
        profile=top.text("profile", required=True, match=NAME),
        tier=top.whole("tier", 0, 0, MAX_TIER, required=True),
        adopted_at=(adopted_at or "")[:64],
        adopted_by=top.whole("adopted_by", 0, 0, (1 << 32) - 2),
        digest=digest,
        path=path,
    )
    top.done()
    problems.raise_if_any()
    return watch


def render_watch(watch: Watch) -> str:
    """The TOML text of a watch file, as `gracectl adopt` writes it; `parse_watch` reads it back."""
    unit = watch.unit.replace("\\", "\\\\")
    return (
        "# Written by gracectl adopt; gracectl release removes it.\n"
        f'unit = "{unit}"\nprofile = "{watch.profile}"\ntier = {watch.tier}\n'
        f'adopted_at = "{watch.adopted_at}"\nadopted_by = {watch.adopted_by}\n'
    )
