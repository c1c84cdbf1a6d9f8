"""gracectl policy: check, test and explain the rules, and replay what was decided against changed ones."""

from __future__ import annotations

import click

from graced.cli.app import EXIT_FAILED, Failure, json_option
from graced.cli.output import printable, say, show, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.base.json import JsonDict

READ_AT_ONCE = 500

_DIRECTORY = click.argument("directory", type=click.Path(exists=True, file_okay=False), required=False)


@click.group()
def policy() -> None:
    """Look after the rules that say what graced may do by itself."""


@policy.command(epilog="Exit status: 0 when all is well, 1 when anything is wrong.")
@_DIRECTORY
@json_option
@click.pass_context
def check(context: click.Context, directory: str | None, form: str) -> None:
    """Report every mistake in the policies, as file:line: message.

    With DIRECTORY, as if it were /etc/graced/policy.d: try a change before it counts.
    """
    from graced.cli.app import paths
    from graced.cli.policying import check_policies, directories

    problems, count = check_policies(directories(paths(), directory))
    human = "\n".join(printable(str(problem)) for problem in problems)
    show([problem.to_json() for problem in problems], form, human)
    if problems:
        context.exit(EXIT_FAILED)
    if form == "off":
        say(f"{count} policy files are well. Their tests: gracectl policy test")


@policy.command(epilog="Exit status: 0 when every test passes, 1 when one fails or a file cannot be used.")
@_DIRECTORY
@json_option
@click.pass_context
def test(context: click.Context, directory: str | None, form: str) -> None:
    """Run the tests that stand in tests/ beside the policies.

    With DIRECTORY, as if it were /etc/graced/policy.d. An own file of tests replaces a shipped one of the same name.
    """
    from graced.cli.app import paths
    from graced.cli.policying import directories, run_tests

    failed, problems, count = run_tests(directories(paths(), directory))
    lines = [f"{one.path}: {one.name}: {one.reason}" for one in failed] + [str(problem) for problem in problems]
    found = {
        "tests": count,
        "failed": [one.to_json() for one in failed],
        "problems": [problem.to_json() for problem in problems],
    }
    show(found, form, "\n".join(printable(line) for line in lines))
    if lines:
        context.exit(EXIT_FAILED)
    if form == "off":
        say(f"{count} tests passed.")


@policy.command(epilog="Example: gracectl policy explain nginx restart-unit --finding unit.failed")
@click.argument("unit")
@click.argument("playbook")
@click.option("--finding", default="", help="What it would be for; the playbook's first trigger when not given.")
@click.option("--origin", type=click.Choice(["brain", "human", "drill"]), default="brain", help="Who would want it.")
@json_option
def explain(unit: str, playbook: str, finding: str, origin: str, form: str) -> None:
    """Tell what Governance would decide now on PLAYBOOK for UNIT, and why. Nothing is done, counted or recorded."""
    from graced.cli.app import call
    from graced.cli.policying import plan_for
    from graced.cli.units import service_name

    files = {kind: call("io.graced.Code.List", {"kind": kind})["files"] for kind in ("watch", "profile", "playbook")}
    plan = plan_for(service_name(unit), playbook, finding, origin, files)
    reply = call("io.graced.Governance.Explain", {"plan": plan})
    show({"plan": plan, **reply}, form, "\n".join(printable(line) for line in _told(plan, reply)))


def _told(plan: JsonDict, reply: JsonDict) -> list[str]:
    facts, rules = reply["facts"], reply["rules"]
    lines = [f"{reply['effect']}: {reply['reason']} ({reply['rule']})"]
    if reply.get("approvals"):
        lines.append(f"It waits for the approval of {reply['approvals']}: gracectl approvals, once it was asked for.")
    if reply.get("shadow"):
        lines.append("The host is in shadow: it is decided and recorded, and nothing is done.")
    lines.append(f"The rules alone say {rules['effect']} ({rules['rule'] or 'no rule matches'}).")
    lines.append(
        f"They see {plan['playbook']} ({', '.join(facts['verbs'])}) on {plan['unit']} for {plan['finding']}: "
        f"risk {plan['risk']}, tier {plan['tier']}, origin {plan['origin']}."
    )
    for what, key in (("Host", "host"), ("Open windows", "open_windows"), ("Windows in doubt", "unclear_windows")):
        if facts[key]:
            lines.append(f"{what}: {', '.join(facts[key])}.")
    return lines


@policy.command(epilog="Exit status: 0 when nothing would differ, 1 when something would.")
@_DIRECTORY
@json_option
@click.pass_context
def replay(context: click.Context, directory: str | None, form: str) -> None:
    """Judge every recorded decision by the policies as they stand on disk, and show what would differ.

    With DIRECTORY, as if it were /etc/graced/policy.d. Rules, groups and limits are those on disk; what had happened to
    the units, tiers, pauses, approvals, times and windows are those of the decision. Each is judged by itself: what
    another answer would have led to is not played out, nor is what a changed playbook or profile would do.
    """
    from graced.cli.app import paths
    from graced.cli.policying import Replay, directories, read_policies
    from graced.policy.rules import RuleSet

    policies, problems, _count = read_policies(directories(paths(), directory))
    if problems:
        raise Failure("\n".join(str(problem) for problem in problems), "gracectl policy check shows the same")
    run = Replay(RuleSet(policies))
    _feed(run.feed)
    rows = [
        (one.seq, one.time, one.unit, one.playbook, _word(one.was.to_json()), _word(one.would.to_json()))
        for one in run.changes
    ]
    found = {
        "judged": run.judged,
        "rules_only": run.rules_only,
        "without_facts": run.without_facts,
        "changes": [one.to_json() for one in run.changes],
    }
    show(found, form, table(("entry", "time", "unit", "playbook", "was", "would be"), rows))
    if form == "off":
        say(f"{len(run.changes)} of {run.judged} recorded decisions would differ, each judged by itself.")
        if run.rules_only:
            say(f"{run.rules_only} of them do not say what else they were made from: judged by the rules alone.")
        if run.without_facts:
            say(f"{run.without_facts} older ones do not say what the rules saw: left out.")
    if run.changes:
        context.exit(EXIT_FAILED)


def _word(said: JsonDict) -> str:
    people = f", {said['approvals']} approvals" if said["approvals"] else ""
    return f"{said['effect']} ({said['rule'] or 'no rule'}{people})"


def _feed(take: Callable[[list[JsonDict]], None]) -> None:
    """Hand over the whole ledger, page by page."""
    from graced.cli.app import connect

    start = 0
    with connect("io.graced.Ledger", timeout_s=30.0) as client:
        while True:
            page = client.call("io.graced.Ledger.Read", {"start": start, "count": READ_AT_ONCE})
            entries = page.get("entries") or []
            take(entries)
            # A page may be shorter than asked for (its size is bounded); only an empty one is the end.
            if not entries:
                return
            start = int(entries[-1]["seq"]) + 1
