"""Payload manifests: what is read, and what is refused."""

import base64
import json
from typing import Any

import pytest

from shem.kernel.errors import UsageError
from shem.kernel.times import parse
from shem.rest.manifest import MANIFEST_SIZE_MAX, Manifest, decode_manifest
from shem.rest.patterns import Budget

DIGEST = "9a3b5d67b0b27746283cb5f287c13eab1beaa12d92a9f536b747c7ae"


def body(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "version": "0.1.0",
        "createdAt": "2022-07-26T12:51:00.000000Z",
        "expiresAt": "2100-01-01T00:01:00.000000Z",
        "metadata": {"name": "Service1", "version": "0.1.1", "authors": ["mf <mf@golem.network>"]},
        "payload": [
            {
                "platform": {"arch": "x86_64", "os": "linux"},
                "urls": ["http://example.com/image.gvmi"],
                "hash": f"sha3:{DIGEST}",
            }
        ],
        "compManifest": {
            "version": "0.1.0",
            "script": {"commands": ["run .*", "transfer .*"], "match": "regex"},
            "net": {"inet": {"out": {"protocols": ["https"], "urls": ["https://Example.com"]}}},
        },
    }
    return {key: value for key, value in {**found, **changes}.items() if value is not None}


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def read(**changes: Any) -> Manifest:
    return decode_manifest(encoded(body(**changes)))


def computing(**parts: Any) -> Manifest:
    return read(compManifest=parts)


def reaching(out: Any) -> Manifest:
    return computing(net={"inet": {"out": out}})


def test_a_manifest_is_read() -> None:
    found = read()

    assert found.expires_ns == parse("2100-01-01T00:01:00Z")
    assert found.task_package("x86_64", "linux") == (
        f"hash:sha3:{DIGEST}:http://example.com/image.gvmi"
    )
    assert [place.url for place in found.outbound.destinations] == ["https://example.com/"]
    assert not found.outbound.unrestricted
    assert found.outbound.is_requested


@pytest.mark.parametrize(
    "text",
    [
        lambda text: "\n".join(text[i : i + 64] for i in range(0, len(text), 64)),
        lambda text: base64.b64decode(text).decode(),
    ],
)
def test_wrapped_base64_and_plain_json_are_read(text: Any) -> None:
    found = decode_manifest(text(encoded(body())))

    assert found.outbound == read().outbound
    assert found.payloads == read().payloads


def test_an_image_is_that_of_the_machine() -> None:
    other = {"urls": ["http://e.com/b"], "hash": f"sha3-224:{DIGEST.upper()}"}
    found = read(payload=[*body()["payload"], other])

    assert found.task_package("aarch64", "linux") == f"hash:sha3:{DIGEST}:http://e.com/b"
    assert read().task_package("aarch64", "linux") is None
    assert read(payload=[]).task_package("x86_64", "linux") is None


@pytest.mark.parametrize("parts", [{}, {"net": {}}, {"net": {"inet": {}}}, {"net": None}])
def test_a_manifest_may_want_nothing_of_the_internet(parts: dict[str, Any]) -> None:
    found = computing(**parts)
    assert not found.outbound.is_requested
    assert found.script is None


def test_access_may_be_unrestricted_or_empty() -> None:
    assert reaching({"unrestricted": {"urls": True}}).outbound.unrestricted
    assert not reaching({"urls": []}).outbound.is_requested


@pytest.mark.parametrize(
    "value",
    [None, 7, [], {}, "", "%", "e30=x", "AAAA", encoded([]), encoded("x"), encoded(None), "{"],
)
def test_what_is_no_manifest_is_refused(value: object) -> None:
    with pytest.raises(UsageError):
        decode_manifest(value)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": None},
        {"version": 1},
        {"version": "1"},
        {"version": "0.1"},
        {"version": "01.1.0"},
        {"version": "1.0.0"},
        {"createdAt": None},
        {"createdAt": 7},
        {"expiresAt": None},
        {"expiresAt": "soon"},
        {"expiresAt": "2100-13-01T00:00:00Z"},
        {"metadata": "me"},
        {"payload": None},
        {"payload": {}},
        {"payload": ["x"]},
        {"payload": [{"urls": [], "hash": f"sha3:{DIGEST}"}]},
        {"payload": [{"urls": "http://e.com", "hash": f"sha3:{DIGEST}"}]},
        {"payload": [{"urls": [7], "hash": f"sha3:{DIGEST}"}]},
        {"payload": [{"urls": ["http://e.com"]}]},
        {"payload": [{"urls": ["http://e.com"], "hash": "sha3:deadbeef"}]},
        {"payload": [{"urls": ["http://e.com"], "hash": f"md5:{DIGEST}"}]},
        {"payload": [{"urls": ["http://e.com"], "hash": f"sha3-256:{DIGEST}"}]},
        {"payload": [{"urls": ["http://e.com"], "hash": f"sha3:{DIGEST}", "platform": "linux"}]},
        {"payload": [{"urls": ["u"], "hash": f"sha3:{DIGEST}", "platform": {"arch": "x86_64"}}]},
        {"payload": body()["payload"] * 65},
        {"compManifest": "x"},
        {"compManifest": {"version": "1.0.0"}},
        {"compManifest": {"script": []}},
        {"compManifest": {"script": {}}},
        {"compManifest": {"script": {"commands": "run"}}},
        {"compManifest": {"script": {"commands": [7]}}},
        {"compManifest": {"script": {"commands": [], "match": "like"}}},
        {"compManifest": {"script": {"commands": ["run ("], "match": "regex"}}},
        {"compManifest": {"script": {"commands": ["run x"] * 1_001}}},
        {"compManifest": {"script": {"commands": ["run a{1000}"] * 60, "match": "regex"}}},
        {"compManifest": {"net": "x"}},
        {"compManifest": {"net": {"inet": 7}}},
        {"compManifest": {"net": {"inet": {"out": []}}}},
        {"metadata": {"name": "\ud800"}},
    ],
)
def test_a_malformed_manifest_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        read(**changes)


@pytest.mark.parametrize(
    "out",
    [
        {},
        {"urls": ["https://a.com"], "unrestricted": {"urls": True}},
        {"unrestricted": {"urls": False}},
        {"unrestricted": {"urls": 1}},
        {"unrestricted": {}},
        {"unrestricted": True},
        {"urls": "https://a.com"},
        {"urls": [None]},
        {"urls": ["example.com"]},
        {"urls": ["mailto:a@b.com"]},
        {"urls": ["https:///path"]},
        {"urls": ["tcp://5.6.7.8/"]},
        {"urls": ["https://a.com:0"]},
        {"urls": ["https://a.com:99999"]},
        {"urls": ["https://user:word@a.com"]},
        {"urls": ["https://a b.com"]},
        {"urls": ["https://a.com\n"]},
        {"urls": ["https://a.com\\@b.com"]},
        {"urls": ["https://*.a.com"]},
        {"urls": ["https://[::1"]},
        {"urls": ["https://[fe80::1%25eth0]/"]},
        {"urls": ["https://[fe80::1%eth0]/"]},
        {"urls": ["https://a..com"]},
        {"urls": ["https://" + "a" * 3_000]},
        {"urls": ["https://a.com"] * 257},
        {"urls": ["https://a.com"], "protocols": "https"},
        {"urls": ["https://a.com"], "protocols": [7]},
    ],
)
def test_malformed_access_is_refused(out: Any) -> None:
    with pytest.raises(UsageError):
        reaching(out)


def test_a_huge_manifest_is_refused() -> None:
    with pytest.raises(UsageError, match="at most"):
        read(metadata={"name": "x" * MANIFEST_SIZE_MAX})
    with pytest.raises(UsageError, match="at most"):
        decode_manifest("A" * (4 * MANIFEST_SIZE_MAX))
    with pytest.raises(UsageError):
        decode_manifest("[" * 100_000)


@pytest.mark.parametrize(
    ("url", "normal", "endpoint"),
    [
        ("HTTPS://Example.COM", "https://example.com/", ("example.com", 443)),
        ("https://example.com:443/", "https://example.com/", ("example.com", 443)),
        ("https://example.com:8443/x?y", "https://example.com:8443/x?y", ("example.com", 8443)),
        ("http://example.com.", "http://example.com/", ("example.com", 80)),
        ("tcp://5.6.7.8:33/", "tcp://5.6.7.8:33/", ("5.6.7.8", 33)),
        ("udp://1.1.1.1:853", "udp://1.1.1.1:853/", ("1.1.1.1", 853)),
        ("wss://[2001:DB8::0:1]/", "wss://[2001:db8::1]/", ("2001:db8::1", 443)),
        ("https://münchen.de/", "https://xn--mnchen-3ya.de/", ("xn--mnchen-3ya.de", 443)),
    ],
)
def test_places_have_a_normal_form(url: str, normal: str, endpoint: tuple[str, int]) -> None:
    [place] = reaching({"urls": [url]}).outbound.destinations

    assert place.url == normal
    assert place.endpoint == endpoint


def permits_run(commands: list[Any], match: str, *words: str) -> bool:
    return permits({"commands": commands, "match": match}, "run", *words)


def permits(script: dict[str, Any], kind: str, *words: str) -> bool:
    rules = computing(script=script).script
    assert rules is not None
    try:
        if kind == "run":
            rules.require_run(words[0], words[1:], Budget())
        else:
            rules.require_transfer(words[0], words[1], Budget())
    except UsageError as error:
        assert error.message.startswith("script validation error: no matching manifest entry")
        return False
    return True


@pytest.mark.parametrize(
    ("commands", "match", "run", "permitted"),
    [
        (["run /bin/date -R"], "strict", ("/bin/date", "-R"), True),
        (["run /bin/date -R"], "strict", ("/bin/date", "-R", "-u"), False),
        (["run /bin/date -R"], "strict", ("/bin/date",), False),
        (["run /bin/date"], "strict", ("/bin/date",), True),
        (["run /bin/date "], "strict", ("/bin/date",), True),
        (["run /bin/date.*"], "strict", ("/bin/date", "-R"), False),
        (["run /bin/date.*"], "regex", ("/bin/date", "-R"), True),
        (["run ^/bin/date"], "regex", ("/bin/date",), False),
        (["run .*"], "regex", ("/bin/sh", "-c", "true"), True),
        (["transfer .*"], "regex", ("/bin/sh",), False),
        ([], "regex", ("/bin/sh",), False),
        (["start"], "strict", ("/bin/sh",), False),
        ([{"run": {"args": "/bin/date -R"}}], "strict", ("/bin/date", "-R"), True),
        ([{"run": {"args": ["/bin/date", "-R"]}}], "strict", ("/bin/date", "-R"), True),
        (['{"run": {"args": "/bin/date -R"}}'], "strict", ("/bin/date", "-R"), True),
        ([{"run": {"args": "/bin/d.*", "match": "regex"}}], "strict", ("/bin/date",), True),
        ([{"run": {"args": "/bin/d.*", "match": "strict"}}], "regex", ("/bin/date",), False),
        ([{"run": {"args": 7}}], "strict", ("/bin/date",), False),
        ([{"run": {"args": [7]}}], "strict", ("/bin/date",), False),
        ([{"run": "/bin/date"}], "strict", ("/bin/date",), False),
        ([{"walk": {"args": "/bin/date"}}], "strict", ("/bin/date",), False),
        (["7", "[]", "null"], "strict", ("/bin/date",), False),
    ],
)
def test_programs_are_those_that_a_rule_names(
    commands: list[Any], match: str, run: tuple[str, ...], permitted: bool
) -> None:
    assert permits_run(commands, match, *run) is permitted


@pytest.mark.parametrize(
    ("commands", "permitted"),
    [
        (["transfer http://a.com/x container:/in"], True),
        (["transfer http://a.com/y container:/in"], False),
        ([{"transfer": {"from": "http://a.com/x", "to": "container:/in"}}], True),
        ([{"transfer": {"from": ".*", "to": ".*", "match": "regex"}}], True),
        ([{"transfer": {"from": "http://a.com/x"}}], False),
        (["run http://a.com/x container:/in"], False),
    ],
)
def test_transfers_are_those_that_a_rule_names(commands: list[Any], permitted: bool) -> None:
    words = ("http://a.com/x", "container:/in")

    assert permits({"commands": commands}, "transfer", *words) is permitted


def test_a_long_command_matches_no_expression() -> None:
    assert permits_run(["run .*"], "regex", "/bin/x", "a" * 60_000)
    assert not permits_run(["run .*"], "regex", "/bin/x", "a" * 70_000)
