from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import HostError
from graced.host import systemd
from graced.host.dbus import DBusError

SHOWN = """MainPID=0
NRestarts=3
ExecMainStartTimestampMonotonic=15482373210
ExecMainExitTimestampMonotonic=15482999999
ExecMainCode=2
ExecMainStatus=9
Result=signal
Id=nginx.service
LoadState=loaded
ActiveState=failed
SubState=failed
UnitFileState=enabled
InvocationID=
StateChangeTimestampMonotonic=15483000000

Id=no-such.service
LoadState=not-found
ActiveState=inactive
"""


def test_show_of_two_units():
    nginx, missing = systemd.parse_show(SHOWN)
    assert nginx["Id"] == "nginx.service"
    assert nginx["NRestarts"] == 3
    assert nginx["ExecMainExitTimestampMonotonic"] == 15482999999
    assert nginx["InvocationID"] == ""
    assert missing == {"Id": "no-such.service", "LoadState": "not-found", "ActiveState": "inactive"}


def test_unset_numbers_are_zero():
    assert systemd.parse_show("MainPID=[not set]\nJob=\n") == [{"MainPID": 0, "Job": 0}]


def test_a_number_that_is_none_is_an_error():
    with pytest.raises(HostError, match="NRestarts"):
        systemd.parse_show("NRestarts=many\n")


def test_empty_output_is_no_unit():
    assert systemd.parse_show("") == []


def test_show_without_units_is_refused():
    with pytest.raises(ValueError, match="no units"):
        systemd.show_argv([])


@given(st.text(max_size=400))
def test_show_takes_any_text(text):
    try:
        units = systemd.parse_show(text)
    except HostError:
        return
    for unit in units:
        assert set(unit) <= set(systemd.PROPERTIES)


VALUES = {
    "str": st.text(alphabet=st.characters(blacklist_characters="\n", blacklist_categories=("Cs",))),
    "int": st.integers(0, 2**64 - 1),
    "job": st.integers(0, 2**32 - 1),
    "id": st.just("ab" * 16),
}


@given(st.lists(st.fixed_dictionaries({name: VALUES[kind] for name, kind in systemd.PROPERTIES.items()}), max_size=4))
def test_show_reads_back_what_was_written(units):
    text = "\n".join("".join(f"{k}={v}\n" for k, v in unit.items()) for unit in units)
    assert systemd.parse_show(text) == units


@pytest.mark.parametrize(
    ("unit", "path"),
    [
        ("nginx.service", "/org/freedesktop/systemd1/unit/nginx_2eservice"),
        ("dbus-org.x.service", "/org/freedesktop/systemd1/unit/dbus_2dorg_2ex_2eservice"),
        ("1a_b@c.service", "/org/freedesktop/systemd1/unit/_31a_5fb_40c_2eservice"),
    ],
)
def test_bus_paths(unit, path):
    assert systemd.bus_path_for_unit(unit) == path


@given(st.text(alphabet=st.characters(blacklist_categories=("Cs",))))
def test_bus_path_is_plain_and_reversible(unit):
    path = systemd.bus_path_for_unit(unit)
    assert all(c in systemd._PLAIN or c in "_/" for c in path)
    assert systemd.unit_for_bus_path(path) == unit


@pytest.mark.parametrize(
    "path",
    [
        "/x",
        "/org/freedesktop/systemd1/unit/a_2",
        "/org/freedesktop/systemd1/unit/a_zz",
        "/org/freedesktop/systemd1/unit/_ff",
    ],
)
def test_paths_of_nothing(path):
    with pytest.raises(HostError):
        systemd.unit_for_bus_path(path)


@pytest.mark.parametrize("name", ["nginx.service", "a@b.service", "x.socket", "sys-devices-a\\x2db.device"])
def test_unit_names(name):
    assert systemd.is_unit_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nginx",
        ".service",
        "a b.service",
        "../x.service",
        "a@.service",
        "@a.service",
        "--all",
        "x.conf",
        "a" * 250 + ".service",
        "a\n.service",
        "*.service",
    ],
)
def test_not_unit_names(name):
    assert not systemd.is_unit_name(name)


def test_changed_properties_have_the_same_form_as_shown_ones():
    changed = {
        "ActiveState": ("s", "failed"),
        "MainPID": ("u", 0),
        "InvocationID": ("ay", b"\x01\xff"),
        "Job": ("(uo)", (7, "/org/freedesktop/systemd1/job/7")),
        "Conditions": ("a(s)", []),
    }
    assert systemd.parse_changed(changed) == {"ActiveState": "failed", "MainPID": 0, "InvocationID": "01ff", "Job": 7}


class Bus:
    """Records calls and matches; the test plays systemd."""

    def __init__(self):
        self.calls, self.matches = [], []

    def read_only(self, names):
        assert set(systemd.PROPERTIES) <= names

    def call(self, destination, path, interface, member, signature="", body=(), callback=None, timeout=5.0):
        self.calls.append((member, body, callback))

    def match(self, rule, callback):
        self.matches.append((rule, callback))

    def signal(self, member, body):
        from graced.host.dbus import Signal

        signal = Signal("owner", systemd.MANAGER_PATH, systemd.MANAGER, member, body)
        for rule, callback in self.matches:
            if rule.accepts(signal):
                callback(signal)


def test_a_job_ends_with_its_own_result():
    bus = Bus()
    manager = systemd.Manager(bus)
    answers = []
    manager.run_job("RestartUnit", "a.service", lambda result, error: answers.append((result, error)))
    member, body, reply = bus.calls[-1]
    assert (member, body) == ("RestartUnit", ("a.service", "replace"))
    reply(("/job/8",), None)
    bus.signal("JobRemoved", (7, "/job/7", "a.service", "done"))
    assert not answers
    bus.signal("JobRemoved", (8, "/job/8", "a.service", "failed"))
    assert answers == [("failed", None)]


def test_a_job_that_ended_before_its_reply():
    bus = Bus()
    manager = systemd.Manager(bus)
    answers = []
    manager.run_job("StartUnit", "a.service", lambda result, error: answers.append(result))
    bus.signal("JobRemoved", (8, "/job/8", "a.service", "done"))
    bus.calls[-1][2](("/job/8",), None)
    assert answers == ["done"]


def test_a_refused_job_reports_the_error():
    bus = Bus()
    answers = []
    systemd.Manager(bus).run_job("StartUnit", "a.service", lambda result, error: answers.append((result, error)))
    problem = HostError("no")
    bus.calls[-1][2](None, problem)
    assert answers == [(None, problem)]


def test_to_be_subscribed_already_is_to_be_subscribed():
    bus, answers = Bus(), []
    systemd.Manager(bus).subscribe(answers.append)
    reply = bus.calls[-1][2]
    reply(None, DBusError("org.freedesktop.systemd1.AlreadySubscribed", "Client is already subscribed."))
    refused = DBusError("org.freedesktop.DBus.Error.AccessDenied", "no")
    reply(None, refused)
    reply((), None)
    assert answers == [None, refused, None]
