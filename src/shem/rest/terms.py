"""What an Agreement's terms say about being away, and about what its usage costs.

Pure, over the flat properties of both sides (docs/protocol/extensions.md, "Absence"). A shem node
computes it for `GET …/absence`; at a yagna the SDK does it itself. Everything here is read from
what was agreed: a term that is not there is no limit, and a rule that agents follow without naming
it in the agreement says so in its text.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from shem.kernel import times
from shem.kernel.errors import UsageError
from shem.rest.endwhen import END_WHEN, parse_end_when
from shem.rest.models import AbsenceLimit, Due, Ending, Standing

EXPIRATION: Final = "golem.srv.comp.expiration"
MAX_ABSENCE: Final = "golem.srv.offline.max-absence-sec"
"""Offer: how long the requestor's node may be silent."""
ON_ABSENCE: Final = "golem.srv.offline.on-absence"
"""Offer: what the provider does then, in a word."""
RETENTION: Final = "golem.srv.offline.result-retention-sec"
"""Both sides: how long results can be read after the agreement's end."""
ACCEPT_TIMEOUT: Final = "golem.com.payment.debit-notes.accept-timeout?"
NOTE_INTERVAL: Final = "golem.com.scheme.payu.debit-note.interval-sec?"
COEFFICIENTS: Final = "golem.com.pricing.model.linear.coeffs"
USAGE_VECTOR: Final = "golem.com.usage.vector"
MULTI_ACTIVITY: Final = "golem.srv.caps.multi-activity"
RETENTION_MAX: Final = "golem.srv.offline.result-retention-max-sec"
"""Offer: how long a demand may ask for."""
RETENTION_DEFAULT_S: Final = 7 * 86_400.0
"""What our provider agents offer."""
IDLE_S: Final = 90.0
"""What the known provider agents wait for, unless their operator chose otherwise."""

EXPIRES: Final = "agreement-expiration"
ABSENCE_TERM: Final = "absence-term"
DEBIT_NOTES: Final = "debit-notes"
IDLE: Final = "idle-agreement"
ENDS_ITSELF: Final = "end-when"
RESULTS: Final = "result-retention"

Properties = Mapping[str, Any]


def standing(
    activity_id: str,
    agreement_id: str,
    *,
    demand: Properties,
    offer: Properties,
    usage: Sequence[float] | None,
    ended: Ending | None,
    now_ns: int,
) -> Standing:
    """Put together what a returning or leaving requestor wants to know."""
    ended_ns = None if ended is None or ended.at is None else times.parse(ended.at)
    found = limits(demand, offer, ended_ns)
    first = None if ended is not None else nearest(found, now_ns)
    seconds = None if first is None else first[1]
    return Standing(
        activity_id=activity_id,
        agreement_id=agreement_id,
        alive=ended is None,
        ended=ended,
        seconds=seconds,
        until=None if seconds is None else _moment(now_ns + int(seconds * times.NS_PER_S)),
        limited_by=None if first is None else first[0].kind,
        limits=found,
        results_until=results_until(found),
        due=amount_due(offer, usage),
    )


def limits(
    demand: Properties, offer: Properties, ended_ns: int | None = None
) -> list[AbsenceLimit]:
    """Return everything that may happen to an activity while its requestor is away.

    `ended_ns` is when it ended: results are kept from the agreement's end on, which is not earlier.
    """
    found = (
        _expiration(demand),
        _absence_term(offer),
        _debit_notes(offer),
        _end_when(demand),
        _idle(demand),
        _retention(demand, offer, ended_ns),
    )
    return [limit for limit in found if limit is not None]


def nearest(found: Sequence[AbsenceLimit], now_ns: int) -> tuple[AbsenceLimit, float] | None:
    """Return the first limit that ends the activity of one who leaves now, and in how long."""
    ending = [
        (limit, _seconds_left(limit, now_ns))
        for limit in found
        if limit.applies and limit.effect == "ends-activity"
    ]
    return min(ending, key=lambda pair: pair[1], default=None)


def results_until(found: Sequence[AbsenceLimit]) -> str | None:
    """Return when results that were not fetched are gone for good; None when nothing says so."""
    return next((limit.at for limit in found if limit.kind == RESULTS), None)


def amount_due(offer: Properties, usage: Sequence[float] | None) -> Due | None:
    """Estimate what the usage so far costs; None when the offer has no linear price."""
    prices = offer.get(COEFFICIENTS)
    names = offer.get(USAGE_VECTOR)
    if not isinstance(prices, list) or not isinstance(names, list):
        return None
    coefficients = [_decimal(price) for price in prices]
    counters = [_decimal(value) for value in usage or ()]
    if len(coefficients) != len(names) + 1 or len(counters) not in {0, len(names)}:
        return None
    if None in coefficients or None in counters:
        return None
    *each, start = (price for price in coefficients if price is not None)
    used = [value for value in counters if value is not None] or [Decimal(0)] * len(names)
    amount = start + sum((p * u for p, u in zip(each, used, strict=True)), Decimal(0))
    named = {str(name): float(value) for name, value in zip(names, used, strict=True)}
    return Due(amount=format(amount.normalize() if amount else Decimal(0), "f"), usage=named)


def retention_s(offer: Properties) -> float:
    """Return for how long after the agreement's end a provider's node keeps the results."""
    kept_s = _number(offer.get(RETENTION))
    return RETENTION_DEFAULT_S if kept_s is None else kept_s


def _expiration(demand: Properties) -> AbsenceLimit | None:
    moment_ms = _number(demand.get(EXPIRATION))
    if moment_ms is None:
        return None
    return AbsenceLimit(
        kind=EXPIRES,
        effect="ends-activity",
        at=_moment(int(moment_ms) * 1_000_000),
        text="the agreement ends by its own terms",
    )


def _absence_term(offer: Properties) -> AbsenceLimit | None:
    seconds = _number(offer.get(MAX_ABSENCE))
    if seconds is None:
        return None
    action = offer.get(ON_ABSENCE, "terminate")
    return AbsenceLimit(
        kind=ABSENCE_TERM,
        effect="ends-activity",
        after_sec=seconds,
        text=f"the provider agreed to wait so long for a silent requestor, then: {action}",
    )


def _debit_notes(offer: Properties) -> AbsenceLimit | None:
    """A provider that is paid by debit notes breaks when one is not accepted in time."""
    accept_s = _number(offer.get(ACCEPT_TIMEOUT))
    if accept_s is None:
        return None
    prices = offer.get(COEFFICIENTS)
    free = isinstance(prices, list) and not any(_number(price) for price in prices)
    interval_s = _number(offer.get(NOTE_INTERVAL)) or 0.0
    why = "costs nothing, so no debit note waits" if free else "a debit note must be accepted"
    return AbsenceLimit(
        kind=DEBIT_NOTES,
        effect="ends-activity",
        applies=not free,
        after_sec=interval_s + accept_s,
        text=why,
    )


def _end_when(demand: Properties) -> AbsenceLimit | None:
    """The work may end by itself, whoever is there."""
    try:
        wanted = parse_end_when(demand)
    except UsageError:
        return None
    if wanted is None:
        return None
    stated = [name.removeprefix(END_WHEN) for name in wanted.properties()]
    told = ", ".join(f"{name} {demand[END_WHEN + name]}" for name in stated)
    return AbsenceLimit(
        kind=ENDS_ITSELF,
        effect="ends-activity",
        applies=False,
        text=f"the work ends by itself, whether or not you are there: {told}",
    )


def _idle(demand: Properties) -> AbsenceLimit:
    """Without an activity an agreement is soon ended; while one lives it is not idle."""
    several = demand.get(MULTI_ACTIVITY) is True
    return AbsenceLimit(
        kind=IDLE,
        effect="ends-agreement",
        applies=False,
        after_sec=IDLE_S if several else 0.0,
        text="provider agents end an agreement without an activity (not a term of the agreement);"
        " it does not apply while the activity lives",
    )


def _retention(demand: Properties, offer: Properties, ended_ns: int | None) -> AbsenceLimit | None:
    moment_ms = _number(demand.get(EXPIRATION))
    kept_s = _number(offer.get(RETENTION))
    if moment_ms is None:
        return None
    ends_ns = int(moment_ms) * 1_000_000
    if ended_ns is not None:
        ends_ns = min(ends_ns, ended_ns)
    text = (
        "results that this node has not fetched are lost with the activity"
        if kept_s is None
        else "results that this node has not fetched are kept so long by the provider"
    )
    return AbsenceLimit(
        kind=RESULTS,
        effect="loses-results",
        at=_moment(ends_ns + int((kept_s or 0.0) * times.NS_PER_S)),
        text=text,
    )


def _seconds_left(limit: AbsenceLimit, now_ns: int) -> float:
    if limit.at is not None:
        return max(0.0, (times.parse(limit.at) - now_ns) / times.NS_PER_S)
    return max(0.0, limit.after_sec or 0.0)


_LAST_NS: Final = 253_402_300_799 * times.NS_PER_S
"""The end of the year 9999: what a date can say."""


def _moment(ns: int) -> str:
    return times.to_rfc3339(times.truncate_to_us(min(max(ns, 0), _LAST_NS)))


def _number(value: object) -> float | None:
    """Return a finite number that is not negative, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e30 else None


def _decimal(value: object) -> Decimal | None:
    number = _number(value)
    return None if number is None else Decimal(repr(number))
