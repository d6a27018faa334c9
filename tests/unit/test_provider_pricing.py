"""Prices in offers, and what a usage costs."""

from decimal import Decimal

import pytest

from shem.kernel.errors import NotFound, UsageError
from shem.provider.descriptor import BUILT_IN
from shem.provider.pricing import cost, parse_prices

NAMES = BUILT_IN.short_names


@pytest.mark.parametrize(
    ("coefficients", "usage", "amount"),
    [
        ([0.0001, 0.00005, 0.0], [44.017951, 103.002864998], "0.0095519383499"),
        ([0.002, 0.008, 0.0], [44.094619588, 0.0], "0.088189239176"),
        ([0.1, 0.2, 5.0], None, "5"),
        ([1e-18, 0.0, 0.0], [0.5, 0.0], "0"),
        ([0.1, 0.0, 0.0], [3e9, 0.0], "300000000"),
    ],
)
def test_what_a_usage_costs(
    coefficients: list[float], usage: list[float] | None, amount: str
) -> None:
    assert cost(coefficients, usage) == Decimal(amount)


@pytest.mark.parametrize("usage", [[1.0], [1.0, 2.0, 3.0]])
def test_usage_and_prices_that_do_not_fit_are_no_amount(usage: list[float]) -> None:
    with pytest.raises(UsageError, match="do not fit"):
        cost([1.0, 1.0, 0.0], usage)


def test_prices_are_named_by_counter_property_or_short_name() -> None:
    words = ["CPU=0.5", "golem.usage.duration_sec=0.25", "Init price=1"]

    assert parse_prices(words, NAMES) == (
        1.0,
        {"golem.usage.cpu_sec": 0.5, "golem.usage.duration_sec": 0.25},
    )


@pytest.mark.parametrize("word", ["cpu", "cpu=", "cpu=-1", "cpu=nan", "cpu=inf", "=1e999"])
def test_words_that_are_no_price_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="--price"):
        parse_prices([word], NAMES)


def test_an_unknown_counter_is_told_with_the_known_ones() -> None:
    with pytest.raises(NotFound, match=r"'gpu' .*duration, cpu"):
        parse_prices(["gpu=1"], NAMES)
