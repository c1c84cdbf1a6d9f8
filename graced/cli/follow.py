"""Staying with tasks until they have ended, over restarts of the supervisor: for --wait and --follow.

A change is heard on io.graced.HTM.Watch; what was missed (before the watch stood, or because this reader was slow) is
asked for with Get. Tasks are durable, so a supervisor that is gone for a while is waited for.
"""

from __future__ import annotations

from graced.base.errors import WireError
from graced.base.record import Record
from graced.cli.app import connect, paths
from graced.cli.line import Line
from graced.cli.tasktext import ENDED
from graced.varlink.wire import VarlinkError, reply_or_raise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    from graced.base.json import JsonDict

    T = TypeVar("T")

WATCH = "io.graced.HTM.Watch"
GONE_LIMIT_SECONDS = 60.0
_PAUSE_SECONDS = 0.25
_LOOK_AGAIN_SECONDS = 1.0

EXIT_TASK_FAILED = 5
EXIT_TASK_CANCELLED = 6
EXIT_STILL_LIVE = 7


class Patience(Record):
    """Until when to stay (a `time.monotonic()`, None: for ever) and whom to tell that the supervisor is away.

    `met`: it has answered before; one that never did is not waited for.
    """

    until_s: float | None = None
    tell: Callable[[str], object] = print
    met: bool = True

    def left_s(self) -> float | None:
        """Seconds that are left, never below 0; None for ever."""
        from time import monotonic

        return None if self.until_s is None else max(0.0, self.until_s - monotonic())

    def over(self) -> bool:
        """Whether the time is up."""
        return self.left_s() == 0.0


def exit_code(states: Iterable[str]) -> int:
    """What became of tasks as an exit code; the worst counts."""
    there = set(states)
    if there & {"failed", "dead"}:
        return EXIT_TASK_FAILED
    if there - ENDED:
        return EXIT_STILL_LIVE
    return EXIT_TASK_CANCELLED if "cancelled" in there else 0


def changes(parameters: JsonDict, patience: Patience) -> Iterator[JsonDict | None]:
    """Changes as Watch tells them; None where some may have been missed: when the watch begins and after a gap.

    While the supervisor has too many watchers there is a None every second. Ends when the time is up. Raises WireError
    when the supervisor stays away for GONE_LIMIT_SECONDS.
    """
    from time import monotonic, sleep

    gone_at: float | None = None
    met = patience.met
    while not patience.over():
        try:
            with Line(paths().socket("io.graced.HTM")) as line:
                line.send(WATCH, parameters, more=True)
                for change in _replies(line, patience):
                    if gone_at is not None:
                        patience.tell("The supervisor is back.")
                    gone_at, met = None, True
                    yield change
        except VarlinkError as error:
            if error.name != "Busy":
                raise
            yield None
            sleep(_LOOK_AGAIN_SECONDS)
        except WireError as error:
            if not met or isinstance(error.__cause__, PermissionError):
                raise
            if gone_at is None:
                gone_at = monotonic()
                patience.tell(f"Waiting for the supervisor to come back: {error.message}")
            elif monotonic() - gone_at > GONE_LIMIT_SECONDS:
                raise
            sleep(_PAUSE_SECONDS)


def _replies(line: Line, patience: Patience) -> Iterator[JsonDict | None]:
    dropped = 0
    while (message := line.wait(patience.left_s())) is not None:
        reply = reply_or_raise(message)
        change, missed = reply.get("change"), int(reply.get("dropped") or 0)
        if change is None or missed != dropped:
            yield None
        dropped = missed
        if isinstance(change, dict):
            yield change
        if not message.get("continues"):
            raise WireError("the supervisor ended the watch", hint="see journalctl -u graced-supervisor")


def settle(task_ids: Iterable[str], patience: Patience, on_end: Callable[[str, str], object]) -> dict[str, str]:
    """Wait until all tasks have ended or the time is up; the last known state of each.

    `on_end(task_id, state)` is called once for each that ended. Raises as `changes`, and VarlinkError.
    """
    from time import monotonic, sleep

    states = dict.fromkeys(task_ids, "queued")
    pending = set(states)

    def note(task_id: str, state: str) -> None:
        states[task_id] = state
        if state in ENDED:
            pending.discard(task_id)
            on_end(task_id, state)

    only: JsonDict = {"task_id": next(iter(states))} if len(states) == 1 else {}
    looked_s = 0.0
    for change in changes(only, patience):
        if change is None:
            # while a busy queue drops what a slow reader has not read, one look a second is enough
            sleep(max(0.0, looked_s + _LOOK_AGAIN_SECONDS - monotonic()))
            for task_id, state in persist(lambda: _look(sorted(pending)), patience).items():
                note(task_id, state)
            looked_s = monotonic()
        elif change.get("task_id") in pending:
            note(str(change["task_id"]), str(change.get("state")))
        if not pending:
            break
    return states


def persist(ask: Callable[[], T], patience: Patience) -> T:
    """`ask`, again and again while the supervisor is away. Raises VarlinkError, WireError after GONE_LIMIT_SECONDS."""
    from time import monotonic, sleep

    begun_s = monotonic()
    while True:
        try:
            return ask()
        except WireError:
            if patience.over() or monotonic() - begun_s > GONE_LIMIT_SECONDS:
                raise
            sleep(_PAUSE_SECONDS)


def _look(task_ids: Iterable[str]) -> dict[str, str]:
    """The state of each now."""
    states = {}
    with connect("io.graced.HTM") as client:
        for task_id in task_ids:
            task = client.call("io.graced.HTM.Get", {"task_id": task_id}).get("task") or {}
            states[task_id] = str(task.get("state"))
    return states
