"""gracectl top: what a frame shows, and that the terminal is as it was before, however it ends."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.clock import iso
from graced.cli import board
from graced.cli.tasktext import STATES
from graced.varlink.wire import VarlinkError

ROOT = Path(__file__).resolve().parents[3]
NOW_S = 1_763_823_845.0
LIMIT_S = 60.0


def by(**counts: int) -> dict[str, int]:
    return {state: counts.get(state, 0) for state in STATES}


def stamp(seconds: float, now_s: float = NOW_S) -> str:
    return iso(int((now_s + seconds) * 1e6))


STATS = {
    "tasks": {
        "critical": by(leased=1),
        "high": by(queued=12, done=345),
        "normal": by(queued=123_456, leased=2, dead=2, done=9_999_999),
        "low": by(waiting=4),
    },
    "handlers": {"heal": {"queued": 2, "leased": 3}, "mail": {"queued": 4, "done": 3}, "backup": {"dead": 2}},
    "workers": [{"worker": "w1", "handler": "heal", "credits": 4, "leased": 3}],
    "modes": {"mail": {"mode": "paused", "reason": "it moves", "by": "root", "since": stamp(-300)}},
    "oldest_queued_seconds": {"critical": None, "high": 3.2, "normal": 12.0, "low": None},
    "archive": {"tasks": 7, "bytes": 1000},
    "finished_per_second": 12.5,
    "sla_breached": 1,
    "retries": 3,
    "lost": 0,
    "refused": 0,
    "draining": False,
    "error": "",
}


def task(number: int, slack_s: float = 60.0, **fields: object) -> dict:
    row = {"id": f"task_{number}", "state": "leased", "priority": "normal", "handler": "heal", "task_type": "t"}
    times = {"started_at": stamp(-5.0), "deadline_at": stamp(slack_s)}
    return {**row, **times, "attempts": 1, "worker": "w1", "context": {}, **fields}


def sample(at_s: float = 10.0, running: list | None = None, **stats: object) -> board.Sample:
    return board.Sample(stats={**STATS, **stats}, running=running or [], wall_s=NOW_S, at_s=at_s)


def text(frame: list[tuple[str, str]]) -> str:
    return "\n".join(line for line, _ in frame)


def test_a_frame_shows_everything_that_matters() -> None:
    running = [task(1, 90.0), task(2, -12.0), task(3, 30.0, progress={"percent": 40.0, "message": "copying"})]
    frame = board.frame(None, sample(running=running), board.Room(columns=90, rows=30))
    shown = text(frame)
    assert "123475 live: 123468 queued, 4 waiting, 3 leased" in shown
    assert "ended: 2 dead, 0 failed, 10.00M done" in shown
    assert "submitted -  finished 12/s  oldest 12s  late 1  retries 3" in shown
    assert re.search(r"^high +12 +0 +0 +345 +0 +0 +0 +3\.2s$", shown, re.MULTILINE)
    assert re.search(r"^mail +4 +0 +0 +0 +0 +0 +paused 5m by root: it moves$", shown, re.MULTILINE)
    assert re.search(r"^heal +2 +0 +3 +0 +1 +1 +-$", shown, re.MULTILINE)
    # the most urgent first, those past their deadline with a minus and marked
    order = [(line.split()[0], kind) for line, kind in frame if line.startswith("task_")]
    assert order == [("task_2", "bad"), ("task_3", ""), ("task_1", "")]
    assert re.search(r"^task_2 .* 5\.0s +-12s +1 +w1 +-$", shown, re.MULTILINE)
    assert "40 % copying" in shown


def test_rates_are_between_two_samples_and_count_what_went_to_the_archive() -> None:
    later = {**STATS["tasks"], "high": by(queued=22, done=360)}
    now = sample(at_s=15.0, tasks=later, archive={"tasks": 12, "bytes": 1})
    assert board.rates(sample(at_s=10.0), now) == (pytest.approx(30 / 5), pytest.approx(20 / 5))
    assert board.rates(None, now) == (None, 12.5)
    gone = sample(at_s=15.0, tasks={word: by() for word in board.PRIORITIES})
    assert board.rates(sample(at_s=10.0), gone) == (None, None)


def test_what_is_wrong_is_on_top() -> None:
    wrong = sample(error="disk full", draining=True, modes={"*": {"mode": "drained", "reason": "moving", "by": "root"}})
    lines = board.frame(None, wrong, board.Room(columns=80, rows=24), trouble=("NO CONNECTION",))
    assert [line for line, kind in lines[:8] if kind in {"bad", "warn"}] == [
        "ended: 2 dead, 0 failed, 10.00M done, 0 cancelled",
        "NO CONNECTION",
        "the store refuses: disk full",
        "the supervisor is shutting down: nothing is given out",
        "all handlers: drained by root: moving",
    ]


def test_what_has_no_room_is_counted() -> None:
    handlers = {f"handler-{number}": {"queued": number} for number in range(30)}
    running = [task(number) for number in range(40)]
    tasks = {**STATS["tasks"], "low": by(leased=500)}
    frame = board.frame(None, sample(running=running, handlers=handlers, tasks=tasks), board.Room(columns=80, rows=30))
    assert len(frame) == 30
    said = [int(found[1]) for line, _ in frame if (found := re.fullmatch(r"and (\d+) more", line))]
    shown = [sum(line.startswith(word) for line, _ in frame) for word in ("handler-", "task_")]
    # mail is paused, heal has a worker
    assert said == [32 - sum(line.startswith(("handler-", "mail ", "heal ")) for line, _ in frame), 503 - shown[1]]


WORDS = st.text(max_size=90)
NUMBERS = st.integers(0, 10**12)


@given(
    columns=st.integers(1, 200),
    rows=st.integers(1, 60),
    names=st.lists(WORDS, max_size=20),
    reason=WORDS,
    number=NUMBERS,
    tasks=st.integers(0, 30),
)
def test_a_frame_always_fits(columns: int, rows: int, names: list[str], reason: str, number: int, tasks: int) -> None:
    now = sample(
        running=[task(index, worker=reason) for index in range(tasks)],
        handlers={name: {"queued": number, "leased": number} for name in names},
        modes={name: {"mode": "paused", "reason": reason, "by": reason, "since": reason} for name in names},
        error=reason,
    )
    frame = board.frame(None, now, board.Room(columns=columns, rows=rows), trouble=(reason,))
    assert 0 < len(frame) <= rows
    assert all(len(line) <= columns and line.isprintable() for line, _ in frame)


@pytest.mark.parametrize("stats", [{}, {"tasks": None, "handlers": [], "modes": 7, "workers": None}])
def test_an_answer_that_says_little_is_survived(stats: dict) -> None:
    now = board.Sample(stats=stats, running=[{}], wall_s=NOW_S, at_s=1.0)
    assert "0 live" in text(board.frame(now, now.replace(at_s=2.0), board.Room(columns=80, rows=24)))


# -- on a terminal ----------------------------------------------------------------------------------------------------


class Terminal:
    """As much of a terminal as the view needs: cells, cursor, modes. Fails on any sequence it does not know."""

    def __init__(self, columns: int, rows: int) -> None:
        self.modes = {"25": True, "7": True, "1049": False}
        self.resize(columns, rows)
        self._rest = ""
        self.seen = ""

    def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.cells = [[" "] * columns for _ in range(rows)]
        self.row = self.column = 0

    @property
    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.cells]

    def feed(self, data: str) -> None:
        self.seen += data
        data = self._rest + data
        while data:
            if not data.startswith("\x1b"):
                self._put(data[0])
                data = data[1:]
                continue
            found = re.match(r"\x1b\[(\??[0-9;]*)([A-Za-z])", data)
            if found is None:
                assert len(data) < 12, repr(data[:20])
                break
            self._control(found[1], found[2])
            data = data[found.end() :]
        self._rest = data

    def _put(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.row = min(self.row + 1, self.rows - 1)
        else:
            assert char.isprintable(), repr(char)
            self.cells[self.row][min(self.column, self.columns - 1)] = char
            self.column += 1

    def _control(self, numbers: str, verb: str) -> None:
        if verb in "hl":
            assert numbers[1:] in self.modes
            self.modes[numbers[1:]] = verb == "h"
        elif verb == "H":
            self.row, self.column = (int(number) - 1 for number in numbers.split(";"))
            assert self.row < self.rows
        elif verb == "K":
            self.cells[self.row][min(self.column, self.columns - 1) :] = [" "] * max(1, self.columns - self.column)
        elif verb == "J":
            self.cells = [[" "] * self.columns for _ in range(self.rows)]
        else:
            assert verb == "m"


RUN = """if True:
    import fcntl, sys, termios
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    sys.argv = ["gracectl", *sys.argv[1:]]
    from graced.cli.main import main
    main()
"""

# As RUN below a shell: Ctrl-Z stops the view, a line of input lets it go on.
RUN_IN_SHELL = """if True:
    import fcntl, os, signal, sys, termios
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        sys.argv = ["gracectl", *sys.argv[1:]]
        from graced.cli.main import main
        main()
    while os.WIFSTOPPED(status := os.waitpid(child, os.WUNTRACED)[1]):
        os.tcsetpgrp(0, os.getpgrp())
        os.write(1, b"stopped")
        os.read(0, 10)
        os.tcsetpgrp(0, child)
        os.kill(child, signal.SIGCONT)
    sys.exit(os.waitstatus_to_exitcode(status))
"""


class Session:
    """gracectl in a session of its own on a pseudo terminal."""

    def __init__(self, *arguments: str, columns: int = 80, rows: int = 24, run: str = RUN, **environment: str) -> None:
        self.master, self.slave = os.openpty()
        self.terminal = Terminal(columns, rows)
        self._set_size(columns, rows)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", run, *arguments],
            stdin=self.slave,
            stdout=self.slave,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "LC_ALL": "C.UTF-8", **environment},
        )

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        self.terminal.resize(columns, rows)
        self._set_size(columns, rows)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def until(self, what: Callable[[Terminal], object]) -> Terminal:
        """Take what it writes until `what` holds."""
        end = time.monotonic() + LIMIT_S
        while not what(self.terminal):
            ready = select.select([self.master], [], [], max(0.0, end - time.monotonic()))[0]
            assert ready, f"nothing more comes: {self.terminal.lines}"
            self.terminal.feed(os.read(self.master, 1 << 16).decode())
        return self.terminal

    def shown(self, words: str) -> Terminal:
        return self.until(lambda terminal: any(words in line for line in terminal.lines))

    def end(self) -> tuple[int, str]:
        """(exit status, stderr); the terminal must be as it was."""
        _, stderr = self.process.communicate(timeout=LIMIT_S)
        self.until(lambda terminal: not terminal.modes["1049"])
        assert self.terminal.modes == {"25": True, "7": True, "1049": False}
        assert termios.tcgetattr(self.slave) == self.before
        return self.process.returncode, stderr

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=LIMIT_S)
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def session(run) -> Iterator[Callable[..., Session]]:
    sessions: list[Session] = []

    def start(*arguments: str, **options: object) -> Session:
        sessions.append(Session(*arguments, **options))
        return sessions[-1]

    yield start
    for one in sessions:
        one.close()


@pytest.fixture
def queue(graced):
    graced.answers |= {"HTM.Stats": {"stats": STATS}, "HTM.List": {"tasks": [task(7)]}}
    return graced


def test_q_leaves_the_terminal_as_it_was(queue, session) -> None:
    top = session("top")
    terminal = top.shown("task_7")
    assert terminal.modes == {"25": False, "7": False, "1049": True}
    assert not termios.tcgetattr(top.slave)[3] & (termios.ECHO | termios.ICANON)
    top.type(b"q")
    assert top.end() == (0, "")


@pytest.mark.parametrize(
    ("keys", "number", "status"),
    [
        (b"\x03", None, 0),
        (None, signal.SIGINT, 0),
        (None, signal.SIGTERM, -signal.SIGTERM),
        (None, signal.SIGHUP, -signal.SIGHUP),
        (b"\x1c", None, -signal.SIGQUIT),
    ],
)
def test_every_way_out_gives_the_terminal_back(queue, session, keys, number, status) -> None:
    top = session("top")
    top.shown("task_7")
    if keys is not None:
        top.type(keys)
    else:
        top.process.send_signal(number)
    assert top.end() == (status, "")


def test_only_what_changed_is_drawn(queue, session) -> None:
    top = session("top", "--interval", "0.1")
    top.shown("task_7")
    top.terminal.seen = ""
    queue.answers["HTM.List"] = {"tasks": [task(8)]}
    terminal = top.shown("task_8")
    assert "task_7" not in " ".join(terminal.lines)
    assert "\x1b[2J" not in terminal.seen
    assert "critical" not in terminal.seen
    assert any(line.startswith("critical") for line in terminal.lines)


def test_a_resize_is_followed_at_once(queue, session) -> None:
    top = session("top", "--interval", "3600")
    top.shown("task_7")
    top.resize(120, 40)
    terminal = top.shown("task_7")
    assert terminal.lines[0].startswith("graced tasks")
    top.resize(30, 8)
    terminal = top.shown("graced tasks")
    assert terminal.lines[-1] != ""
    top.type(b"q")
    assert top.end() == (0, "")


def test_space_asks_at_once(queue, session) -> None:
    top = session("top", "--interval", "3600")
    top.shown("task_7")
    queue.answers["HTM.List"] = {"tasks": [task(8)]}
    top.type(b" ")
    top.shown("task_8")


def test_a_lost_connection_is_said_and_found_again(queue, session) -> None:
    top = session("top", "--interval", "0.1")
    top.shown("task_7")
    queue.close()
    terminal = top.shown("NO CONNECTION")
    assert any("task_7" in line for line in terminal.lines)
    queue.answers["HTM.List"] = {"tasks": [task(9)]}
    queue.serve("io.graced.Supervisor")
    top.shown("task_9")
    top.until(lambda terminal: not any("NO CONNECTION" in line for line in terminal.lines))
    top.type(b"q")
    assert top.end() == (0, "")


def test_an_error_in_the_middle_is_said(queue, session) -> None:
    top = session("top", "--interval", "0.1")
    top.shown("task_7")
    queue.answers["HTM.Stats"] = VarlinkError("io.graced.HTM.Unavailable", {"reason": "the disk is full"})
    top.shown("the disk is full")
    top.process.send_signal(signal.SIGTERM)
    assert top.end() == (-signal.SIGTERM, "")


def test_an_answer_that_cannot_be_shown_leaves_the_terminal_sane(queue, session) -> None:
    top = session("top", "--interval", "0.1")
    top.shown("task_7")
    queue.answers["HTM.Stats"] = {"stats": {**STATS, "workers": 7}}
    status, stderr = top.end()
    assert status == 1
    assert "TypeError" in stderr


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(queue, session) -> None:
    top = session("top", run=RUN_IN_SHELL)
    top.shown("task_7")
    top.type(b"\x1a")
    terminal = top.until(lambda terminal: terminal.seen.endswith("stopped"))
    assert terminal.modes == {"25": True, "7": True, "1049": False}
    assert termios.tcgetattr(top.slave) == top.before
    terminal.resize(80, 24)
    top.type(b"\n")
    top.shown("task_7")
    assert terminal.modes == {"25": False, "7": False, "1049": True}
    top.type(b"q")
    assert top.end() == (0, "")


def test_without_colours_there_are_none(queue, session) -> None:
    top = session("top", NO_COLOR="1")
    terminal = top.shown("task_7")
    assert not re.search(r"\x1b\[[0-9;]*m", terminal.seen)


def test_one_frame_without_a_terminal(ctl, queue) -> None:
    for arguments in (["top"], ["top", "--once"]):
        shown = ctl(*arguments)
        assert (shown.exit_code, shown.stderr) == (0, "")
        assert "task_7" in shown.stdout
    assert ctl("top", "--json=short").json == {"stats": STATS, "running": [task(7)]}


def test_one_frame_on_a_dumb_terminal(queue, session) -> None:
    top = session("top", TERM="dumb")
    terminal = top.until(lambda terminal: "task_7" in terminal.seen)
    assert top.process.wait(LIMIT_S) == 0
    assert "\x1b" not in terminal.seen


def test_no_daemon_is_a_sentence(ctl, run) -> None:
    failed = ctl("top")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert str(run) in failed.stderr
    assert "next: " in failed.stderr
