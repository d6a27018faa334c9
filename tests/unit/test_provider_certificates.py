"""Golem certificates and node descriptors: what is sound, and every way not to be."""

import json
from copy import deepcopy
from typing import Any

import pytest

from shem.kernel.errors import UsageError
from shem.kernel.times import parse
from shem.provider.canonical import canonical
from shem.provider.certificates import (
    CHAIN_MAX,
    NotSound,
    Permissions,
    fingerprint,
    read_certificate,
    read_descriptor,
)
from tests.certified import Authority, period, root

NODE = "0x" + "a" * 40
NOW = parse("2026-11-24T12:00:00Z")
UNRESTRICTED = {"outbound": "unrestricted"}


def urls(*places: str) -> dict[str, Any]:
    return {"outbound": {"urls": list(places)}}


def test_a_chain_is_read_from_its_leaf_up() -> None:
    top = root()
    leaf = top.certify("middle", permissions=UNRESTRICTED).certify(
        "leaf", keyUsage=["signNode"], permissions=urls("https://Example.com")
    )

    found = read_certificate(leaf.signed)

    assert found.subject == "leaf"
    assert len(found.chain) == 3
    assert found.id == fingerprint(leaf.signed["certificate"])
    assert found.chain[-1] == read_certificate(top.signed).id
    assert found.permissions == Permissions(outbound=frozenset({"https://example.com/"}))
    assert found.usages == {"signNode"}
    assert found.validity.holds(NOW)


def test_a_descriptor_names_its_node_and_what_it_may() -> None:
    partner = root().certify("partner", keyUsage=["signNode"])

    found = read_descriptor(partner.describe(NODE.upper().replace("X", "x")), NOW)

    assert found.node_id == NODE
    assert found.permissions.everything
    assert found.chain == read_certificate(partner.signed).chain


def test_smart_cards_sign_in_their_own_way() -> None:
    card = root(encryption="EdDSAOpenPGP")

    assert read_certificate(card.signed).subject == "root"
    card.signed["signature"]["algorithm"]["encryption"] = "EdDSA"
    with pytest.raises(NotSound, match="signature is not right"):
        read_certificate(card.signed)


def test_what_else_is_in_a_certificate_is_signed_too() -> None:
    made = root(extra={"é": [1, 2.5, None, True, "\u2028\n"]}, **{"$id": "x"})
    assert read_certificate(json.loads(json.dumps(made.signed))).subject == "root"

    made.signed["certificate"]["extra"]["é"][0] = 2
    with pytest.raises(NotSound, match="signature is not right"):
        read_certificate(made.signed)


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ({"permissions": urls("https://a.com")}, {"permissions": urls("https://b.com")}),
        ({"permissions": urls("https://a.com")}, {"permissions": urls("https://a.com/x")}),
        ({"permissions": urls("https://a.com")}, {"permissions": urls("http://a.com")}),
        ({"permissions": urls("https://a.com")}, {"permissions": UNRESTRICTED}),
        ({"permissions": UNRESTRICTED}, {"permissions": "all"}),
        ({"permissions": {}}, {"permissions": urls("https://a.com")}),
        ({"permissions": {}}, {"permissions": UNRESTRICTED}),
        ({"keyUsage": ["signCertificate"]}, {"keyUsage": "all"}),
        ({"keyUsage": ["signCertificate"]}, {"keyUsage": ["signNode"]}),
        ({"keyUsage": ["signNode"]}, {"keyUsage": ["signNode"]}),
        ({"keyUsage": []}, {"keyUsage": []}),
        ({"validityPeriod": period(until="2030-01-01T00:00:00Z")}, {}),
        ({"validityPeriod": period("2021-01-01T00:00:00Z")}, {}),
    ],
)
def test_nobody_grants_more_than_was_granted(above: dict[str, Any], below: dict[str, Any]) -> None:
    usual = {"permissions": {}} if "permissions" in above else {}
    middle = root().certify("middle", **above)

    with pytest.raises(NotSound):
        read_certificate(middle.certify("leaf", **{**usual, **below}).signed)


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ({}, {}),
        ({"permissions": UNRESTRICTED}, {"permissions": urls("https://a.com")}),
        (
            {"permissions": urls("https://a.com", "https://b.com")},
            {"permissions": urls("https://A.com:443/")},
        ),
        ({"permissions": urls("https://a.com")}, {"permissions": {}}),
        ({"keyUsage": ["signCertificate", "signNode"]}, {"keyUsage": ["signNode"]}),
    ],
)
def test_what_was_granted_may_be_granted(above: dict[str, Any], below: dict[str, Any]) -> None:
    middle = root().certify("middle", **above)
    kept = {key: value for key, value in above.items() if key not in below}

    assert read_certificate(middle.certify("leaf", **{**kept, **below}).signed)


def edit(value: dict[str, Any], path: str, new: Any) -> dict[str, Any]:
    """Return a copy with one part changed; None takes it out."""
    found = deepcopy(value)
    *parents, last = path.split("/")
    inner = found
    for parent in parents:
        inner = inner[parent]
    if new is None:
        del inner[last]
    else:
        inner[last] = new
    return found


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("$schema", None),
        ("$schema", "https://golem.network/schemas/v1/certificate.schema.json"),
        ("more", 1),
        ("certificate", None),
        ("certificate", []),
        ("certificate/subject", None),
        ("certificate/subject/displayName", 7),
        ("certificate/subject/displayName", "x" * 2_000),
        ("certificate/keyUsage", None),
        ("certificate/keyUsage", "some"),
        ("certificate/keyUsage", ["signAll"]),
        ("certificate/keyUsage", [7]),
        ("certificate/permissions", None),
        ("certificate/permissions", "none"),
        ("certificate/permissions", {"outbound": "all"}),
        ("certificate/permissions", {"outbound": {}}),
        ("certificate/permissions", {"outbound": {"urls": "https://a.com"}}),
        ("certificate/permissions", {"outbound": {"urls": ["a.com"]}}),
        ("certificate/permissions", {"outbound": {"urls": [7]}}),
        ("certificate/validityPeriod", None),
        ("certificate/validityPeriod/notAfter", "soon"),
        ("certificate/validityPeriod/notAfter", 2090),
        ("certificate/publicKey", "key"),
        ("certificate/publicKey/algorithm", "RSA"),
        ("certificate/publicKey/key", "ab"),
        ("certificate/publicKey/key", "zz" * 32),
        ("certificate/publicKey/key", "ff" * 32),
        ("certificate/publicKey/key", " ".join(["00"] * 32)),
        ("signature", None),
        ("signature/value", "00" * 64),
        ("signature/value", "00" * 63),
        ("signature/value", None),
        ("signature/algorithm", None),
        ("signature/algorithm/encryption", "RSA"),
        ("signature/algorithm/hash", "md5"),
        ("signature/signer", None),
        ("signature/signer", "me"),
        ("signature/signer", []),
        ("signature/signer", {}),
    ],
)
def test_what_was_changed_is_not_sound(path: str, new: Any) -> None:
    with pytest.raises(NotSound):
        read_certificate(edit(root().signed, path, new))


@pytest.mark.parametrize("value", [None, 7, "self", "", [], {}, {"signature": {"signer": "self"}}])
def test_what_is_no_certificate_is_refused(value: object) -> None:
    with pytest.raises(NotSound):
        read_certificate(value)
    with pytest.raises(NotSound):
        read_descriptor(value, NOW)


def test_another_key_signs_for_nobody() -> None:
    forged = Authority(root().signed, root("thief").key).certify("leaf")

    with pytest.raises(NotSound, match="signature is not right"):
        read_certificate(forged.signed)


def test_a_chain_has_an_end() -> None:
    found = root()
    for depth in range(CHAIN_MAX):
        found = found.certify(f"{depth}")
    with pytest.raises(NotSound, match="more than"):
        read_certificate(found.signed)

    endless: dict[str, Any] = deepcopy(root().signed)
    endless["signature"]["signer"] = endless
    with pytest.raises(NotSound, match="more than"):
        read_certificate(endless)


@pytest.mark.parametrize(
    "changes",
    [
        {"validityPeriod": period(until="2026-11-24T11:59:59Z")},
        {"validityPeriod": period("2026-11-24T12:00:01Z")},
        {"validityPeriod": period(until="2091-01-01T00:00:00Z")},
        {"permissions": UNRESTRICTED, "more": "all"},
        {"permissions": "all"},
        {"nodeId": "0x12"},
        {"nodeId": None},
    ],
)
def test_a_descriptor_that_does_not_hold_is_refused(changes: dict[str, Any]) -> None:
    partner = root().certify("partner", permissions=urls("https://a.com"), keyUsage=["signNode"])
    good = {"permissions": urls("https://a.com")}
    assert read_descriptor(partner.describe(NODE, **good), NOW)

    with pytest.raises(NotSound):
        read_descriptor(partner.describe(NODE, **{**good, **changes}), NOW)


def test_who_may_not_sign_nodes_signs_none() -> None:
    partner = root().certify("partner", keyUsage=["signCertificate", "signManifest"])

    with pytest.raises(NotSound, match="may not sign node"):
        read_descriptor(partner.describe(NODE), NOW)
    with pytest.raises(NotSound):
        read_descriptor({**root().describe(NODE), "signature": "self"}, NOW)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None, "x"]}, '{"a":[true,null,"x"],"b":1}'),
        ({"\ufb33": 1, "\U0001f600": 2, "\u20ac": 3}, '{"€":3,"😀":2,"\ufb33":1}'),
        ('\u0000\u001f\b\t\n\f\r"\\\u007f', '"\\u0000\\u001f\\b\\t\\n\\f\\r\\"\\\\\u007f"'),
        ([], "[]"),
        ({}, "{}"),
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (100.0, "100"),
        (1.5, "1.5"),
        (-12.25, "-12.25"),
        (0.002, "0.002"),
        (0.000001, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-9, "1.5e-9"),
        (1e21, "1e+21"),
        (1e20, "100000000000000000000"),
        (333333333.33333329, "333333333.3333333"),
        (4.50, "4.5"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (9007199254740991, "9007199254740991"),
    ],
)
def test_values_have_one_text(value: object, text: str) -> None:
    assert canonical(value).decode() == text


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 1 << 53, 10**400, {1: 2}, b"x", "\ud800", {"\udfff": 1}, (1,)],
)
def test_what_has_no_one_text_is_refused(value: object) -> None:
    with pytest.raises(UsageError):
        canonical(value)


def test_depth_has_a_limit() -> None:
    value: list[Any] = []
    for _ in range(100):
        value = [value]
    with pytest.raises(UsageError, match="deep"):
        canonical(value)
