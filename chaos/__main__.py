"""graced-chaos: break units for real and show that they heal.

Exit codes: 0 every row healed in time, 1 one did not or evidence is missing, 2 usage, 3 refused on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chaos import targets
from chaos.experiment import load, names
from chaos.journal import Follower
from chaos.probes import rollback
from chaos.runner import Row, Runner
from chaos.shell import ChaosError, Refused
from chaos.shell import run as shell
from chaos.show import BOLD, Live, Paint, table
from chaos.undo import UndoJournal

if TYPE_CHECKING:
    from types import FrameType

UNDO = Path("/var/lib/graced-chaos/undo.jsonl")
MOST_REPEATS = 1000


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="graced-chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="experiments and targets on this host")
    verbs.add_parser("rollback", help="undo what a killed runner left behind")
    runs = verbs.add_parser("run", help="break targets, wait for the proof that they healed, print a table")
    runs.add_argument("--fault", action="append", choices=names(), help="only this experiment (may be repeated)")
    runs.add_argument("--unit", action="append", help="only this unit or daemon (may be repeated)")
    runs.add_argument("--json", action="store_true", help="one JSON array instead of the table")
    runs.add_argument("--watch", action="store_true", help="show what systemd and graced say while it heals")
    runs.add_argument("--repeat", type=_repeats, default=1, metavar="N", help=f"break each N times (1-{MOST_REPEATS})")
    runs.add_argument(
        "--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="longest wait for evidence (60)"
    )
    runs.add_argument("--settle", type=_seconds, default=30.0, metavar="SECONDS", help="longest wait before each (30)")
    runs.add_argument("--colour", choices=("auto", "always", "never"), default="auto")
    runs.add_argument("--host", action="store_true", help="allow it outside of a container")
    return parser.parse_args()


def _repeats(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST_REPEATS:
        raise ValueError(text)
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number <= 3600:
        raise ValueError(text)
    return number


def _refuse_a_real_host(*, allowed: bool) -> None:
    if not allowed and shell("systemd-detect-virt", "--container", check=False).strip() in {"", "none"}:
        raise Refused("this is no container: --host allows it if you mean to break services of this host")


def _paint(args: argparse.Namespace) -> Paint:
    auto = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return Paint(colour=args.colour == "always" or (args.colour == "auto" and auto))


def _run(args: argparse.Namespace, undo: UndoJournal) -> int:
    chosen = [targets.find(name) for name in args.unit] if args.unit else targets.everything()
    experiments = [load(name) for name in args.fault or names()]
    paint = _paint(args)
    live = Live(sys.stderr, paint) if args.watch else None
    rows: list[Row] = []
    with Follower(live) as follower:
        runner = Runner(undo, follower, timeout_s=args.timeout, settle_s=args.settle, live=live)
        for target in chosen:
            for experiment in experiments:
                for _ in range(args.repeat):
                    print(f"\n{paint(f'{target.unit}: {experiment.title}', BOLD)}", file=sys.stderr, flush=True)
                    rows.append(runner.run(experiment, target))
    shown = [row.to_json() for row in rows]
    print(json.dumps(shown) if args.json else f"\n{table(shown, paint)}")
    return 0 if rows and all(row.passed for row in rows) else 1


def _verb(args: argparse.Namespace) -> int:
    if args.verb == "list":
        print("experiments:", *names())
        print("targets:", *(target.unit for target in targets.everything()))
        return 0
    if os.geteuid():
        raise Refused("breaking and repairing units needs root")
    if args.verb == "run":
        _refuse_a_real_host(allowed=args.host)
    with UndoJournal(UNDO) as undo:
        for sentence in rollback(undo):
            print(sentence, file=sys.stderr, flush=True)
        code = _run(args, undo) if args.verb == "run" else 0
        if not undo.pending():
            # Old configuration, passwords and all, stays nowhere longer than it is needed.
            undo.forget()
        return code


def _leave(number: int, _frame: FrameType | None) -> None:
    # As an exception, so that the fault under way is taken back first.
    sys.exit(128 + number)


def main() -> int:
    """See the module."""
    args = _arguments()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        return _verb(args)
    except Refused as error:
        print(f"graced-chaos: {error}", file=sys.stderr)
        return 3
    except ChaosError as error:
        print(f"graced-chaos: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
