"""The policies in force and what they are about, read from root's files: rules, adopted units, profiles, playbooks.

Read again when a file changes. Used by the Governance kernel only.
"""

from __future__ import annotations

from graced.base.log import WARNING
from graced.base.messages import CODE_REFUSED
from graced.policy.decide import Known
from graced.policy.rules import RuleSet
from graced.runtime.catalog import PLAYBOOK, POLICY, PROFILE, WATCH, Catalog, LastGood

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.policy.decide import Plan
    from graced.runtime.kernel import Kernel


class Policies:
    """`rules` is the compiled set; `unusable` says why nothing may be allowed, empty when all is well."""

    def __init__(self, kernel: Kernel, last_good: str) -> None:
        self._kernel = kernel
        self._catalog = Catalog(kernel.paths, LastGood(last_good))
        self._complained: set[str] = set()
        self.rules = RuleSet(())
        self.unusable = ""

    def refresh(self, *, anyway: bool = False) -> None:
        """Take over what changed on disk."""
        if anyway:
            self._catalog.refresh()
            self._compile()
        elif self._catalog.refresh_if_changed():
            self._compile()

    def _compile(self) -> None:
        kernel = self._kernel
        self.unusable = ""
        if self._catalog.store_error:
            kernel.log(WARNING, f"the versions that passed cannot be kept: {self._catalog.store_error}")
        for file in self._catalog.refused:
            if file.kind != POLICY:
                continue
            first = file.errors[0]
            where = f"{file.path}:{first['line']}: {first['message']}"
            # A lost deny rule must not turn into an allow: without its last good version nothing is allowed.
            if file.running_digest is None:
                self.unusable = where
            if file.path + file.digest not in self._complained:
                self._complained.add(file.path + file.digest)
                kept = "the version that passed stays" if file.running_digest else "nothing is allowed"
                kernel.count("graced_config_reload_failures_total")
                kernel.log(WARNING, f"policy refused, {kept}: {where}", CODE_REFUSED, GRACED_PATH=file.path)
        self.rules = RuleSet([entry.value for entry in self._catalog.entries(POLICY)])

    def adopted(self) -> list[tuple[str, str, int]]:
        """(unit, profile, tier) of every adopted unit, by the name of its watch file."""
        watches = (entry.value for entry in self._catalog.entries(WATCH))
        return [(watch.unit, watch.profile, watch.tier) for watch in watches]

    def known(self, plan: Plan) -> Known:
        """What is known about the names in a plan."""
        watch = next((one for one in self.adopted() if one[0] == plan.unit), None)
        if watch is None:
            return Known()
        known = Known(watch_tier=watch[2], watch_profile=watch[1])
        profile = self._catalog.running[PROFILE].get(watch[1])
        if profile is not None:
            known = known.replace(profile_digest=profile.digest, profile_playbooks=profile.value.playbooks)
        entry = self._catalog.running[PLAYBOOK].get(plan.playbook)
        if entry is None:
            return known
        playbook = entry.value
        return known.replace(
            playbook_digest=entry.digest,
            playbook_tier=playbook.tier,
            playbook_risk=playbook.risk,
            playbook_triggers=playbook.triggers,
            playbook_step_count=len(playbook.steps),
            playbook_limits=(playbook.limits.per_unit_per_hour, playbook.limits.cooldown_seconds),
            playbook_verbs=tuple(step.verb for step in playbook.steps),
        )
