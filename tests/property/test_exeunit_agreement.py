"""Agreement files: properties mean the same dotted or nested."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shem.exeunit.agreement import expand, flatten, load_terms, parse_terms
from shem.kernel.errors import UsageError

NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)
VALUES = st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2) | st.booleans()


@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_flattening_undoes_expanding(properties: dict[str, Any]) -> None:
    assert flatten(expand(properties)) == properties


@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_dotted_properties_are_flat_already(properties: dict[str, Any]) -> None:
    assert flatten(properties) == properties


def test_a_name_with_a_value_and_children_keeps_both() -> None:
    nested = expand({"golem.com.pricing.model": "linear", "golem.com.pricing.model.linear.x": 1})

    assert nested == {
        "golem": {"com": {"pricing": {"model": {"@tag": "linear", "linear": {"x": 1}}}}}
    }


def agreement(demand: dict[str, Any], offer: dict[str, Any]) -> dict[str, Any]:
    vector = {"golem.com.usage.vector": ["golem.usage.cpu_sec"]}
    return {
        "agreementId": "a1",
        "demand": {"properties": demand},
        "offer": {"properties": {**vector, **offer}},
    }


def test_terms_are_read() -> None:
    terms = parse_terms(
        agreement(
            {"golem.srv.comp.task_package": "hash:…", "golem.srv.comp.expiration": 1_500},
            {"golem": {"inf": {"mem": {"gib": 0.5}, "storage": {"gib": "2"}}}},
        )
    )

    assert terms.task_package == "hash:…"
    assert terms.expires_ns == 1_500_000_000
    assert (terms.memory_gib, terms.storage_gib) == (0.5, 2.0)
    assert terms.usage_vector == ("golem.usage.cpu_sec",)


def test_terms_may_be_absent() -> None:
    terms = parse_terms(agreement({}, {}))

    assert (terms.task_package, terms.expires_ns, terms.memory_gib) == (None, None, None)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"demand": {"properties": {}}},
        {"demand": {"properties": {}}, "offer": {"properties": {}}},
        {"demand": [], "offer": {"properties": {}}},
        agreement({}, {"golem.com.usage.vector": [1]}),
    ],
)
def test_unusable_agreements_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        parse_terms(body)


def test_endlessly_nested_properties_are_refused() -> None:
    nested: dict[str, Any] = {}
    for _ in range(40):
        nested = {"a": nested}

    with pytest.raises(UsageError, match="deep"):
        parse_terms(agreement(nested, {}))


def test_files_that_are_no_agreement_are_refused(tmp_path: Any) -> None:
    for text in ("", "{", "[]"):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UsageError):
            load_terms(tmp_path / "a.json")
