"""Negotiation: small pure rules, in one fixed order (docs/protocol/provider-agent.md §5).

Each rule looks at the demand and at our side as it stands, and agrees, changes our side, or
rejects. The first rejection is the answer. The same rules judge an Agreement: there, a wish to
change something means that the negotiation was not finished. Whatever a demand holds is a verdict,
never an error: a property of the wrong type is rejected with its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from shem.provider.rules_absence import agree_absence, agree_end_when, agree_retention
from shem.provider.rules_access import judge_manifest, refuse_blacklisted, require_allowed
from shem.provider.rules_payment import (
    agree_accept_timeout,
    agree_note_interval,
    agree_payment_timeout,
    agree_price,
    limit_expiration,
)
from shem.provider.verdicts import Change, Negotiation, Reject, Rule, Verdict

CHOSEN_PLATFORM: Final = "golem.com.payment.chosen-platform"


@dataclass(frozen=True, slots=True)
class Accepted:
    """Our side as the rules want it."""

    properties: dict[str, Any]
    changed: bool


def negotiate(
    negotiation: Negotiation, rules: Mapping[str, Rule] | None = None
) -> Accepted | Reject:
    """Apply all rules in order."""
    offer = dict(negotiation.offer)
    for rule in (RULES if rules is None else rules).values():
        verdict = rule(replace(negotiation, offer=offer))
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


def require_capacity(negotiation: Negotiation) -> Verdict:
    """The machine must hold one agreement more."""
    shortage = negotiation.shortage
    return None if shortage is None else Reject(shortage, is_final=False)


RULES: Final[Mapping[str, Rule]] = {
    "demand-validation": require_platform,
    "blacklist": refuse_blacklisted,
    "allow-only": require_allowed,
    "expiration": limit_expiration,
    "accept-timeout": agree_accept_timeout,
    "debit-note-interval": agree_note_interval,
    "payment-timeout": agree_payment_timeout,
    "price": agree_price,
    "absence": agree_absence,
    "result-retention": agree_retention,
    "end-when": agree_end_when,
    "manifest": judge_manifest,
    "capacity": require_capacity,
}
"""The order is part of the behaviour: of several reasons, the first is told."""
