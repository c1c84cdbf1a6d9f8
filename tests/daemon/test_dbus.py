"""graced.host.dbus against a private dbus-daemon: a real bus, another implementation of the protocol."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import time

import pytest

from graced.base.errors import HostError
from graced.host.dbus import DBUS_NAME, DBUS_PATH, MAX_UNANSWERED, DBusError, MatchRule, SystemBus

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>custom</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow own="*"/>
<allow eavesdrop="true"/></policy>
<limit name="max_replies_per_connection">{most}</limit></busconfig>"""


class FakeTimer:
    def cancel(self):
        self.cancelled = True


@pytest.fixture
def bus_path(tmp_path):
    path = tmp_path / "bus"
    (tmp_path / "bus.conf").write_text(CONFIG.format(path=path, most=MAX_UNANSWERED))
    daemon = subprocess.Popen(
        ["/usr/bin/dbus-daemon", f"--config-file={tmp_path}/bus.conf", "--nofork", "--print-address=1"],
        stdout=subprocess.PIPE,
    )
    assert daemon.stdout.readline()  # the address is printed when it listens
    yield str(path), daemon
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()


def run_until(condition, *buses, limit_s=60.0):
    end = time.monotonic() + limit_s
    while not condition():
        left = end - time.monotonic()
        assert left > 0, "nothing happened in time"
        live = [bus for bus in buses if not bus.closed]
        deadlines = [bus.next_deadline_s() for bus in live if bus.next_deadline_s() is not None]
        wait = min([left, *[max(0.0, d - time.monotonic()) for d in deadlines]])
        readable, writable, _ = select.select(live, [bus for bus in live if bus.wants_write], [], wait)
        for bus in readable:
            bus.on_readable()
        for bus in writable:
            bus.on_writable()
        for bus in live:
            bus.expire()


class Answers(list):
    def __call__(self, reply, error):
        self.append((reply, error))


def connect(path):
    bus = SystemBus.connect(path)
    bus.flush()
    run_until(lambda: bus.unique_name, bus)
    return bus


def test_call_before_authentication_is_answered(bus_path):
    bus = SystemBus.connect(bus_path[0])
    answers = Answers()
    bus.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "GetNameOwner", "s", (DBUS_NAME,), answers)
    bus.flush()
    run_until(lambda: answers, bus)
    assert answers == [((DBUS_NAME,), None)]
    bus.close()


def test_error_answer_carries_its_name(bus_path):
    bus = connect(bus_path[0])
    answers = Answers()
    bus.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "GetNameOwner", "s", ("no.such.Name",), answers)
    run_until(lambda: answers, bus)
    reply, error = answers[0]
    assert reply is None
    assert isinstance(error, DBusError)
    assert error.name == "org.freedesktop.DBus.Error.NameHasNoOwner"
    bus.close()


def test_more_calls_than_the_bus_takes_wait_for_their_turn(bus_path):
    """A bus's limit: it refuses the call that comes while so many of the connection have no answer."""
    path, deaf = bus_path[0], connect(bus_path[0])
    bus = connect(path)
    unanswered, late, answered = Answers(), Answers(), Answers()
    for _ in range(MAX_UNANSWERED):
        bus.call(deaf.unique_name, "/x", "x.y", "Z", callback=unanswered, timeout=60.0)
    for _ in range(100):
        bus.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "GetNameOwner", "s", (DBUS_NAME,), answered)
    bus.call(deaf.unique_name, "/x", "x.y", "TooLate", callback=late, timeout=0.05)
    run_until(lambda: late, bus)
    assert late[0][1].code == "timeout"
    assert not answered
    # A call that is answered, even by an error, makes room.
    deaf.close()
    run_until(lambda: len(answered) == 100 and len(unanswered) == MAX_UNANSWERED, bus)
    assert answered == [((DBUS_NAME,), None)] * 100
    assert {error.name for _reply, error in unanswered} == {"org.freedesktop.DBus.Error.NoReply"}
    bus.close()


def test_a_call_whose_time_was_over_before_its_turn_is_never_sent(bus_path):
    listener, bus = connect(bus_path[0]), connect(bus_path[0])
    heard = []
    calls = bus._low.MessageType.method_call
    # The bus itself has a word for a new connection, sooner or later.
    listener._dispatch = lambda message: heard.append(message) if message.header.message_type is calls else None
    late = Answers()
    for _ in range(MAX_UNANSWERED):
        bus.call(listener.unique_name, "/x", "x.y", "Before", timeout=60.0)
    bus.call(listener.unique_name, "/x", "x.y", "TooLate", callback=late, timeout=0.05)
    run_until(lambda: late, bus, listener)
    run_until(lambda: len(heard) == MAX_UNANSWERED, listener)
    for number, message in enumerate(list(heard), 1000):
        listener._output += listener._wrappers.new_error(message, "x.y.No").serialise(serial=number)
    listener.flush()
    bus.call(listener.unique_name, "/x", "x.y", "After", timeout=60.0)

    def later():
        return [message.header.fields[bus._low.HeaderFields.member] for message in heard[MAX_UNANSWERED:]]

    run_until(lambda: "After" in later(), bus, listener)
    assert later() == ["After"]
    bus.close()
    listener.close()


def test_a_call_nobody_answers_ends_at_its_deadline(bus_path):
    deaf, bus = connect(bus_path[0]), connect(bus_path[0])
    answers = Answers()
    bus.call(deaf.unique_name, "/x", "x.y", "Z", callback=answers, timeout=0.05)
    run_until(lambda: answers, bus)
    assert answers[0][0] is None
    assert answers[0][1].code == "timeout"
    deaf.close()
    bus.close()


def test_of_many_properties_only_the_wanted_are_read(bus_path):
    bus = connect(bus_path[0])
    answers = Answers()
    ask = (DBUS_NAME, DBUS_PATH, "org.freedesktop.DBus.Properties", "GetAll", "s", (DBUS_NAME,), answers)
    bus.call(*ask)
    run_until(lambda: answers, bus)
    bus.read_only(frozenset({"Features", "No.Such"}))
    bus.call(*ask)
    run_until(lambda: len(answers) == 2, bus)
    (everything,), (some,) = (reply for reply, _error in answers)
    assert {"Features", "Interfaces"} <= set(everything)
    assert some == {"Features": everything["Features"]}
    bus.close()


def emit(bus, path, interface, member, body, destination=None):
    """Send a signal from `bus` by hand: the port itself never emits."""
    message = bus._wrappers.new_signal(bus._wrappers.DBusAddress(path, interface=interface), member, "s", (body,))
    if destination:
        message.header.fields[bus._low.HeaderFields.destination] = destination
    bus._serial += 1
    bus._output += message.serialise(serial=bus._serial)
    bus.flush()


def own(bus, name):
    answers = Answers()
    bus.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "RequestName", "su", (name, 0), answers)
    run_until(lambda: answers, bus)
    assert answers[0][1] is None


def test_signals_only_from_the_owner_of_the_name(bus_path):
    listener, real, forger = (connect(bus_path[0]) for _ in range(3))
    own(real, "io.graced.Test")
    heard = []
    listener.match(
        MatchRule("io.graced.Test", path="/a", interface="x.y", member="Z"), lambda s: heard.append(s.body[0])
    )
    run_until(lambda: not listener._pending, listener)
    assert listener.owner("io.graced.Test") == real.unique_name
    emit(forger, "/a", "x.y", "Z", "forged", destination=listener.unique_name)
    run_until(lambda: not forger.wants_write, forger)
    emit(real, "/other", "x.y", "Z", "other path")
    emit(real, "/a", "x.y", "Z", "true")
    run_until(lambda: heard, listener, real, forger)
    assert heard == ["true"]
    for bus in (listener, real, forger):
        bus.close()


def test_a_new_owner_is_followed(bus_path):
    listener, first, second = (connect(bus_path[0]) for _ in range(3))
    heard, owners = [], []
    listener.on_owner_changed = lambda name, new: owners.append((name, new))
    rule = MatchRule("io.graced.Test", interface="x.y")
    subscription = listener.match(rule, lambda s: heard.append(s.body[0]))
    run_until(lambda: not listener._pending, listener)
    assert listener.owner("io.graced.Test") == ""
    own(first, "io.graced.Test")
    run_until(lambda: owners, listener)
    first.close()
    run_until(lambda: len(owners) == 2, listener)
    own(second, "io.graced.Test")
    run_until(lambda: len(owners) == 3, listener)
    emit(second, "/a", "x.y", "Z", "second")
    run_until(lambda: heard, listener, second)
    assert heard == ["second"]
    assert [new for _, new in owners] == [first.unique_name, "", second.unique_name]
    listener.unmatch(subscription)
    run_until(lambda: not listener._pending, listener)
    emit(second, "/a", "x.y", "Z", "again")
    answers = Answers()
    second.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "GetId", callback=answers)
    run_until(lambda: answers, second, listener)
    assert heard == ["second"]
    listener.close()
    second.close()


def test_a_dead_bus_fails_the_calls_and_tells_once(bus_path):
    deaf, bus = connect(bus_path[0]), connect(bus_path[0])
    answers, lost = Answers(), []
    bus.on_lost = lost.append
    bus.call(deaf.unique_name, "/x", "x.y", "Z", callback=answers, timeout=60)
    bus_path[1].send_signal(signal.SIGKILL)
    run_until(lambda: lost, bus)
    assert bus.closed
    assert bus.fileno() == -1
    assert len(lost) == len(answers) == 1
    with pytest.raises(HostError, match="closed"):
        bus.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "GetId")
    deaf.close()


def test_no_bus_is_a_host_error_with_a_hint(tmp_path):
    with pytest.raises(HostError, match="No such file") as caught:
        SystemBus.connect(str(tmp_path / "nothing"))
    assert "dbus" in caught.value.hint


@pytest.mark.parametrize(
    "parts",
    [
        [b"REJECTED KERBEROS\r\n"],
        [b"x" * 9000],
        [b"OK 1234\r\n", b"l\x02\x00\x01" + b"\xff" * 64],
        [b"OK 1234\r\n", b"?\x02\x00\x01" + b"\x00" * 64],
        [b"OK 1234\r\n", b"l\x02\x00\x01" + b"\x00" * 64 + b"\xff" * 64],
    ],
)
def test_a_peer_that_is_no_bus_is_dropped(parts):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    bus = SystemBus(ours)
    lost = []
    bus.on_lost = lost.append
    bus.flush()
    for part in parts:
        assert not lost
        theirs.sendall(part)
        bus.on_readable()
    assert len(lost) == 1
    assert bus.closed
    theirs.close()


class RecordingReactor:
    """Stands in for the loop: remembers what it was asked to watch."""

    def __init__(self):
        self.readers, self.writers, self.timers = {}, {}, []

    def call_later(self, delay_s, callback):
        timer = FakeTimer()
        self.timers.append((delay_s, callback, timer))
        return timer

    def add_reader(self, fd, callback):
        self.readers[fd] = callback

    def remove_reader(self, fd):
        del self.readers[fd]

    def add_writer(self, fd, callback):
        self.writers[fd] = callback

    def remove_writer(self, fd):
        del self.writers[fd]


def test_attached_the_reactor_holds_nothing_after_close(bus_path):
    bus = SystemBus.connect(bus_path[0])
    reactor = RecordingReactor()
    bus.attach(reactor)
    assert list(reactor.readers) == [bus.fileno()]
    assert reactor.timers, "the deadline of Hello is armed"
    run_until(lambda: bus.unique_name, bus)
    bus.close()
    assert not reactor.readers
    assert not reactor.writers
