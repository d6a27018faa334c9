"""Rules of the market that need no node: limits, wildcards, tables, refusals, terms."""

import itertools
import time

import pytest

from shem.kernel.errors import Conflict, Gone, UsageError
from shem.market.constraints import DEPTH_MAX, ConstraintError, parse_constraints
from shem.market.properties import canonical_text, flat_text, parse_text
from shem.market.refusals import describe, find, reported_state
from shem.market.resolve import match_pair
from shem.market.states import (
    AGREEMENT_TRANSITIONS,
    ENDED,
    AgreementInput,
    AgreementState,
    ProposalState,
    after,
    after_counter,
    at,
)
from shem.market.terms import Terms
from shem.market.wildcard import matches


@pytest.mark.parametrize(
    ("value", "text", "fits"),
    [
        ("h*", "hello", True),
        ("h*o", "hello", True),
        ("h*x", "hello", False),
        ("a.c*", "abc", True),
        ("a[bc]d*", "acd!", True),
        ("a[^bc]d*", "acd!", False),
        ("ab+c*", "abbbc", True),
        ("ab?c*", "ac", True),
        ("a{2}*", "aa", True),
        ("a{2,}b*", "aaaab", True),
        ("a{2,3}b*", "aaaab", False),
        ("a|*b", "ax", True),
        (r"\d+*", "42", True),
        ("a(b*", "a(b", False),
        ("a{*", "a{", False),
        ("[*", "[", False),
        ("a{999}*", "a" * 999, False),
    ],
)
def test_wildcards_are_regular_expressions(value: str, text: str, fits: bool) -> None:
    assert matches(value, text) is fits


def test_wildcards_of_strangers_do_not_blow_up() -> None:
    started = time.process_time()

    assert not matches("*".join("a" * 200) + "*b", "a" * 2_000)

    assert time.process_time() - started < 5


def test_deep_nesting_is_refused_not_crashed_on() -> None:
    assert parse_constraints("(&" * (DEPTH_MAX - 1) + "()" + ")" * (DEPTH_MAX - 1))
    for opening in ("(&", "(!", "(|"):
        with pytest.raises(ConstraintError):
            parse_constraints(opening * 50_000 + ")" * 50_000)
    with pytest.raises(UsageError):
        parse_text("[" * 100_000)


@pytest.mark.parametrize("value", ["\ud800", {"\ud800": 1}, float("nan"), float("inf"), 10**400])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(UsageError):
        flat_text(value)  # type: ignore[arg-type]


def test_properties_too_deep_are_refused() -> None:
    nested: dict[str, object] = {}
    for _ in range(200):
        nested = {"a": nested}
    with pytest.raises(UsageError, match="nested deeper"):
        flat_text(nested)  # type: ignore[arg-type]


def test_integers_beyond_64_bits_become_floats() -> None:
    assert canonical_text(1 << 64) == "1.8446744073709552e19"


def test_mismatch_names_what_is_missing_on_each_side() -> None:
    match = match_pair('{"a":1}', "(&(x=1)(y=2)(a=3))", '{"a":1}', "(z=1)")

    assert not match.fits
    assert match.mismatches == ('Mismatched constraints - Offer: ["x", "y"], Demand: ["z"]')


def test_every_agreement_transition_absent_from_the_table_is_refused() -> None:
    for state, happening in itertools.product(AgreementState, AgreementInput):
        if (state, happening) in AGREEMENT_TRANSITIONS:
            assert after(state, happening) in AgreementState
            continue
        with pytest.raises(Conflict if state is AgreementState.PROPOSAL else Gone) as caught:
            after(state, happening)
        assert f"from {state} to " in caught.value.message


def test_ended_agreements_stay_ended() -> None:
    assert not {state for state, _ in AGREEMENT_TRANSITIONS} & ENDED


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (AgreementState.PROPOSAL, AgreementState.EXPIRED),
        (AgreementState.PENDING, AgreementState.EXPIRED),
        (AgreementState.APPROVING, AgreementState.APPROVING),
        (AgreementState.APPROVED, AgreementState.APPROVED),
        (AgreementState.CANCELLED, AgreementState.CANCELLED),
    ],
)
def test_only_what_waits_for_the_other_side_expires_by_valid_to(
    state: AgreementState, expected: AgreementState
) -> None:
    assert at(state, valid_to_ns=10, now_ns=10) is expected
    assert at(state, valid_to_ns=10, now_ns=9) is state


def test_countering_brings_a_rejected_proposal_back() -> None:
    assert after_counter(ProposalState.REJECTED, has_previous=True) is ProposalState.DRAFT
    assert after_counter(ProposalState.REJECTED, has_previous=False) is ProposalState.INITIAL


@pytest.mark.parametrize(
    ("payload", "state"),
    [
        ({"Remote": {"InvalidState": ["P-1", "Pending"]}}, "Pending"),
        ({"Remote": [{"InvalidState": "Approved"}, "P-1"]}, "Approved"),
        ({"Remote": {"InvalidState": ["P-1", "Nonsense"]}}, None),
        ({"Remote": {"NotFound": "P-1"}}, None),
        ("Timeout", None),
        (None, None),
    ],
)
def test_state_in_a_peers_refusal_is_found(payload: object, state: str | None) -> None:
    assert reported_state(payload) == state


def test_refusals_of_peers_are_told_in_short_words() -> None:
    unknown = {"Remote": [{"Validation": {"NoSubscription": "484d"}}, "R-1"]}
    assert describe(unknown) == "Subscription [484d] wasn't found."
    assert len(describe({"x" * 10_000: 1})) <= 300
    assert find({"Remote": ["Cancelled", "P-1"]}, "Cancelled") is True


def test_terms_of_another_type_than_usual_count_as_absent() -> None:
    terms = Terms.of(
        '{"golem.com.usage.vector":"none","golem.com.pricing.model":["x"]}',
        '{"golem.com.payment.chosen-platform":7,"golem.srv.comp.expiration":"soon"}',
    )
    assert terms == Terms(None, None, None, None, None, None, None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1795500000000", 1795500000000 * 10**6), ("1e30", None), ("-5", None), ("true", None)],
)
def test_expiration_is_read_in_milliseconds(value: str, expected: int | None) -> None:
    demand = '{"golem.srv.comp.expiration":' + value + "}"
    assert Terms.of("{}", demand).expires_ns == expected
