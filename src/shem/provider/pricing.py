"""Prices: from a preset to what an Offer says, and from usage to an amount. Pure.

The Offer's usage vector names the counters that cost something or could, sorted by name; its
coefficients are their prices in the same order, and last the start price
(docs/protocol/provider-agent.md §4). Amounts are decimal and rounded to the 18 places that a token
has (§7.1).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final

from shem.kernel.errors import NotFound, UsageError
from shem.provider.presets import PRICES_MAX, Preset

INITIAL: Final = frozenset({"initial", "init price", "initial price"})
PLACES: Final = Decimal("1e-18")
_EXACT: Final = Context(prec=60)


@dataclass(frozen=True, slots=True)
class Pricing:
    """What the Offer says about prices."""

    counters: tuple[str, ...]
    coefficients: tuple[float, ...]
    """One for each counter, and the start price."""


def pricing_of(preset: Preset, measured: Sequence[str]) -> Pricing:
    """Return a preset's prices for what its runtime measures; UsageError when none is left."""
    counters = tuple(name for name in sorted(preset.usage_coeffs) if name in measured)
    if not counters:
        raise UsageError(
            f"preset {preset.name!r}: usage-coeffs names no counter that runtime "
            f"{preset.exeunit_name!r} measures (it measures: {', '.join(sorted(measured))})"
        )
    prices = [preset.usage_coeffs[name] for name in counters]
    return Pricing(counters, (*prices, preset.initial_price))


def cost(coefficients: Sequence[float], usage: Sequence[float] | None) -> Decimal:
    """Return what a usage costs; no usage is none of each. UsageError when they do not fit."""
    *each, start = [_decimal(price) for price in coefficients]
    used = [_decimal(value) for value in usage] if usage else [Decimal(0)] * len(each)
    if len(used) != len(each):
        raise UsageError(f"{len(used)} counters and {len(each)} prices do not fit")
    total = start
    for price, value in zip(each, used, strict=True):
        total = _EXACT.add(total, _EXACT.multiply(price, value))
    return total.quantize(PLACES, ROUND_HALF_EVEN, _EXACT)


def parse_prices(
    words: Sequence[str], names: Mapping[str, str]
) -> tuple[float | None, dict[str, float]]:
    """Read `NAME=PRICE` words: the start price, if given, and the price of each counter.

    `names` tells the property of a counter's short name.
    """
    initial: float | None = None
    prices: dict[str, float] = {}
    for word in words:
        name, found, text = word.partition("=")
        price = _price(text) if found else None
        if price is None:
            raise UsageError(f"--price {word!r} is not NAME=PRICE with a price of 0 or more")
        if name.strip().lower() in INITIAL:
            initial = price
        else:
            prices[_counter(name.strip(), names)] = price
    if len(prices) > PRICES_MAX:
        raise UsageError(f"a preset has at most {PRICES_MAX} prices")
    return initial, prices


def _counter(name: str, names: Mapping[str, str]) -> str:
    if name in names.values():
        return name
    found = {short.lower(): full for short, full in names.items()}.get(name.lower())
    if found is None:
        known = ", ".join((*names, "initial"))
        raise NotFound(f"--price: the runtime has no counter {name!r} (it has: {known})")
    return found


def _price(text: str) -> float | None:
    try:
        price = float(text)
    except ValueError:
        return None
    return price if math.isfinite(price) and price >= 0 else None


def _decimal(value: float) -> Decimal:
    number = Decimal(repr(float(value)))
    if not number.is_finite():
        raise UsageError(f"{value} is no amount")
    return number
