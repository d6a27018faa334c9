"""Negotiation: small pure rules, in one fixed order (docs/protocol/provider-agent.md §5).

Each rule looks at the demand and at our side as it stands, and agrees, changes our side, or
rejects. The first rejection is the answer. The same rules judge an Agreement: there, a wish to
change something means that the negotiation was not finished. Whatever a demand holds is a verdict,
never an error: a property of the wrong type is rejected with its name.

The rules that protect against not being paid (a shorter life without debit notes, payment deadlines
for long agreements) come with payments: the price is zero.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shem.kernel.times import NS_PER_S
from shem.provider.offer import ACCEPT_TIMEOUT, COEFFICIENTS, NOTE_INTERVAL, PAYMENT_TIMEOUT

CHOSEN_PLATFORM: Final = "golem.com.payment.chosen-platform"
EXPIRATION: Final = "golem.srv.comp.expiration"
PAYLOAD_MANIFEST: Final = "golem.srv.comp.payload"
ACCEPT_TIMEOUT_MIN_S: Final = 5
INTERVAL_MIN_S: Final = 1
INTERVAL_MAX_S: Final = 86_400
_NS_PER_MS: Final = NS_PER_S // 1_000

Properties = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows."""

    platforms: tuple[str, ...]
    agreements_max: int
    expiration_min_s: float
    expiration_max_s: float
    accept_timeout_max_s: int = 240


@dataclass(frozen=True, slots=True)
class Negotiation:
    """What the rules see."""

    demand: Properties
    offer: Properties
    """Our side so far."""
    limits: Limits
    agreements: int
    """Agreements in force or being approved, without this one."""
    now_ns: int


@dataclass(frozen=True, slots=True)
class Reject:
    """No, and why; `is_final` says that asking again is useless."""

    message: str
    is_final: bool

    def reason(self) -> dict[str, Any]:
        return {"message": self.message, "golem.proposal.rejection.is-final": self.is_final}


@dataclass(frozen=True, slots=True)
class Change:
    """Yes, if our side is changed so; None removes a property."""

    properties: Mapping[str, Any]


Verdict = Reject | Change | None
"""None: agreed as it stands."""
Rule = Callable[[Negotiation], Verdict]


@dataclass(frozen=True, slots=True)
class Accepted:
    """Our side as the rules want it."""

    properties: dict[str, Any]
    changed: bool


def negotiate(negotiation: Negotiation, rules: Sequence[Rule] | None = None) -> Accepted | Reject:
    """Apply all rules in order."""
    offer = dict(negotiation.offer)
    for rule in RULES if rules is None else rules:
        verdict = rule(
            Negotiation(
                negotiation.demand,
                offer,
                negotiation.limits,
                negotiation.agreements,
                negotiation.now_ns,
            )
        )
        if isinstance(verdict, Reject):
            return verdict
        if isinstance(verdict, Change):
            offer = {**offer, **verdict.properties}
            offer = {name: value for name, value in offer.items() if value is not None}
    return Accepted(offer, offer != dict(negotiation.offer))


def require_platform(negotiation: Negotiation) -> Verdict:
    """The demand must choose how it would pay, and choose what we offer."""
    chosen = negotiation.demand.get(CHOSEN_PLATFORM)
    if chosen is None:
        return Reject("Missing fields: /golem/com/payment/chosen-platform", is_final=False)
    if chosen not in negotiation.limits.platforms:
        offered = ", ".join(negotiation.limits.platforms)
        return Reject(f"payment platform {chosen!r} is not offered (offered: {offered})", False)
    return None


def require_expiration(negotiation: Negotiation) -> Verdict:
    """The agreement must end, not too soon and not too late."""
    value = negotiation.demand.get(EXPIRATION)
    expires_ms = _whole(value)
    if expires_ms is None:
        return Reject(f"{EXPIRATION} must be milliseconds since 1970, not {value!r}", False)
    left_s = (expires_ms * _NS_PER_MS - negotiation.now_ns) / NS_PER_S
    limits = negotiation.limits
    if left_s < limits.expiration_min_s:
        return Reject(
            f"the agreement would expire in {left_s:.0f} s, sooner than "
            f"{limits.expiration_min_s:.0f} s from now",
            is_final=True,
        )
    if left_s > limits.expiration_max_s:
        return Reject(
            f"the agreement would expire in {left_s:.0f} s, later than "
            f"{limits.expiration_max_s:.0f} s from now",
            is_final=False,
        )
    return None


def agree_accept_timeout(negotiation: Negotiation) -> Verdict:
    """The requestor may promise to accept debit notes sooner than we ask, or not at all."""
    wanted, problem = _seconds(negotiation.demand, ACCEPT_TIMEOUT)
    if problem is not None:
        return problem
    if wanted is None:
        return _settle(negotiation, ACCEPT_TIMEOUT, None)
    longest = negotiation.limits.accept_timeout_max_s
    if not ACCEPT_TIMEOUT_MIN_S <= wanted <= longest:
        return Reject(
            f"{ACCEPT_TIMEOUT} must be between {ACCEPT_TIMEOUT_MIN_S} and {longest}, not {wanted}",
            is_final=True,
        )
    return _settle(negotiation, ACCEPT_TIMEOUT, wanted)


def agree_note_interval(negotiation: Negotiation) -> Verdict:
    """The requestor may choose how often debit notes come."""
    return _agree_interval(negotiation, NOTE_INTERVAL)


def agree_payment_timeout(negotiation: Negotiation) -> Verdict:
    """The requestor may choose how soon it pays."""
    return _agree_interval(negotiation, PAYMENT_TIMEOUT)


def agree_price(negotiation: Negotiation) -> Verdict:
    """A demand that names prices must not name lower ones."""
    if COEFFICIENTS not in negotiation.demand:
        return None
    wanted = _prices(negotiation.demand[COEFFICIENTS])
    ours = _prices(negotiation.offer.get(COEFFICIENTS))
    if wanted is None or ours is None or len(wanted) != len(ours):
        return Reject("invalid price vector", is_final=False)
    if any(theirs < mine for theirs, mine in zip(wanted, ours, strict=True)):
        return Reject(f"{wanted} < {ours}", is_final=True)
    return None if wanted == ours else Change({COEFFICIENTS: wanted})


def refuse_manifest(negotiation: Negotiation) -> Verdict:
    """Payload manifests are not built yet; the offer says so, and so do we."""
    if PAYLOAD_MANIFEST in negotiation.demand:
        return Reject("payload manifests are not supported yet by this provider", is_final=True)
    return None


def require_capacity(negotiation: Negotiation) -> Verdict:
    """So many agreements and no more."""
    limit = negotiation.limits.agreements_max
    if negotiation.agreements >= limit:
        return Reject(f"No capacity available. Reached Agreements limit: {limit}", is_final=False)
    return None


RULES: Final[tuple[Rule, ...]] = (
    require_platform,
    require_expiration,
    agree_accept_timeout,
    agree_note_interval,
    agree_payment_timeout,
    agree_price,
    refuse_manifest,
    require_capacity,
)


def _agree_interval(negotiation: Negotiation, name: str) -> Verdict:
    wanted, problem = _seconds(negotiation.demand, name)
    if problem is not None:
        return problem
    if wanted is not None and not INTERVAL_MIN_S <= wanted <= INTERVAL_MAX_S:
        return Reject(
            f"{name} must be between {INTERVAL_MIN_S} and {INTERVAL_MAX_S}, not {wanted}",
            is_final=True,
        )
    return _settle(negotiation, name, wanted)


def _settle(negotiation: Negotiation, name: str, value: int | None) -> Verdict:
    if negotiation.offer.get(name) == value:
        return None
    return Change({name: value})


def _seconds(properties: Properties, name: str) -> tuple[int | None, Reject | None]:
    value = properties.get(name)
    if value is None:
        return None, None
    seconds = _whole(value)
    if seconds is None:
        return None, Reject(f"{name} must be whole seconds, not {value!r}", is_final=True)
    return seconds, None


def _whole(value: object) -> int | None:
    """Return a whole number that may be written as a float, as some encoders do."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value)


def _prices(value: object) -> list[float] | None:
    """Return a list of finite prices, or None when it is none."""
    if not isinstance(value, list):
        return None
    if any(isinstance(item, bool) or not isinstance(item, int | float) for item in value):
        return None
    return value if all(math.isfinite(item) for item in value) else None
