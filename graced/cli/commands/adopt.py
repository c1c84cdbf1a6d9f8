"""gracectl adopt and release: put a unit into graced's care, and take it out again."""

from __future__ import annotations

import os

import click

from graced.cli.app import Failure, call, failure_of, need_root, paths, verbose_option
from graced.cli.output import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.base.json import JsonDict
    from graced.cli.adoption import Hands
    from graced.heal.profile import Profile
    from graced.heal.watch import Watch

SNAPSHOT_LIMIT_SECONDS = 60.0

_TIERS = {
    0: "watch only: findings are recorded, nothing is suggested or done",
    1: "watch and suggest: an incident says what would help, nothing is done",
    2: "restart, reload, reset-failed, kill of a hung unit",
    3: "tier 2, and put back the last-known-good configuration (the rejected file is kept)",
    4: "tier 3, and playbooks of tier 4 once a person approved each",
}


@click.command()
@click.argument("unit")
@click.option("--tier", type=click.IntRange(0, 4), help="How much graced may do by itself (default 3; see graced(8)).")
@click.option("--profile", "profile_name", metavar="NAME", help="The profile to use; default: the one made for UNIT.")
@click.option("--refresh", is_flag=True, help="Adopt again: take the present configuration as last-known-good.")
@verbose_option
def adopt(unit: str, tier: int | None, profile_name: str | None, refresh: bool) -> None:
    """Put UNIT (such as nginx) into graced's care. Needs root.

    Its present configuration becomes the last-known-good one, so adopt a unit while it is well. Either everything
    is set up or nothing is.
    """
    from graced.cli import adoption

    need_root("adopt")
    name = _healable(unit)
    with adoption.alone(paths().etc, say):
        say(_adopt(unit, name, tier, profile_name, refresh=refresh))


def _adopt(unit: str, name: str, tier: int | None, profile_name: str | None, *, refresh: bool) -> str:
    from graced.cli import adoption
    from graced.cli.watches import choose_profile, watch_name

    present = _present(name)
    if present is not None and not refresh:
        raise Failure(f"{name} is adopted already", f"gracectl adopt {unit} --refresh, or gracectl release {unit}")
    if present is None and refresh:
        raise Failure(f"{name} is not adopted, so there is nothing to refresh", f"gracectl adopt {unit}")
    profile = choose_profile(name, profile_name or (present.profile if present else None), paths())
    _well(name)
    path = present.path if present else f"{paths().watch_dir()}/{watch_name(name)}.toml"
    watch = _watch(
        path, name, profile, tier if tier is not None else present.tier if present else adoption.DEFAULT_TIER
    )
    digest = adoption.adopt(watch, profile, hands())
    return _done(watch, profile, digest)


@click.command()
@click.argument("unit")
@verbose_option
def release(unit: str) -> None:
    """Take UNIT out of graced's care: it is only observed from now on. Needs root.

    Its configuration stays as it is; graced's copies of it are deleted.
    """
    from graced.cli import adoption
    from graced.cli.units import service_name

    need_root("release")
    name = service_name(unit)
    with adoption.alone(paths().etc, say):
        present = _present(name)
        if present is None:
            raise Failure(f"{name} is not adopted", "gracectl status lists the adopted units")
        left = adoption.release(name, present.path, hands())
    if left:
        raise Failure(f"{name} was not released cleanly: {'; '.join(left)}", "systemctl status graced.target")
    say(f"{name} is released: graced only observes it now.")


def hands() -> Hands:
    """systemctl and the daemons of this host."""
    from graced.base.errors import GracedError, HostError
    from graced.cli import units
    from graced.cli.adoption import Hands

    def ask(method: str, parameters: JsonDict) -> JsonDict:
        try:
            return call(method, parameters, timeout_s=SNAPSHOT_LIMIT_SECONDS)
        except GracedError as error:
            said = failure_of(error)
            raise HostError(said.message, hint=said.hint) from error

    return Hands(systemctl=units.systemctl, call=ask)


def _healable(unit: str) -> str:
    from graced.actuator.warrant import check_unit
    from graced.base.errors import GracedError
    from graced.cli.units import service_name

    name = service_name(unit)
    try:
        check_unit(name)
    except GracedError as error:
        raise Failure(
            f"{name} cannot be adopted: {error.message}", "graced never touches what the host stands on"
        ) from error
    return name


def _present(unit: str) -> Watch | None:
    from graced.cli.watches import read_watches

    return next((watch for watch in read_watches(paths().watch_dir()) if watch.unit == unit), None)


def _well(unit: str) -> None:
    from graced.cli import units

    state = units.show([unit]).get(unit)
    if state is None or state.load_state == "not-found":
        raise Failure(f"there is no unit {unit} on this host", "systemctl list-unit-files --type=service")
    if state.unit != unit:
        raise Failure(f"{unit} is another name of {state.unit}", f"gracectl adopt {state.unit}")
    if state.load_state != "loaded":
        raise Failure(f"{unit} is {state.load_state}", f"systemctl status {unit}")
    if state.state != "active":
        raise Failure(
            f"{unit} is {state.state}; only a unit that serves can show what its good state is",
            f"systemctl start {unit}, then adopt it",
        )


def _watch(path: str, unit: str, profile: Profile, tier: int) -> Watch:
    import time

    from graced.base.clock import iso
    from graced.heal.watch import Watch

    by = os.environ.get("SUDO_UID", "")
    uid = int(by) if by.isdigit() and int(by) < (1 << 32) - 1 else os.getuid()
    return Watch(
        unit=unit,
        profile=profile.name,
        tier=tier,
        adopted_at=iso(time.time_ns() // 1000),
        adopted_by=uid,
        path=path,
    )


def _done(watch: Watch, profile: Profile, digest: JsonDict) -> str:
    from graced.base.words import counted
    from graced.cli.watches import watched_paths

    count = len(digest.get("files") or [])
    copied = counted(count, "file") if profile.config_paths else "none, the profile names no configuration"
    probes = ", ".join(f"{probe.kind} {probe.address}" for probe in profile.probes) or "none"
    lines = [
        f"{watch.unit} is adopted with profile {watch.profile}, tier {watch.tier}.",
        f"  will do:      {_TIERS[watch.tier]}",
        f"  playbooks:    {', '.join(profile.playbooks) or 'none'}",
        f"  watches:      {', '.join(watched_paths(profile.config_paths)) or 'no files'}; probe: {probes}",
        f"  last-known-good copy: {copied}",
        "  will not:     start it after you stopped or masked it, act while apt or dpkg is at work or graced is",
        "                paused, or lose a file you wrote",
        f"next: gracectl status; to take it out again: gracectl release {watch.unit}",
    ]
    return "\n".join(lines)
