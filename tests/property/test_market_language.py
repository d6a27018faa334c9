"""Texts of strangers: whatever comes is parsed, compared or refused, and never crashes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shem.kernel.errors import PeerError
from shem.market import messages
from shem.market.constraints import ConstraintError, parse_constraints
from shem.market.messages import decode
from shem.market.properties import flat_text, number_text, parse_text
from shem.market.resolve import Truth, match_pair, resolve, typed_properties
from shem.market.wildcard import matches

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
names = st.text("ab.@$[]=?", max_size=4)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)
constraint_texts = st.text("()&|!=<>*~ab1$dvt[]. \n", max_size=40)
KINDS = [k for k in vars(messages).values() if isinstance(k, type) and hasattr(k, "NAME")]


@given(constraint_texts)
def test_any_text_is_a_constraint_or_refused(text: str) -> None:
    try:
        expression = parse_constraints(text)
    except ConstraintError:
        return
    assert resolve(expression, typed_properties('{"a":"b","b":1}')).truth in Truth


@given(values)
def test_flattening_what_is_flat_changes_nothing(value: object) -> None:
    text = flat_text(value)  # type: ignore[arg-type]
    assert flat_text(parse_text(text)) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float_texts_read_back_to_the_same_number(value: float) -> None:
    text = number_text(value)
    assert float(text) == value
    assert "." in text or "e" in text


@given(st.text("ab.*", max_size=8), st.text("abc", max_size=8))
def test_wildcards_agree_with_regular_expressions(value: str, text: str) -> None:
    expected = re.fullmatch(value.replace("*", ".*"), text) is not None
    assert matches(value, text) is expected


@given(values, constraint_texts, values, constraint_texts)
def test_matching_is_symmetric(
    one: object, one_wants: str, other: object, other_wants: str
) -> None:
    first, second = flat_text(one), flat_text(other)  # type: ignore[arg-type]
    try:
        there = match_pair(first, one_wants, second, other_wants)
        back = match_pair(second, other_wants, first, one_wants)
    except ConstraintError:
        return
    assert there.fits is back.fits
    assert there.new_unresolved == back.previous_unresolved


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.NAME)
@given(document=values)
def test_any_document_is_a_message_or_refused(kind: type, document: object) -> None:
    try:
        decode(kind, document)
    except PeerError:
        return
    assert isinstance(document, dict)
