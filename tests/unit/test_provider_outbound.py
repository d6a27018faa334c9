"""What a requestor must show before its programs may reach the internet, and who may rent."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from shem.kernel.times import parse
from shem.market.properties import flatten
from shem.provider.access import Access, AccessList, Grant, Mode, OutboundRules
from shem.provider.certificates import read_certificate
from shem.provider.keystore import Entry, Keystore
from shem.provider.rules_access import (
    CAPABILITIES,
    judge_manifest,
    refuse_blacklisted,
    require_allowed,
)
from shem.provider.verdicts import Limits, Negotiation, Reject
from shem.provider.whitelist import DomainPattern, Whitelist
from shem.provider.x509 import id_of
from shem.rest.manifest import (
    CERTIFICATE,
    MANIFEST,
    NODE_DESCRIPTOR,
    SIGNATURE,
    SIGNATURE_ALGORITHM,
)
from shem.rest.scriptrules import Match
from tests.certified import UNTIL, Issuer, issue, manifest_text, period, reaching, root

NOW = parse("2026-11-24T12:00:00Z")
ANNA, OTTO = ("0x" + char * 40 for char in "ab")
LISTED = Whitelist([DomainPattern("a.com"), DomainPattern(r"^.*\.golem\.network$", Match.REGEX)])
TOP = root()
PARTNER = TOP.certify("partner", keyUsage=["signNode", "signCertificate"])
TOP_ID, PARTNER_ID = (read_certificate(one.signed).id for one in (TOP, PARTNER))
AUDITOR = issue("auditor")
SIGNER = AUDITOR.issue("office").issue("signer", is_authority=False)
STRANGER = issue("stranger")


def keystore(*issuers: Issuer) -> Keystore:
    found = [issuer.certificate for issuer in issuers]
    return Keystore(tuple(Entry(id_of(one), one, Path("x.pem")) for one in found))


def judged(
    demand: Mapping[str, Any],
    *,
    outbound: OutboundRules | None = None,
    trusted: Keystore | None = None,
    able: tuple[str, ...] = ("inet",),
    checked: bool = True,
) -> Any:
    access = Access(outbound=outbound or OutboundRules(everyone=Mode.NONE))
    return judge_manifest(
        Negotiation(
            demand=demand,
            offer={CAPABILITIES: list(able)},
            limits=Limits(
                ("erc20-holesky-tglm",),
                access=access,
                whitelist=LISTED,
                keystore=trusted or Keystore(),
                manifests_are_checked=checked,
            ),
            now_ns=NOW,
            requestor=ANNA,
        )
    )


def refused(verdict: Any) -> str:
    assert isinstance(verdict, Reject)
    assert verdict.is_final
    return verdict.message


def wants(*urls: str, **more: Any) -> dict[str, Any]:
    return {MANIFEST: reaching(*urls), **more}


def signed(
    text: str, signer: Issuer = SIGNER, *also: Issuer, algorithm: str = "sha256", **changes: Any
) -> dict[str, Any]:
    import base64

    stack = b"".join(found.pem for found in (*also, signer))
    return {
        MANIFEST: text,
        SIGNATURE: signer.sign(text),
        SIGNATURE_ALGORITHM: algorithm,
        CERTIFICATE: base64.b64encode(stack).decode(),
        **changes,
    }


def office() -> Issuer:
    assert SIGNER.above is not None
    return SIGNER.above


@pytest.mark.parametrize(
    "demand",
    [
        {},
        {MANIFEST: manifest_text()},
        {MANIFEST: manifest_text(net={"inet": {"out": {"urls": []}}})},
        {MANIFEST: manifest_text(script={"commands": ["run x"]})},
    ],
)
def test_what_wants_nothing_needs_no_permission(demand: dict[str, Any]) -> None:
    assert judged(demand, outbound=OutboundRules(enabled=False), able=()) is None


@pytest.mark.parametrize(
    "value", [None, 7, {}, "", "x", "eyJ9", "e30=", "bnVsbA==", "[" * 9_000, "é"]
)
def test_what_cannot_be_read_is_refused(value: object) -> None:
    assert refused(judged({MANIFEST: value})).startswith("invalid manifest: ")
    assert refused(judged({MANIFEST: value}, checked=False)).startswith("invalid manifest: ")


def test_a_manifest_that_has_expired_is_refused() -> None:
    import base64

    body = json.loads(base64.b64decode(manifest_text()))
    body["expiresAt"] = "2026-11-24T12:00:00Z"
    text = base64.b64encode(json.dumps(body).encode()).decode()

    assert refused(judged({MANIFEST: text})) == "invalid manifest: it has expired"


@pytest.mark.parametrize(
    ("mode", "urls", "granted"),
    [
        (Mode.ALL, ("https://b.com",), True),
        (Mode.ALL, (), True),
        (Mode.NONE, ("https://a.com",), False),
        (Mode.WHITELIST, ("https://a.com",), True),
        (Mode.WHITELIST, ("https://A.com:8443/x",), True),
        (Mode.WHITELIST, ("https://a.com", "https://yacn2.golem.network"), True),
        (Mode.WHITELIST, ("https://a.com", "https://b.com"), False),
        (Mode.WHITELIST, ("https://www.a.com",), False),
        (Mode.WHITELIST, ("https://a.com.b.com",), False),
        (Mode.WHITELIST, ("https://golem.network.b.com",), False),
        (Mode.WHITELIST, ("https://127.0.0.1",), False),
        (Mode.WHITELIST, (), False),
    ],
)
def test_everyone_may_reach_what_the_mode_says(
    mode: Mode, urls: tuple[str, ...], granted: bool
) -> None:
    found = judged(wants(*urls), outbound=OutboundRules(everyone=mode))

    if granted:
        assert found is None
    else:
        assert refused(found).startswith("Outbound rejected because: Everyone rule ")


def test_a_list_that_takes_too_long_to_compare_grants_nothing() -> None:
    slow = Whitelist(
        [DomainPattern(f"({'a?' * 200}{index})*b", Match.REGEX) for index in range(10)]
    )
    hosts = ["a" * 60 + f".{index}.com" for index in range(200)]

    assert not slow.permits([*hosts, "b.com"])
    assert slow.permits(["b"])


def test_nothing_is_granted_where_the_operator_has_switched_it_off() -> None:
    rules = OutboundRules(enabled=False, everyone=Mode.ALL)

    assert refused(judged(wants("https://a.com"), outbound=rules)) == "outbound is disabled"
    assert judged(wants("https://a.com"), outbound=rules, checked=False) is None


def test_every_rule_says_why_it_grants_nothing() -> None:
    assert refused(judged(wants("https://a.com"))) == (
        "Outbound rejected because: Everyone rule is disabled"
        " ; Audited-Payload rule requires manifest signature"
        " ; Partner rule requires node descriptor"
    )


@pytest.mark.parametrize(
    ("able", "urls", "problem"),
    [
        (("inet",), ("udp://1.1.1.1:53",), None),
        (("outbound-proxy",), ("https://a.com", "tcp://5.6.7.8:33"), None),
        (("outbound-proxy",), (), None),
        (("outbound-proxy",), ("udp://1.1.1.1:53",), "outbound over udp is not offered"),
        ((), ("https://a.com",), "outbound is not offered by this runtime"),
        (("manifest-support",), (), "outbound is not offered by this runtime"),
    ],
)
def test_what_is_granted_must_be_possible(
    able: tuple[str, ...], urls: tuple[str, ...], problem: str | None
) -> None:
    found = judged(wants(*urls), outbound=OutboundRules(everyone=Mode.ALL), able=able)

    if problem is None:
        assert found is None
    else:
        assert problem in refused(found)


def audits(mode: Mode = Mode.ALL, *issuers: Issuer) -> OutboundRules:
    rules = {id_of(found.certificate): Grant(mode) for found in issuers or (AUDITOR,)}
    return OutboundRules(everyone=Mode.NONE, audited_payload=rules)


@pytest.mark.parametrize("order", [1, -1])
def test_a_manifest_that_an_auditor_vouches_for_is_granted(order: int) -> None:
    text = reaching("https://b.com")
    chain = (AUDITOR, office())[::order]

    for trusted in ((AUDITOR,), (AUDITOR, office()), (AUDITOR, office(), SIGNER)):
        demand = signed(text, SIGNER, *chain)
        assert judged(demand, outbound=audits(), trusted=keystore(*trusted)) is None


def test_der_and_issuers_of_the_keystore_do_as_well() -> None:
    import base64

    text = reaching("https://b.com")
    demand = signed(text) | {CERTIFICATE: base64.b64encode(SIGNER.der).decode()}

    assert judged(demand, outbound=audits(), trusted=keystore(AUDITOR, office())) is None
    assert "not in the keystore" not in refused(
        judged(demand, outbound=audits(Mode.NONE), trusted=keystore(AUDITOR, office()))
    )
    message = refused(judged(demand, outbound=audits(), trusted=keystore(AUDITOR)))
    assert "no certificate of the chain is in the keystore" in message


def test_the_rule_nearest_to_the_signer_counts() -> None:
    text = reaching("https://b.com")
    demand = signed(text, SIGNER, office())
    trusted = keystore(AUDITOR, office(), SIGNER)
    ids = [id_of(found.certificate) for found in (SIGNER, office(), AUDITOR)]
    for modes, granted in (
        ((Mode.ALL, Mode.NONE, Mode.NONE), True),
        ((Mode.NONE, Mode.ALL, Mode.ALL), False),
        ((Mode.WHITELIST, Mode.ALL, Mode.ALL), False),
        ((None, Mode.ALL, Mode.NONE), True),
        ((None, None, Mode.NONE), False),
    ):
        grants = {
            one: Grant(mode) for one, mode in zip(ids, modes, strict=True) if mode is not None
        }
        rules = OutboundRules(everyone=Mode.NONE, audited_payload=grants)
        assert (judged(demand, outbound=rules, trusted=trusted) is None) is granted, modes


TEXT = reaching("https://b.com")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({SIGNATURE: SIGNER.sign(TEXT + " ")}, "Invalid signature."),
        ({SIGNATURE: STRANGER.sign(TEXT)}, "Invalid signature."),
        ({SIGNATURE: ""}, "Invalid signature."),
        ({SIGNATURE: "é"}, "not base64"),
        ({SIGNATURE: 7}, "requires manifest signature"),
        ({SIGNATURE: None}, "requires manifest signature"),
        ({SIGNATURE_ALGORITHM: "sha512"}, "Invalid signature."),
        ({SIGNATURE_ALGORITHM: "sha1"}, "not known here"),
        ({SIGNATURE_ALGORITHM: "md5"}, "not known here"),
        ({SIGNATURE_ALGORITHM: ""}, "not known here"),
        ({CERTIFICATE: ""}, "not an X.509 certificate"),
        ({CERTIFICATE: "AAAA"}, "not an X.509 certificate"),
        ({CERTIFICATE: "A" * 400_000}, "larger than"),
        ({CERTIFICATE: ["x"]}, "requires manifest signature"),
        ({MANIFEST: reaching("https://c.com")}, "Invalid signature."),
    ],
)
def test_a_signature_that_proves_nothing_grants_nothing(
    changes: dict[str, Any], problem: str
) -> None:
    demand = {**signed(TEXT, SIGNER, office()), **changes}

    assert problem in refused(judged(demand, outbound=audits(), trusted=keystore(AUDITOR)))


def test_chains_that_lead_nowhere_grant_nothing() -> None:
    day = {"since_days": -20, "days": -10}
    below_leaf = SIGNER.issue("below", is_authority=False)
    fake_top = issue("auditor")
    short = issue("short", path_length=0)
    limits = x509.NameConstraints([x509.DNSName("a.com")], None)
    cases: list[tuple[Issuer, tuple[Issuer, ...], tuple[Issuer, ...], str]] = [
        (STRANGER, (), (AUDITOR,), "in the keystore"),
        (STRANGER, (), (), "in the keystore"),
        (fake_top.issue("x"), (fake_top,), (AUDITOR,), "in the keystore"),
        (below_leaf, (SIGNER, office()), (AUDITOR,), "in the keystore"),
        (AUDITOR.issue("old", **day), (), (AUDITOR,), "not valid now"),
        (AUDITOR.issue("new", since_days=5), (), (AUDITOR,), "not valid now"),
        (AUDITOR.issue("gone", **day).issue("x"), (), (AUDITOR,), "in the keystore"),
        (short.issue("a").issue("b"), (short,), (short,), "in the keystore"),
        (AUDITOR.issue("odd", critical=limits), (), (AUDITOR,), "limits that are not known"),
    ]
    for signer, came, trusted, problem in cases:
        rules = audits(Mode.ALL, AUDITOR, short)
        demand = signed(TEXT, signer, *came)
        message = refused(judged(demand, outbound=rules, trusted=keystore(*trusted)))
        assert problem in message, (signer, message)


def test_other_digests_are_known() -> None:
    demand = signed(TEXT, SIGNER, office(), algorithm="SHA512")
    demand[SIGNATURE] = SIGNER.sign(TEXT, hashes.SHA512())

    assert judged(demand, outbound=audits(), trusted=keystore(AUDITOR)) is None


def partners(mode: Mode = Mode.ALL, *ids: str) -> OutboundRules:
    grants = {found: Grant(mode) for found in ids or (PARTNER_ID,)}
    return OutboundRules(everyone=Mode.NONE, partner=grants)


def described(**changes: Any) -> dict[str, Any]:
    return {NODE_DESCRIPTOR: PARTNER.describe(ANNA, **changes)}


def test_a_requestor_that_a_partner_vouches_for_is_granted() -> None:
    demand = wants("https://b.com", **described())
    as_text = {NODE_DESCRIPTOR: json.dumps(demand[NODE_DESCRIPTOR])}
    as_properties = flatten(demand)

    assert NODE_DESCRIPTOR not in as_properties
    for found in (demand, {**demand, **as_text}, as_properties):
        assert judged(found, outbound=partners()) is None
        assert judged(found, outbound=partners(Mode.ALL, TOP_ID)) is None


@pytest.mark.parametrize(
    ("urls", "changes", "rules", "problem"),
    [
        (("https://b.com",), {}, partners(Mode.NONE), "Partner rule is disabled"),
        (("https://b.com",), {}, partners(Mode.WHITELIST), "Partner rule didn't match whitelist"),
        (("https://b.com",), {}, partners(Mode.ALL, "ab" * 64), "is not trusted"),
        (("https://b.com",), {}, partners(Mode.NONE, TOP_ID), "Partner rule is disabled"),
        (("https://b.com",), {"nodeId": OTTO}, partners(), "Node ids mismatch"),
        (("https://b.com",), {"permissions": {}}, partners(), "forbidden url"),
        (
            ("https://b.com",),
            {"permissions": {"outbound": {"urls": ["https://b.com/x"]}}},
            partners(),
            "forbidden url requested: https://b.com/",
        ),
        (
            (),
            {"permissions": {"outbound": {"urls": ["https://b.com"]}}},
            partners(),
            "allows only for specific urls",
        ),
        (
            ("https://b.com",),
            {"validityPeriod": period(until="2026-11-24T11:00:00Z")},
            partners(),
            "not valid now",
        ),
    ],
)
def test_a_descriptor_that_does_not_grant_this_grants_nothing(
    urls: tuple[str, ...], changes: dict[str, Any], rules: OutboundRules, problem: str
) -> None:
    assert problem in refused(judged(wants(*urls, **described(**changes)), outbound=rules))


def test_a_descriptor_grants_the_urls_that_it_names() -> None:
    named = {"outbound": {"urls": ["https://b.com", "https://c.com"]}}
    demand = wants("https://B.com/", **described(permissions=named))

    assert judged(demand, outbound=partners()) is None


@pytest.mark.parametrize("value", ["", "{", "[", "7", [], {}, 7, {"a": {}}, "{}"])
def test_a_descriptor_that_is_none_grants_nothing_and_is_suspicious(value: object) -> None:
    demand = wants("https://b.com", **{NODE_DESCRIPTOR: value})

    assert "Partner not a node descriptor" in refused(judged(demand, outbound=partners()))
    for access, rule in ((BLACKLIST, refuse_blacklisted), (ALLOW_ONLY, require_allowed)):
        assert "suspicious" in refused(rule(renting(demand, access)))


def test_a_descriptor_in_pieces_that_was_changed_grants_nothing() -> None:
    demand = flatten(wants("https://b.com", **described()))
    demand[NODE_DESCRIPTOR + ".nodeDescriptor.validityPeriod.notAfter"] = UNTIL.replace("90", "91")

    assert "signature is not right" in refused(judged(demand, outbound=partners()))


BLACKLIST = Access(blacklist=AccessList(True, [OTTO], [PARTNER_ID]))
ALLOW_ONLY = Access(allow_only=AccessList(True, [OTTO], [PARTNER_ID]))


def renting(demand: Mapping[str, Any], access: Access, requestor: str = ANNA) -> Negotiation:
    return Negotiation(demand, {}, Limits((), access=access), NOW, requestor)


@pytest.mark.parametrize(
    ("demand", "requestor", "problem"),
    [
        ({}, ANNA, None),
        ({}, OTTO, "NodeId is on the blacklist"),
        ({}, OTTO.upper().replace("X", "x"), "NodeId is on the blacklist"),
        (described(), ANNA, "certificate is on the blacklist"),
        ({NODE_DESCRIPTOR: TOP.describe(ANNA)}, ANNA, None),
        ({NODE_DESCRIPTOR: TOP.describe(OTTO)}, ANNA, "suspicious behavior: Node ids mismatch"),
        ({NODE_DESCRIPTOR: "x"}, ANNA, "suspicious behavior"),
    ],
)
def test_whom_the_operator_has_blacklisted_does_not_rent(
    demand: dict[str, Any], requestor: str, problem: str | None
) -> None:
    found = refuse_blacklisted(renting(demand, BLACKLIST, requestor))

    if problem is None:
        assert found is None
    else:
        assert problem in refused(found)
    assert refuse_blacklisted(renting(demand, Access(), requestor)) is None


@pytest.mark.parametrize(
    ("demand", "requestor", "problem"),
    [
        ({}, ANNA, "Requestor is not on the allow-only list"),
        ({}, OTTO, None),
        (described(), ANNA, None),
        ({NODE_DESCRIPTOR: TOP.describe(ANNA)}, ANNA, "is not on the allow-only list"),
        ({NODE_DESCRIPTOR: PARTNER.describe(OTTO)}, ANNA, "suspicious behavior"),
        ({NODE_DESCRIPTOR: {}}, ANNA, "suspicious behavior"),
    ],
)
def test_where_those_who_may_rent_are_named_no_one_else_does(
    demand: dict[str, Any], requestor: str, problem: str | None
) -> None:
    found = require_allowed(renting(demand, ALLOW_ONLY, requestor))

    if problem is None:
        assert found is None
    else:
        assert problem in refused(found)
    assert require_allowed(renting(demand, Access(), requestor)) is None
