"""Rules about paying: deadlines, intervals, prices (docs/protocol/provider-agent.md §5.5–§5.7,
§5.10). Pure.

Two of them protect a provider from working on unpaid: an agreement without a deadline to accept
debit notes lives short, and a long one says when it pays. Where nothing costs anything there is
nothing to protect, and they do not apply.
"""

from typing import Final

from shem.kernel.times import NS_PER_S, to_rfc3339, truncate_to_us
from shem.provider.durations import show_duration
from shem.provider.offer import (
    ACCEPT_TIMEOUT,
    COEFFICIENTS,
    NOTE_INTERVAL,
    PAYMENT_TIMEOUT,
    is_free,
)
from shem.provider.verdicts import (
    Change,
    Negotiation,
    Reject,
    Verdict,
    prices,
    seconds,
    settle,
    whole,
)

EXPIRATION: Final = "golem.srv.comp.expiration"
ACCEPT_TIMEOUT_MIN_S: Final = 5
_NS_PER_MS: Final = NS_PER_S // 1_000
_LAST_MS: Final = 253_402_300_799_000
"""The end of the year 9999: what a date can say."""


def limit_expiration(negotiation: Negotiation) -> Verdict:
    """The agreement must end: not too soon, not too late, and sooner without a deadline."""
    value = negotiation.demand.get(EXPIRATION)
    expires_ms = whole(value)
    if expires_ms is None:
        return Reject(f"{EXPIRATION} must be milliseconds since 1970, not {value!r}", False)
    left_s = (expires_ms * _NS_PER_MS - negotiation.now_ns) / NS_PER_S
    terms = negotiation.limits.terms
    most_s = terms.expiration_max_s
    if ACCEPT_TIMEOUT not in negotiation.demand and not is_free(negotiation.offer):
        most_s = min(most_s, terms.expiration_without_deadline_max_s)
    if terms.expiration_min_s <= left_s <= most_s:
        return None
    moment = to_rfc3339(truncate_to_us(min(max(expires_ms, 0), _LAST_MS) * _NS_PER_MS))
    return Reject(
        f"Proposal expires at: {moment} which is less than "
        f"{show_duration(terms.expiration_min_s)} or more than {show_duration(most_s)} from now",
        is_final=left_s < terms.expiration_min_s,
    )


def agree_accept_timeout(negotiation: Negotiation) -> Verdict:
    """The requestor may promise to accept debit notes sooner than we ask, or not at all."""
    wanted, problem = seconds(negotiation.demand, ACCEPT_TIMEOUT)
    if problem is not None:
        return problem
    if wanted is None:
        return settle(negotiation, ACCEPT_TIMEOUT, None)
    ours_s = negotiation.limits.terms.accept_timeout_s
    if wanted > ours_s:
        return Reject(
            f"DebitNote acceptance deadline should be less than {show_duration(ours_s)}",
            is_final=True,
        )
    if wanted < ACCEPT_TIMEOUT_MIN_S:
        return Reject(f"To low DebitNotes timeout: {wanted}s", is_final=True)
    return settle(negotiation, ACCEPT_TIMEOUT, wanted)


def agree_note_interval(negotiation: Negotiation) -> Verdict:
    """The requestor may choose how often debit notes come."""
    terms = negotiation.limits.terms
    return _agree_between(
        negotiation, NOTE_INTERVAL, terms.note_interval_min_s, terms.note_interval_max_s
    )


def agree_payment_timeout(negotiation: Negotiation) -> Verdict:
    """The requestor may choose how soon it pays, and must where the agreement lives long."""
    terms = negotiation.limits.terms
    if PAYMENT_TIMEOUT not in negotiation.demand and not is_free(negotiation.offer):
        expires_ms = whole(negotiation.demand.get(EXPIRATION)) or 0
        left_s = (expires_ms * _NS_PER_MS - negotiation.now_ns) / NS_PER_S
        if left_s >= terms.payment_timeout_required_s:
            return Reject(
                f"{PAYMENT_TIMEOUT} is required of agreements of "
                f"{show_duration(terms.payment_timeout_required_s)} and more",
                is_final=True,
            )
    return _agree_between(
        negotiation, PAYMENT_TIMEOUT, terms.payment_timeout_min_s, terms.payment_timeout_max_s
    )


def agree_price(negotiation: Negotiation) -> Verdict:
    """A demand that names prices must not name lower ones."""
    if COEFFICIENTS not in negotiation.demand:
        return None
    wanted = prices(negotiation.demand[COEFFICIENTS])
    ours = prices(negotiation.offer.get(COEFFICIENTS))
    if wanted is None or ours is None or len(wanted) != len(ours):
        return Reject("invalid price vector", is_final=False)
    if any(theirs < mine for theirs, mine in zip(wanted, ours, strict=True)):
        return Reject(f"{wanted} < {ours}", is_final=True)
    return None if wanted == ours else Change({COEFFICIENTS: wanted})


def _agree_between(negotiation: Negotiation, name: str, least: float, most: float) -> Verdict:
    wanted, problem = seconds(negotiation.demand, name)
    if problem is not None:
        return problem
    if wanted is not None and not least <= wanted <= most:
        return Reject(f"{name} must be between {least:g} and {most:g}, not {wanted}", is_final=True)
    return settle(negotiation, name, wanted)
