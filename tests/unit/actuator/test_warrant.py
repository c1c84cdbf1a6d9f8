"""Warrants: forged, edited, expired, replayed, for another boot, beyond what an admin allowed."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.actuator.warrant import (
    CONTEXT,
    MAX_WINDOW_US,
    Allowed,
    Nonces,
    Refused,
    Warrant,
    check_bounds,
    check_time,
    check_unit,
    open_warrant,
)
from graced.base.json import canonical
from graced.trust.keys import Signer

BOOT = "a" * 32
SIGNER = Signer(b"g" * 32, "governance", "test")
OTHER = Signer(b"o" * 32, "governance", "test")
GOOD = {
    "v": 1,
    "task_id": "task_1",
    "intent_id": None,
    "unit": "nginx.service",
    "playbook": "restore-config",
    "playbook_digest": "1" * 64,
    "profile": "nginx",
    "profile_digest": "2" * 64,
    "steps": [0, 1, 2],
    "tier": 3,
    "boot_id": BOOT,
    "not_before_boottime_us": 1_000_000,
    "not_after_boottime_us": 31_000_000,
    "nonce": "0123456789abcdef" * 2,
    "policy_rule": "rule",
    "policy_digest": "3" * 64,
}
ALLOWED = Allowed("nginx.service", 3, "nginx", "nginx.service", "2" * 64, 3, "1" * 64, 3, ("restore-config",))


def public_of(kid):
    return SIGNER.public if kid == SIGNER.kid else None


def signed(obj, signer=SIGNER):
    return signer.sign(CONTEXT, canonical(obj))


def opened(**changes):
    obj = {**GOOD, **changes}
    return open_warrant(obj, SIGNER.kid, signed(obj), public_of)


def refused(function, *arguments):
    with pytest.raises(Refused) as error:
        function(*arguments)
    return error.value.reason


def test_a_sound_warrant_opens():
    warrant = opened()
    assert isinstance(warrant, Warrant)
    assert warrant.steps == (0, 1, 2)
    check_time(warrant, BOOT, 2_000_000)
    check_bounds(warrant, ALLOWED)


def test_forged_signatures_are_refused():
    assert refused(open_warrant, GOOD, SIGNER.kid, signed(GOOD, OTHER), public_of) == "signature"
    assert refused(open_warrant, GOOD, OTHER.kid, signed(GOOD, OTHER), public_of) == "unknown-key"
    assert refused(open_warrant, GOOD, "", b"", public_of) == "unknown-key"
    assert refused(open_warrant, GOOD, SIGNER.kid, b"", public_of) == "signature"
    wrong_context = SIGNER.sign(b"graced-verdict-v1\n", canonical(GOOD))
    assert refused(open_warrant, GOOD, SIGNER.kid, wrong_context, public_of) == "signature"


@pytest.mark.parametrize("field", sorted(GOOD))
def test_every_field_is_signed(field):
    value = GOOD[field]
    changed = {str: "x", int: 7, list: [0], type(None): "intent_9"}[type(value)]
    assert refused(open_warrant, {**GOOD, field: changed}, SIGNER.kid, signed(GOOD), public_of) == "signature"
    missing = {key: item for key, item in GOOD.items() if key != field}
    assert refused(open_warrant, missing, SIGNER.kid, signed(GOOD), public_of) == "signature"
    assert refused(open_warrant, missing, SIGNER.kid, signed(missing), public_of) == "format"


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"nonce": "xyz"},
        {"nonce": "0" * 31 + "G"},
        {"steps": ["0"]},
        {"tier": "3"},
        {"command": "rm"},
        {"unit": None},
    ],
)
def test_signed_nonsense_is_refused(changes):
    obj = {**GOOD, **changes}
    assert refused(open_warrant, obj, SIGNER.kid, signed(obj), public_of) == "format"


@pytest.mark.parametrize(
    ("changes", "boot", "now_us", "reason"),
    [
        ({}, "b" * 32, 2_000_000, "boot"),
        ({}, BOOT, 999_999, "not-yet"),
        ({}, BOOT, 31_000_001, "expired"),
        ({"not_after_boottime_us": 1_000_001 + MAX_WINDOW_US}, BOOT, 2_000_000, "window"),
    ],
)
def test_time_and_boot(changes, boot, now_us, reason):
    assert refused(check_time, opened(**changes), boot, now_us) == reason


def test_the_boot_id_counts_with_and_without_dashes():
    dashed = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"
    check_time(opened(boot_id=dashed), BOOT, 1_000_000)
    check_time(opened(), dashed, 31_000_000)


@pytest.mark.parametrize(
    "unit",
    [
        "init.scope", "dbus.service", "dbus-broker.service", "systemd-journald.service", "graced-actuator.service",
        "graced.service", "dpkg-db-backup.service", "apt-daily.service", "-.slice", "nginx.socket", "user@0.service",
        "../nginx.service", "nginx", ".service", "", "getty@tty1.service", "a" * 300 + ".service",
    ],
)  # fmt: skip
def test_what_is_never_touched(unit):
    assert refused(check_unit, unit) == "denied-unit"


@pytest.mark.parametrize("unit", ["nginx.service", "redis-server.service", "ssh.service", "postgresql@15-main.service"])
def test_what_may_be_touched(unit):
    check_unit(unit)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"unit": "redis-server.service"}, "profile"),
        ({"profile": "other"}, "profile"),
        ({"profile_digest": "4" * 64}, "profile-digest"),
        ({"playbook_digest": "4" * 64}, "playbook-digest"),
        ({"playbook": "restart-unit"}, "playbook"),
        ({"tier": 4}, "tier"),
        ({"tier": -1}, "tier"),
        ({"tier": 2}, "tier"),
        ({"steps": []}, "steps"),
        ({"steps": [0, 3]}, "steps"),
        ({"steps": [1, 0]}, "steps"),
        ({"steps": [0, 0]}, "steps"),
        ({"steps": [-1, 0]}, "steps"),
    ],
)
def test_a_stolen_key_is_held_to_what_the_admin_allowed(changes, reason):
    assert refused(check_bounds, opened(**changes), ALLOWED) == reason


def test_a_profile_for_another_unit_is_refused():
    assert refused(check_bounds, opened(), ALLOWED.replace(profile_unit="redis-server.service")) == "profile"


@given(st.lists(st.integers(-3, 6), max_size=6))
def test_steps_must_be_ascending_indexes(steps):
    fine = bool(steps) and steps == sorted(set(steps)) and all(0 <= step < 3 for step in steps)
    warrant = Warrant.from_json({**GOOD, "steps": steps})
    if fine:
        check_bounds(warrant, ALLOWED)
    else:
        assert refused(check_bounds, warrant, ALLOWED) == "steps"


@pytest.fixture
def nonce_file():
    import shutil
    import tempfile

    directory = tempfile.mkdtemp(prefix="graced-nonces-", dir=os.path.expanduser("~"))
    yield f"{directory}/nonces"
    shutil.rmtree(directory)


def test_a_nonce_is_good_once_also_after_a_restart(nonce_file):
    Nonces(nonce_file, BOOT, 0).use("n1", 100)
    again = Nonces(nonce_file, BOOT, 50)
    assert refused(again.use, "n1", 100) == "replayed"
    again.use("n2", 200)
    assert refused(again.use, "n2", 200) == "replayed"


def test_nonces_that_are_void_anyway_are_forgotten(nonce_file):
    first = Nonces(nonce_file, BOOT, 0)
    first.use("old", 10)
    first.use("new", 1000)
    Nonces(nonce_file, BOOT, 500)
    with open(nonce_file) as file:
        assert file.read() == f"{BOOT} new 1000\n"
    Nonces(nonce_file, "c" * 32, 0)
    assert os.path.getsize(nonce_file) == 0


@given(st.binary(max_size=100))
def test_a_damaged_nonce_file_does_not_stop_the_start(data):
    import tempfile

    with tempfile.TemporaryDirectory(prefix="graced-nonces-", dir=os.path.expanduser("~")) as directory:
        with open(f"{directory}/nonces", "wb") as file:
            file.write(data)
        nonces = Nonces(f"{directory}/nonces", BOOT, 0)
        nonces.use("n", 10)
        assert refused(nonces.use, "n", 10) == "replayed"
