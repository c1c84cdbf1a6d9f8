"""Which playbooks fit a finding, in which order, and why.

The order is what worked before (the learned ranking), then the profile's own order. The reasons are sentences
for `gracectl explain`. Pure; used by Healing.
"""

from __future__ import annotations

from graced.base.record import Record
from graced.heal.playbook import RESTORE_CONFIG, Playbook
from graced.heal.profile import Profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Candidate(Record):
    """A playbook to try; `reason` says why it fits and why it has this place."""

    playbook: Playbook
    profile: Profile
    reason: str


def candidates(
    finding: str,
    unit_state: str,
    config_state: str,
    playbooks: Iterable[Playbook],
    profile: Profile,
    ranking: Sequence[str] = (),
    *,
    restorable: bool = True,
) -> list[Candidate]:
    """The playbooks to try, in order.

    `unit_state` is systemd's ActiveState or "unknown", `config_state` one of playbook.CONFIG_STATES, `playbooks`
    everything that is loaded. `ranking` lists playbook names, the one that worked best first; names that the
    profile does not have are ignored. `restorable`: there is a last-known-good copy.
    """
    loaded = {playbook.name: playbook for playbook in playbooks}
    learned = [name for name in dict.fromkeys(ranking) if name in profile.playbooks]
    chosen = []
    for name in learned + [name for name in profile.playbooks if name not in learned]:
        playbook = loaded.get(name)
        if playbook is None or objections(finding, unit_state, config_state, playbook, restorable=restorable):
            continue
        place = (
            f"it worked for {finding} on {profile.unit} before (place {learned.index(name) + 1})"
            if name in learned
            else f"place {profile.playbooks.index(name) + 1} in the order of the profile {profile.name}"
        )
        why = _in_favour(finding, unit_state, config_state, playbook)
        chosen.append(Candidate(playbook, profile, f"{why}; {place}"))
    return chosen


def rejected(
    finding: str,
    unit_state: str,
    config_state: str,
    playbooks: Iterable[Playbook],
    profile: Profile,
    *,
    restorable: bool = True,
) -> dict[str, str]:
    """The profile's playbooks that do not fit: name → why not."""
    loaded = {playbook.name: playbook for playbook in playbooks}
    found = {}
    for name in profile.playbooks:
        if name not in loaded:
            found[name] = "it is not loaded"
            continue
        against = objections(finding, unit_state, config_state, loaded[name], restorable=restorable)
        if against:
            found[name] = "; ".join(against)
    return found


def objections(
    finding: str, unit_state: str, config_state: str, playbook: Playbook, *, restorable: bool = True
) -> tuple[str, ...]:
    """Why `playbook` does not fit; empty when it does."""
    found = []
    if finding not in playbook.triggers:
        found.append(f"it is for {' or '.join(playbook.triggers)}, not for {finding}")
    wanted = playbook.preconditions
    if wanted.unit_states and unit_state not in wanted.unit_states:
        found.append(f"it needs the unit to be {' or '.join(wanted.unit_states)}, it is {unit_state}")
    if wanted.config and config_state not in wanted.config:
        found.append(f"it needs the config to be {' or '.join(wanted.config)}, it is {config_state}")
    if not restorable and any(step.verb == RESTORE_CONFIG for step in playbook.steps):
        found.append("there is no last-known-good copy to restore")
    return tuple(found)


def _in_favour(finding: str, unit_state: str, config_state: str, playbook: Playbook) -> str:
    reasons = [f"it is for {finding}"]
    if playbook.preconditions.unit_states:
        reasons.append(f"the unit is {unit_state}")
    if playbook.preconditions.config:
        reasons.append(f"the config is {config_state}")
    return ", ".join(reasons)
