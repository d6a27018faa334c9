"""Rules about a requestor that is away, and about the end of its work (docs/protocol/extensions.md,
"Absence" and "The end of work"). Pure.

A demand that says nothing about them gets what other providers give: no such term is agreed.
"""

from shem.kernel.errors import UsageError
from shem.provider.durations import show_duration
from shem.provider.verdicts import Change, Negotiation, Reject, Verdict, seconds, settle
from shem.rest.endwhen import (
    CAN_END_WHEN,
    CAN_ON_ABSENCE,
    CAN_SINK,
    END_WHEN,
    SINK,
    names_of,
    parse_end_when,
    parse_sink,
)
from shem.rest.terms import MAX_ABSENCE, ON_ABSENCE, RETENTION


def agree_absence(negotiation: Negotiation) -> Verdict:
    """The requestor may say how long it can be away, and what is to happen then."""
    wanted, problem = seconds(negotiation.demand, MAX_ABSENCE)
    if problem is not None:
        return problem
    if wanted is None:
        if ON_ABSENCE in negotiation.demand:
            return Reject(f"{ON_ABSENCE} needs {MAX_ABSENCE}", is_final=True)
        return settle(negotiation, MAX_ABSENCE, None)
    most_s = negotiation.limits.terms.absence_max_s
    if not 0 < wanted <= most_s:
        text = f"{MAX_ABSENCE} must be more than 0 and at most {show_duration(most_s)}"
        return Reject(f"{text}, not {wanted}s", is_final=True)
    able = names_of(negotiation.offer.get(CAN_ON_ABSENCE))
    action = negotiation.demand.get(ON_ABSENCE, "terminate")
    if not isinstance(action, str) or action not in able:
        offered = ", ".join(sorted(able)) or "none"
        return Reject(f"{ON_ABSENCE} {action!r} is not offered (offered: {offered})", is_final=True)
    agreed = {MAX_ABSENCE: wanted, ON_ABSENCE: action}
    changed = any(negotiation.offer.get(name) != value for name, value in agreed.items())
    return Change(agreed) if changed else None


def agree_retention(negotiation: Negotiation) -> Verdict:
    """The requestor may choose how long results are kept; one that says nothing takes our offer."""
    wanted, problem = seconds(negotiation.demand, RETENTION)
    if problem is not None or wanted is None:
        return problem
    most_s = negotiation.limits.terms.retention_max_s
    if not 0 <= wanted <= most_s:
        text = f"{RETENTION} must be at most {show_duration(most_s)}"
        return Reject(f"{text}, not {wanted}s", is_final=True)
    return settle(negotiation, RETENTION, wanted)


def agree_end_when(negotiation: Negotiation) -> Verdict:
    """What a demand says of the end must be something that the ExeUnit of this offer does."""
    try:
        wanted = parse_end_when(negotiation.demand)
        sink = parse_sink(negotiation.demand)
    except UsageError as error:
        return Reject(error.message, is_final=True)
    if sink is not None and wanted is None and negotiation.demand.get(ON_ABSENCE) != "finish":
        return Reject(f"{SINK}… needs {END_WHEN}…, or {ON_ABSENCE} finish", is_final=True)
    for name, asked in (
        (CAN_END_WHEN, frozenset[str]() if wanted is None else frozenset(wanted.conditions)),
        (CAN_SINK, frozenset[str]() if sink is None else sink.schemes),
    ):
        if missing := sorted(asked - names_of(negotiation.offer.get(name))):
            return Reject(f"{name}: {', '.join(missing)} is not offered", is_final=True)
    return None
