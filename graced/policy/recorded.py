"""What a decision was made from, as the ledger keeps it, so that it can be made anew by other rules and limits.

Each decision by itself: what another answer would have led to (other rates, other failures) is not played out. Pure;
put there by Governance, read by gracectl.
"""

from __future__ import annotations

from graced.base.errors import FormatError
from graced.base.json import get_dict, get_list, opt_dict
from graced.policy.approval import Sanction
from graced.policy.decide import Decision, Known, Moment, Pause, Plan, decide
from graced.policy.limits import HOUR_US, UnitHistory, history_from_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from graced.base.json import JsonDict
    from graced.policy.rules import RuleSet

MAX_ACTS = 400
"""A host with more heals than this in an hour records its decisions without what they were made from."""


def inputs(
    known: Known,
    history: UnitHistory,
    others: Sequence[UnitHistory],
    pause: Pause | None,
    moment: Moment,
    sanction: Sanction,
) -> JsonDict | None:
    """The arguments of `decide` in JSON, as far as a decision can hang on them; None when they are too many."""
    since_us = moment.now_us - HOUR_US
    busy = [one for one in (_recent(other, since_us) for other in others) if one.acts or one.open_task]
    own = _recent(history, since_us)
    if sum(len(one.acts) for one in (own, *busy)) > MAX_ACTS:
        return None
    return {
        "known": known.to_json(),
        "history": own.to_json(),
        # Of the others only these matter to bounds that units share.
        "others": [
            UnitHistory(one.unit, one.acts, tried_at_us=one.tried_at_us, open_task=one.open_task).to_json()
            for one in busy
        ],
        "pause": None if pause is None else pause.to_json(),
        "moment": moment.to_json(),
        "sanction": sanction.to_json(),
    }


def _recent(history: UnitHistory, since_us: int) -> UnitHistory:
    return history.replace(acts=tuple(act for act in history.acts if act[0] > since_us))


def anew(data: JsonDict, rules: RuleSet, opened: tuple[str, ...], unclear: tuple[str, ...]) -> Decision | None:
    """The decision of a ledger entry by these rules, limits and groups, their calendar windows being `opened` then.

    None when the entry does not say what it was made from. Raises FormatError.
    """
    given = opt_dict(data, "inputs")
    if given is None:
        return None
    pause = opt_dict(given, "pause", "inputs")
    others = get_list(given, "others", "inputs")
    if not all(isinstance(one, dict) for one in others):
        raise FormatError("inputs.others: objects are needed", path="inputs.others")
    moment = Moment.from_json(get_dict(given, "moment", "inputs"), "inputs.moment")
    return decide(
        Plan.from_json(get_dict(data, "plan"), "plan"),
        Known.from_json(get_dict(given, "known", "inputs"), "inputs.known"),
        rules,
        history_from_json(get_dict(given, "history", "inputs")),
        [history_from_json(one) for one in others],
        None if pause is None else Pause.from_json(pause, "inputs.pause"),
        moment.replace(open_windows=opened, unclear_windows=unclear),
        Sanction.from_json(get_dict(given, "sanction", "inputs"), "inputs.sanction"),
    )
