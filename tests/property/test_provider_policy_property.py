"""Whatever strangers write, the parts that judge it answer with a verdict or a typed error."""

import base64
import json
import re
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shem.kernel.errors import ShemError
from shem.provider.access import Access, AccessList, Mode, OutboundRules
from shem.provider.canonical import canonical, number_text
from shem.provider.certificates import NotSound, read_certificate, read_descriptor
from shem.provider.rules_access import judge_manifest, refuse_blacklisted, require_allowed
from shem.provider.verdicts import Limits, Negotiation, Reject
from shem.provider.whitelist import DomainPattern, Whitelist
from shem.provider.x509 import read_certificates
from shem.rest.destinations import parse_destination, parse_host
from shem.rest.manifest import (
    CERTIFICATE,
    MANIFEST,
    NODE_DESCRIPTOR,
    SIGNATURE,
    SIGNATURE_ALGORITHM,
    parse_manifest,
)
from shem.rest.patterns import Pattern
from shem.rest.scriptrules import Match
from tests.certified import manifest_text, root

ANNA = "0x" + "a" * 40
NOW = 1_795_465_792 * 10**9
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["all", "self", "unrestricted", "https://a.com", "0.1.0", "regex", "2099"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=4)
            | st.sampled_from(
                [
                    *("$schema", "certificate", "signature", "signer", "nodeDescriptor", "payload"),
                    *("net", "inet", "out", "urls", "unrestricted", "script", "commands", "match"),
                    *("algorithm", "keyUsage", "permissions", "outbound", "version", "value"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every part of a JSON value."""
    found = [path]
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    if isinstance(value, dict | list):
        for key, inner in parts:
            found += paths_of(inner, (*path, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    found = json.loads(json.dumps(value))
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return found


BODY = json.loads(
    base64.b64decode(
        manifest_text(
            script={"commands": ["run .*", {"transfer": {"from": "a", "to": "b"}}]},
            net={"inet": {"out": {"protocols": ["http"], "urls": ["https://a.com"]}}},
        )
    )
)
BODY["payload"] = [
    {"platform": {"arch": "x", "os": "y"}, "urls": ["http://a"], "hash": "sha3:" + "ab" * 28}
]
DESCRIPTOR = root().certify("partner").describe(ANNA)


@given(st.sampled_from(paths_of(BODY)), json_values)
def test_an_altered_manifest_is_read_or_refused(path: tuple[Any, ...], new: Any) -> None:
    body = replaced(BODY, path, new)
    with suppress(ShemError):
        assert parse_manifest(body if isinstance(body, dict) else {})


@given(st.sampled_from(paths_of(DESCRIPTOR)), json_values)
def test_an_altered_descriptor_is_no_proof(path: tuple[Any, ...], new: Any) -> None:
    body = replaced(DESCRIPTOR, path, new)
    try:
        assert read_descriptor(body, NOW).node_id == ANNA
    except NotSound:
        return
    hidden = {("signature", "algorithm", "hash")}
    assert body == DESCRIPTOR or any(path[-len(one) :] == one for one in hidden)


@given(json_values)
def test_any_value_is_a_certificate_or_refused(value: Any) -> None:
    for read in (read_certificate, lambda value: read_descriptor(value, NOW)):
        with suppress(NotSound):
            read(value)


@given(st.binary(max_size=200))
def test_any_file_holds_certificates_or_is_refused(data: bytes) -> None:
    for found in (data, b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(data)):
        with suppress(NotSound):
            read_certificates(found)


demands = st.dictionaries(
    st.sampled_from(
        [
            *(MANIFEST, SIGNATURE, SIGNATURE_ALGORITHM, CERTIFICATE, NODE_DESCRIPTOR),
            *(NODE_DESCRIPTOR + ".$schema", NODE_DESCRIPTOR + ".signature.signer"),
        ]
    ),
    json_values | st.sampled_from([manifest_text(), "sha256", "AAAA"]),
)


@given(demands, st.booleans())
def test_any_demand_gets_a_verdict(demand: dict[str, Any], outbound: bool) -> None:
    listed = AccessList(True, [], ["ab" * 64])
    access = Access(OutboundRules(outbound, Mode.WHITELIST), listed, listed)
    negotiation = Negotiation(demand, {}, Limits((), access=access), NOW, ANNA)
    for rule in (judge_manifest, refuse_blacklisted, require_allowed):
        verdict = rule(negotiation)
        assert verdict is None or (isinstance(verdict, Reject) and verdict.is_final)
        assert verdict is None or len(verdict.message) < 2_000


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_written_so_that_they_read_the_same(value: float) -> None:
    text = number_text(value)

    assert float(text) == value
    assert re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?(e[+-]\d+)?", text)


@given(json_values)
def test_canonical_text_reads_as_the_value(value: Any) -> None:
    with suppress(ShemError):
        text = canonical(value)
        again = json.loads(text, parse_int=float)
        assert again == value
        assert canonical(again) == text


@given(st.text(max_size=40) | st.from_regex(r"[a-z]{1,5}://[^\s]{0,20}", fullmatch=True))
def test_a_place_has_one_normal_form(text: str) -> None:
    try:
        found = parse_destination(text)
    except ShemError:
        return
    assert parse_destination(found.url) == found
    assert parse_host(found.host) == found.host


EASY = st.text("ab.|*+?()[]^$c-", max_size=8)


@given(EASY, st.text("abc-", max_size=8), st.booleans())
def test_expressions_find_what_python_finds(pattern: str, text: str, ignore_case: bool) -> None:
    try:
        ours = Pattern(pattern, ignore_case=ignore_case)
        theirs = re.compile(pattern.replace("$", r"\Z"), re.IGNORECASE if ignore_case else 0)
    except (ShemError, re.error, FutureWarning):
        return
    assert ours.is_in(text) == bool(theirs.search(text)), pattern


@given(st.text(max_size=30))
def test_any_expression_is_read_or_refused(pattern: str) -> None:
    for kind in Match:
        with suppress(ShemError):
            Whitelist([DomainPattern(pattern, kind)]).permits(["example.com"])
