"""What Governance remembers, on disk before it counts: unit histories, a pause, and a clock that spans reboots.

Joins the policy engine's values to their store. Used by the Governance kernel only.
"""

from __future__ import annotations

from graced.base.errors import FormatError, StoreError
from graced.policy.decide import Pause
from graced.policy.limits import SECOND_US, UnitHistory, history_from_json
from graced.store.governance import GovernanceStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.clock import Clock
    from graced.base.json import JsonDict


class Standing:
    """Opens the store at `path`. Raises StoreError, as does every method that changes something.

    `shadow` is who put the host in shadow and why, None when nobody did.
    """

    def __init__(self, path: str, clock: Clock, boot: str) -> None:
        self._clock = clock
        self._boot = boot
        self.store = self._store = GovernanceStore(path)
        try:
            self.histories = {unit: history_from_json(obj) for unit, obj in self._store.histories().items()}
        except FormatError as error:
            raise StoreError(f"{path} is damaged: {error.message}", code="damaged", path=path) from error
        self._age_offset_us = self._offset_us()
        self._pause = self._carried_over_boot(self._store.fact("pause"))
        self.shadow = self._store.fact("shadow")

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def age_us(self) -> int:
        """CLOCK_BOOTTIME carried on over reboots; time switched off does not count, so it never jumps ahead."""
        return self._clock.boottime_us() + self._age_offset_us

    def _offset_us(self) -> int:
        age = self._store.fact("age")
        if age is None:
            return 0
        offset_us: int = age["offset_us"] if age["boot_id"] == self._boot else age["age_us"] - self._clock.boottime_us()
        return offset_us

    def history(self, unit: str) -> UnitHistory:
        """The unit's history; an empty one for a unit never seen."""
        return self.histories.get(unit) or UnitHistory(unit)

    def others(self, unit: str) -> list[UnitHistory]:
        """The histories of all other units."""
        return [history for name, history in self.histories.items() if name != unit]

    def put(self, history: UnitHistory) -> None:
        """Replace a unit's history: on disk, then here."""
        age = {"age_us": self.age_us(), "offset_us": self._age_offset_us, "boot_id": self._boot}
        self._store.put({history.unit: history.to_json()}, {"age": age})
        self.note(history)

    def note(self, history: UnitHistory) -> None:
        """Replace a unit's history here only: whoever does owes a `keep`."""
        self.histories[history.unit] = history

    def keep(self, unit: str) -> None:
        """The unit's history is on disk on return."""
        self.put(self.history(unit))

    def give_back(self, unit: str) -> None:
        """What was allowed last is not done after all: here at once, so that nothing stays open on a full disk."""
        self.note(self.history(unit).replace(open_task=""))
        self.keep(unit)

    @property
    def pause(self) -> Pause | None:
        """The pause in force, None when there is none (any more)."""
        if self._pause is None:
            return None
        until_us = self._pause["until_boottime_us"]
        if until_us is None:
            return Pause(self._pause["by_uid"], self._pause["reason"], None)
        left_us = until_us - self._clock.boottime_us()
        return None if left_us <= 0 else Pause(self._pause["by_uid"], self._pause["reason"], left_us / SECOND_US)

    @property
    def paused_until_boottime_us(self) -> int | None:
        """When the pause in force ends; None without one or without an end."""
        if self.pause is None or self._pause is None:
            return None
        until_us: int | None = self._pause["until_boottime_us"]
        return until_us

    def set_pause(self, uid: int, seconds: int | None, reason: str) -> None:
        """Begin a pause of `seconds` (None: until `clear_pause`)."""
        length_us = None if seconds is None else seconds * SECOND_US
        pause: JsonDict = {
            "by_uid": uid,
            "reason": reason,
            "boot_id": self._boot,
            "until_boottime_us": None if length_us is None else self._clock.boottime_us() + length_us,
            "until_wall_us": None if length_us is None else self._clock.wall_us() + length_us,
        }
        self._store.put({}, {"pause": pause})
        self._pause = pause

    def clear_pause(self) -> None:
        """End the pause; fine when there is none."""
        self._store.forget_fact("pause")
        self._pause = None

    def set_shadow(self, shadow: JsonDict | None) -> None:
        """Keep who put the host in shadow and why; None ends it."""
        if shadow is None:
            self._store.forget_fact("shadow")
        else:
            self._store.put({}, {"shadow": shadow})
        self.shadow = shadow

    def _carried_over_boot(self, pause: JsonDict | None) -> JsonDict | None:
        if pause is None or pause["boot_id"] == self._boot or pause["until_wall_us"] is None:
            return pause
        # CLOCK_BOOTTIME began anew; only the wall clock spans a reboot.
        left_us = pause["until_wall_us"] - self._clock.wall_us()
        return {**pause, "boot_id": self._boot, "until_boottime_us": self._clock.boottime_us() + max(0, left_us)}
