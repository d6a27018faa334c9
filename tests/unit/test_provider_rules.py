"""Negotiation rules, one by one and in their order."""

from typing import Any

import pytest

from shem.kernel.times import NS_PER_S
from shem.provider.offer import ACCEPT_TIMEOUT, COEFFICIENTS, NOTE_INTERVAL, PAYMENT_TIMEOUT
from shem.provider.rules import (
    CHOSEN_PLATFORM,
    EXPIRATION,
    PAYLOAD_MANIFEST,
    RULES,
    Accepted,
    Limits,
    Negotiation,
    Reject,
    negotiate,
    require_capacity,
    require_platform,
)

NOW = 1_795_465_792 * NS_PER_S
LIMITS = Limits(
    platforms=("erc20-holesky-tglm",),
    agreements_max=2,
    expiration_min_s=300,
    expiration_max_s=86_400,
)
OFFER: dict[str, Any] = {
    "golem.runtime.name": "wasmtime",
    COEFFICIENTS: [0.0, 0.0, 0.0],
    ACCEPT_TIMEOUT: 240,
    NOTE_INTERVAL: 120,
    PAYMENT_TIMEOUT: 120,
}


def expires_in(seconds: float) -> int:
    return int((NOW / NS_PER_S + seconds) * 1_000)


def demand(**changes: Any) -> dict[str, Any]:
    properties = {
        CHOSEN_PLATFORM: "erc20-holesky-tglm",
        EXPIRATION: expires_in(3_600),
        ACCEPT_TIMEOUT: 240,
        NOTE_INTERVAL: 120,
        PAYMENT_TIMEOUT: 120,
    }
    names = {
        "platform": CHOSEN_PLATFORM,
        "expiration": EXPIRATION,
        "accept": ACCEPT_TIMEOUT,
        "interval": NOTE_INTERVAL,
        "payment": PAYMENT_TIMEOUT,
        "coeffs": COEFFICIENTS,
        "manifest": PAYLOAD_MANIFEST,
    }
    properties |= {names[key]: value for key, value in changes.items()}
    return {name: value for name, value in properties.items() if value is not None}


def answer(agreements: int = 0, offer: dict[str, Any] | None = None, **changes: Any) -> Any:
    return negotiate(
        Negotiation(demand(**changes), OFFER if offer is None else offer, LIMITS, agreements, NOW)
    )


def test_a_demand_that_wants_what_is_offered_changes_nothing() -> None:
    assert answer() == Accepted(OFFER, changed=False)


def test_what_the_demand_does_not_promise_is_taken_out_of_the_offer() -> None:
    accepted = answer(accept=None, interval=None, payment=None)

    assert accepted.changed
    assert set(accepted.properties) == {"golem.runtime.name", COEFFICIENTS}


@pytest.mark.parametrize(
    ("name", "value", "prop"),
    [
        ("accept", 60, ACCEPT_TIMEOUT),
        ("accept", 5.0, ACCEPT_TIMEOUT),
        ("interval", 86_400, NOTE_INTERVAL),
        ("payment", 1, PAYMENT_TIMEOUT),
        ("coeffs", [0.1, 0.0, 0.0], COEFFICIENTS),
    ],
)
def test_what_suits_us_is_taken_over_and_then_stands(name: str, value: Any, prop: str) -> None:
    accepted = answer(**{name: value})
    assert accepted.properties[prop] == value
    assert accepted.changed

    again = answer(offer=accepted.properties, **{name: value})

    assert again == Accepted(accepted.properties, changed=False)


@pytest.mark.parametrize(
    ("changes", "message", "final"),
    [
        ({"platform": None}, "Missing fields: /golem/com/payment/chosen-platform", False),
        ({"platform": "erc20-moon-glm"}, "is not offered", False),
        ({"platform": ["erc20-holesky-tglm"]}, "is not offered", False),
        ({"expiration": None}, "milliseconds", False),
        ({"expiration": "soon"}, "milliseconds", False),
        ({"expiration": True}, "milliseconds", False),
        ({"expiration": 1.5}, "milliseconds", False),
        ({"expiration": float("nan")}, "milliseconds", False),
        ({"expiration": float("inf")}, "milliseconds", False),
        ({"expiration": expires_in(299)}, "sooner than 300 s", True),
        ({"expiration": -1}, "sooner", True),
        ({"expiration": expires_in(86_402)}, "later than 86400 s", False),
        ({"accept": 4}, "between 5 and 240", True),
        ({"accept": 241}, "between 5 and 240", True),
        ({"accept": "240"}, "whole seconds", True),
        ({"interval": 0}, "between 1 and 86400", True),
        ({"interval": 86_401}, "between 1 and 86400", True),
        ({"payment": [1]}, "whole seconds", True),
        ({"coeffs": [-0.1, 0.0, 0.0]}, "< ", True),
        ({"coeffs": [0.0]}, "invalid price vector", False),
        ({"coeffs": "free"}, "invalid price vector", False),
        ({"coeffs": [0.0, 0.0, True]}, "invalid price vector", False),
        ({"coeffs": [0.0, 0.0, float("nan")]}, "invalid price vector", False),
        ({"manifest": "eyJ9"}, "not supported yet", True),
    ],
)
def test_rejections(changes: dict[str, Any], message: str, final: bool) -> None:
    rejected = answer(**changes)

    assert isinstance(rejected, Reject)
    assert message in rejected.message
    assert rejected.is_final is final


def test_at_the_limit_of_agreements_there_is_no_capacity() -> None:
    assert isinstance(answer(agreements=1), Accepted)

    rejected = answer(agreements=2)

    assert rejected.reason() == {
        "message": "No capacity available. Reached Agreements limit: 2",
        "golem.proposal.rejection.is-final": False,
    }


def test_of_several_reasons_the_first_rule_in_order_is_told() -> None:
    rejected = answer(agreements=9, platform=None, expiration=None)

    assert rejected.message.startswith("Missing fields")
    assert (RULES[0], RULES[-1]) == (require_platform, require_capacity)


def test_an_offer_that_carries_other_properties_keeps_them() -> None:
    accepted = answer(offer={**OFFER, "other": [1]}, accept=None)

    assert accepted.properties["other"] == [1]
