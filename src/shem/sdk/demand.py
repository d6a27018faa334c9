"""The text of a Demand, and which Offers suit it. Pure (docs/protocol/market.md §7.7).

Payments are not supported yet, so only offers that cost nothing are taken; the demand still names
a payment platform as every Golem demand does, because provider agents insist on it.
"""

from dataclasses import dataclass
from typing import Any, Final

from shem.rest.models import Properties
from shem.rest.terms import EXPIRATION
from shem.sdk.leaving import NOTHING_SAID, Leaving
from shem.sdk.payloads import Payload

PLATFORM_PREFIX: Final = "golem.com.payment.platform."
CHOSEN_PLATFORM: Final = "golem.com.payment.chosen-platform"
PAYMENT_PROTOCOL: Final = "golem.com.payment.protocol.version"
PRICES: Final = "golem.com.pricing.model.linear.coeffs"
ECHOED: Final = (
    "golem.com.payment.debit-notes.accept-timeout?",
    "golem.com.scheme.payu.debit-note.interval-sec?",
    "golem.com.scheme.payu.payment-timeout-sec?",
)
"""Negotiable terms: our counter-proposal takes the provider's own values."""
NETWORKS: Final = {"mainnet": "glm", "polygon": "glm"}
"""Networks whose token is real; all others use tGLM."""


def platform_of(network: str) -> str:
    """Return the payment platform of a network, `erc20-hoodi-tglm`; a full name stays as it is."""
    if "-" in network:
        return network
    return f"erc20-{network}-{NETWORKS.get(network, 'tglm')}"


@dataclass(frozen=True, slots=True)
class DemandText:
    """Properties and constraints of one demand."""

    properties: Properties
    constraints: str
    platforms: tuple[str, ...]
    leaving: Leaving = NOTHING_SAID

    def counter(self, offer: Properties) -> Properties:
        """Return the properties of our counter-proposal to an offer that `refusal` let pass."""
        chosen = next(
            name for name in self.platforms if f"{PLATFORM_PREFIX}{name}.address" in offer
        )
        echoed: Properties = {name: offer[name] for name in ECHOED if name in offer}
        ours = {**self.properties, **self.leaving.properties()}
        return {**ours, **echoed, CHOSEN_PLATFORM: chosen}

    def refusal(self, offer: Properties) -> str | None:
        """Say why an offer cannot be taken, or None when it can."""
        if not any(f"{PLATFORM_PREFIX}{name}.address" in offer for name in self.platforms):
            return "takes none of our payment platforms"
        prices = offer.get(PRICES)
        if not isinstance(prices, list) or any(_is_price(price) for price in prices):
            return "costs something, and payments are not supported yet"
        return self.leaving.refusal(offer)


def _is_price(value: object) -> bool:
    return isinstance(value, bool) or not isinstance(value, int | float) or value != 0


def write_demand(
    payload: Payload,
    *,
    subnet: str,
    requestor: str,
    app: str,
    expires_ms: int,
    platforms: tuple[str, ...],
    leaving: Leaving = NOTHING_SAID,
) -> DemandText:
    """Compose the demand for a payload."""
    addresses = {f"{PLATFORM_PREFIX}{name}.address": requestor for name in platforms}
    properties: dict[str, Any] = {
        "golem.node.debug.subnet": subnet,
        "golem.node.id.name": app,
        "golem.srv.caps.multi-activity": True,
        EXPIRATION: expires_ms,
        PAYMENT_PROTOCOL: "3",
        **addresses,
        **payload.properties(),
    }
    any_platform = "".join(f"({PLATFORM_PREFIX}{name}.address=*)" for name in platforms)
    parts = [
        f"(golem.node.debug.subnet={subnet})",
        any_platform if len(platforms) == 1 else f"(|{any_platform})",
        f"({PAYMENT_PROTOCOL}>1)",
        *payload.constraints(),
    ]
    return DemandText(properties, f"(&{''.join(parts)})", platforms, leaving)
