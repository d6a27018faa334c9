"""What an agreement's properties say about payment and time, in columns of their own.

docs/protocol/market.md §7.7. Pure. Nothing here is compulsory and nothing is checked against a
price list: a property of another type than usual counts as absent.
"""

from dataclasses import dataclass
from typing import Final, Self

from shem.market.properties import Flat, canonical_text, parse_flat

CHOSEN_PLATFORM: Final = "golem.com.payment.chosen-platform"
EXPIRATION: Final = "golem.srv.comp.expiration"
PRICING_MODEL: Final = "golem.com.pricing.model"
PRICING_COEFFS: Final = "golem.com.pricing.model.linear.coeffs"
USAGE_VECTOR: Final = "golem.com.usage.vector"
NS_PER_MS: Final = 1_000_000
EXPIRES_MAX_NS: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Terms:
    """The parts of an agreement that others ask for; JSON texts for lists."""

    platform: str | None
    payee_address: str | None
    payer_address: str | None
    pricing_model: str | None
    pricing_coeffs: str | None
    usage_vector: str | None
    expires_ns: int | None

    @classmethod
    def of(cls, offer_properties: str, demand_properties: str) -> Self:
        """Read the terms out of both sides' last proposals."""
        offer, demand = parse_flat(offer_properties), parse_flat(demand_properties)
        platform = _text(demand, CHOSEN_PLATFORM)
        address = f"golem.com.payment.platform.{platform}.address"
        return cls(
            platform=platform,
            payee_address=_text(offer, address),
            payer_address=_text(demand, address),
            pricing_model=_text(offer, PRICING_MODEL),
            pricing_coeffs=_list(offer, PRICING_COEFFS),
            usage_vector=_list(offer, USAGE_VECTOR),
            expires_ns=_expiration(demand),
        )


def _text(properties: Flat, name: str) -> str | None:
    value = properties.get(name)
    return value if isinstance(value, str) else None


def _list(properties: Flat, name: str) -> str | None:
    value = properties.get(name)
    return canonical_text(value) if isinstance(value, list) else None


def _expiration(demand: Flat) -> int | None:
    value = demand.get(EXPIRATION)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 < value < EXPIRES_MAX_NS // NS_PER_MS:
        return None
    return int(value * NS_PER_MS)
