"""Negotiation rules, one by one and in their order."""

from typing import Any

import pytest

from shem.kernel.times import NS_PER_S
from shem.provider.access import Access, AccessList
from shem.provider.config import Terms
from shem.provider.offer import ACCEPT_TIMEOUT, COEFFICIENTS, NOTE_INTERVAL, PAYMENT_TIMEOUT
from shem.provider.rules import (
    CHOSEN_PLATFORM,
    RULES,
    Accepted,
    negotiate,
)
from shem.provider.rules_payment import EXPIRATION
from shem.provider.verdicts import Limits, Negotiation, Reject
from shem.rest.endwhen import CAN_END_WHEN, CAN_ON_ABSENCE, CAN_SINK, END_WHEN, RESULTS_URL
from shem.rest.manifest import MANIFEST
from shem.rest.terms import MAX_ABSENCE, ON_ABSENCE, RETENTION

NOW = 1_795_465_792 * NS_PER_S
ANNA = "0x" + "a" * 40
LIMITS = Limits(platforms=("erc20-holesky-tglm",), terms=Terms(expiration_max_s=86_400))
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
        "manifest": MANIFEST,
    }
    properties |= {names[key]: value for key, value in changes.items()}
    return {name: value for name, value in properties.items() if value is not None}


def answer(
    offer: dict[str, Any] | None = None,
    limits: Limits = LIMITS,
    shortage: str | None = None,
    extra: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    return negotiate(
        Negotiation(
            {**demand(**changes), **(extra or {})},
            OFFER if offer is None else offer,
            limits,
            NOW,
            requestor=ANNA,
            shortage=shortage,
        )
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
        ({"expiration": expires_in(299)}, "which is less than 5min or more than 1d from now", True),
        ({"expiration": -1}, "Proposal expires at: 1970", True),
        ({"expiration": expires_in(86_402)}, "or more than 1d from now", False),
        ({"expiration": 10**30}, "or more than 1d from now", False),
        ({"accept": 4}, "To low DebitNotes timeout: 4s", True),
        ({"accept": 241}, "DebitNote acceptance deadline should be less than 4min", True),
        ({"accept": "240"}, "whole seconds", True),
        ({"interval": 0}, "between 1 and 86400", True),
        ({"interval": 86_401}, "between 1 and 86400", True),
        ({"payment": [1]}, "whole seconds", True),
        ({"coeffs": [-0.1, 0.0, 0.0]}, "< ", True),
        ({"coeffs": [0.0]}, "invalid price vector", False),
        ({"coeffs": "free"}, "invalid price vector", False),
        ({"coeffs": [0.0, 0.0, True]}, "invalid price vector", False),
        ({"coeffs": [0.0, 0.0, float("nan")]}, "invalid price vector", False),
        ({"manifest": "eyJ9"}, "invalid manifest", True),
    ],
)
def test_rejections(changes: dict[str, Any], message: str, final: bool) -> None:
    rejected = answer(**changes)

    assert isinstance(rejected, Reject)
    assert message in rejected.message
    assert rejected.is_final is final


def test_a_shortage_is_told_and_may_pass() -> None:
    words = "No capacity available. Reached Agreements limit: 2"

    assert answer(shortage=words).reason() == {
        "message": words,
        "golem.proposal.rejection.is-final": False,
    }


def test_of_several_reasons_the_first_rule_in_order_is_told() -> None:
    rejected = answer(shortage="full", platform=None, expiration=None)

    assert rejected.message.startswith("Missing fields")
    assert list(RULES) == [
        *("demand-validation", "blacklist", "allow-only", "expiration", "accept-timeout"),
        *("debit-note-interval", "payment-timeout", "price", "absence", "result-retention"),
        *("end-when", "manifest", "capacity"),
    ]


@pytest.mark.parametrize(
    ("access", "refused"),
    [
        (Access(blacklist=AccessList(enabled=True, identity=[ANNA])), "on the blacklist"),
        (Access(blacklist=AccessList(enabled=False, identity=[ANNA])), None),
        (Access(allow_only=AccessList(enabled=True, identity=["0x" + "b" * 40])), "not on the"),
        (Access(allow_only=AccessList(enabled=True, identity=[ANNA])), None),
    ],
)
def test_the_operators_lists_are_kept_to(access: Access, refused: str | None) -> None:
    found = answer(limits=Limits(LIMITS.platforms, access=access))

    if refused is None:
        assert isinstance(found, Accepted)
    else:
        assert refused in found.message
        assert found.is_final


PRICED = {**OFFER, COEFFICIENTS: [0.1, 0.0, 0.0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accept": None, "expiration": expires_in(1_900)}, "or more than 30min from now"),
        ({"payment": None, "expiration": expires_in(36_001)}, "is required of agreements of 10h"),
    ],
)
def test_what_costs_something_is_not_worked_on_unpaid(
    changes: dict[str, Any], message: str
) -> None:
    rejected = answer(offer=PRICED, **changes)

    assert message in rejected.message
    assert isinstance(answer(**changes), Accepted)


ABLE = {
    **OFFER,
    MAX_ABSENCE: 604_800,
    CAN_ON_ABSENCE: ["terminate", "finish"],
    RETENTION: 604_800,
    CAN_END_WHEN: ["batch-done", "idle"],
    CAN_SINK: ["https"],
}


def test_without_a_word_about_absence_no_term_is_agreed() -> None:
    accepted = answer(offer=ABLE)

    assert MAX_ABSENCE not in accepted.properties
    assert ON_ABSENCE not in accepted.properties


@pytest.mark.parametrize("action", [None, "terminate", "finish"])
def test_how_long_a_requestor_may_be_away_is_agreed_with_what_happens_then(
    action: str | None,
) -> None:
    wanted = {MAX_ABSENCE: 3_600, **({} if action is None else {ON_ABSENCE: action})}

    accepted = answer(offer=ABLE, extra=wanted)

    assert accepted.properties[MAX_ABSENCE] == 3_600
    assert accepted.properties[ON_ABSENCE] == (action or "terminate")
    assert answer(offer=accepted.properties, extra=wanted) == Accepted(accepted.properties, False)


@pytest.mark.parametrize(("wanted", "agreed"), [(None, 604_800), (0, 0), (3_600, 3_600)])
def test_results_are_kept_as_offered_unless_the_requestor_says_otherwise(
    wanted: int | None, agreed: int
) -> None:
    extra = {} if wanted is None else {RETENTION: wanted}

    accepted = answer(offer=ABLE, extra=extra)

    assert accepted.properties[RETENTION] == agreed
    assert not answer(offer=accepted.properties, extra=extra).changed


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({MAX_ABSENCE: 0}, "more than 0"),
        ({MAX_ABSENCE: 604_801}, "at most 7d, not 604801s"),
        ({MAX_ABSENCE: "long"}, "whole seconds"),
        ({MAX_ABSENCE: 60, ON_ABSENCE: "wait"}, "'wait' is not offered (offered: finish, termi"),
        ({MAX_ABSENCE: 60, ON_ABSENCE: ["finish"]}, "is not offered"),
        ({ON_ABSENCE: "finish"}, "needs"),
        ({RETENTION: 30 * 86_400 + 1}, "at most 30d, not 2592001s"),
        ({RETENTION: -1}, "at most 30d"),
        ({RETENTION: "for ever"}, "whole seconds"),
        ({f"{END_WHEN}exit": True}, "exit is not offered"),
        ({f"{END_WHEN}idle-sec": -1}, "more than 0"),
        ({f"{END_WHEN}batch-don": True}, "batch-don is not known"),
        ({RESULTS_URL: "https://x/y"}, "result-sink.… needs"),
        ({RESULTS_URL: "http://x/y", f"{END_WHEN}batch-done": True}, "http is not offered"),
        ({RESULTS_URL: "ftp://x/y"}, "must be a URL"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused(wanted: dict[str, Any], message: str) -> None:
    rejected = answer(offer=ABLE, extra=wanted)

    assert isinstance(rejected, Reject)
    assert message in rejected.message
    assert rejected.is_final


def test_an_end_that_the_offer_knows_is_agreed() -> None:
    wanted = {f"{END_WHEN}batch-done": True, RESULTS_URL: "https://x/y"}

    assert isinstance(answer(offer=ABLE, extra=wanted), Accepted)
    assert isinstance(answer(extra=wanted), Reject)


def test_an_offer_that_carries_other_properties_keeps_them() -> None:
    accepted = answer(offer={**OFFER, "other": [1]}, accept=None)

    assert accepted.properties["other"] == [1]
