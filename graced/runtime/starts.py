"""How long each unit takes to start: a learned, kept baseline that a new start is judged against."""

from __future__ import annotations

from graced.base.clock import boot_id
from graced.base.errors import FormatError, StoreError
from graced.drift.baseline import Baseline
from graced.store.series import SeriesFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.heal.tracker import UnitTracker

START_SLACK_MS = 100.0


class StartTimes:
    """Baselines by unit. `problems` says what of the file could not be used; it is learned anew."""

    def __init__(self, path: str) -> None:
        self.problems: list[str] = []
        self._file = SeriesFile(path)
        self._series: dict[str, Baseline] = {}
        for name, values in self._file.load().items():
            try:
                self._series[name] = Baseline.from_json({"values": values}, slack=START_SLACK_MS)
            except FormatError as error:
                self.problems.append(f"learned start times of {name} are dropped: {error}")

    def learn(self, tracker: UnitTracker) -> str:
        """Take in the tracker's newest start, once, after judging limits by the ones before. A problem, or ""."""
        start_ms = tracker.state.start_ms
        if start_ms is None or not self._file.first_time(tracker.unit, tracker.state.active_enter_us, boot_id()):
            return ""
        series = self._series.setdefault(tracker.unit, Baseline(slack=START_SLACK_MS))
        tracker.start_limit_ms = series.limit()
        tracker.start_median_ms = series.to_json()["median"]
        series.learn(start_ms)
        try:
            self._file.put({name: list(one.values) for name, one in self._series.items()})
        except StoreError as error:
            return f"start times are not kept: {error}"
        return ""

    def to_json(self) -> list[JsonDict]:
        """As io.graced.Infrastructure.Baselines answers."""
        return [
            {"unit": name, "series": "start_ms", **series.to_json()} for name, series in sorted(self._series.items())
        ]
