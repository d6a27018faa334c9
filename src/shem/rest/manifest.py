"""Payload manifests: what a requestor declares, and binds itself to (docs/protocol/
provider-agent.md §5.8).

Pure, and shared by who agrees (provider agent) and who keeps to it (ExeUnit). A manifest is base64
of JSON in one property of the Demand. It names the image, the commands that scripts may hold, and
the places on the internet that programs may reach. What is malformed is a UsageError.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shem.kernel import times
from shem.kernel.errors import UsageError
from shem.rest.destinations import Destination, parse_destination
from shem.rest.scriptrules import ScriptRules, parse_rules

MANIFEST: Final = "golem.srv.comp.payload"
SIGNATURE: Final = "golem.srv.comp.payload.sig"
SIGNATURE_ALGORITHM: Final = "golem.srv.comp.payload.sig.algorithm"
CERTIFICATE: Final = "golem.srv.comp.payload.cert"
NODE_DESCRIPTOR: Final = "golem.!exp.gap-31.v0.node.descriptor"

MANIFEST_SIZE_MAX: Final = 256 << 10
PAYLOADS_MAX: Final = 64
URLS_MAX: Final = 256
PROTOCOLS_MAX: Final = 16
TEXT_CHARS_MAX: Final = 2_048
DEFAULT_VERSION: Final = "0.1.0"
"""Of the part about the computation, where it does not say its own."""
MAJOR_VERSION: Final = 0
"""A later one may limit things that we would not notice."""
_SINCE, _UNTIL = "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"
_VERSION: Final = re.compile(r"(0|[1-9]\d{0,8})\.\d{1,9}\.\d{1,9}(?:[-+][0-9A-Za-z.+-]{1,128})?")
_HASH: Final = re.compile(r"sha3(?:-(224|256|384|512))?:(?:0x)?([0-9a-fA-F]{56,128})")
_DIGEST_BITS: Final = (224, 256, 384, 512)


@dataclass(frozen=True, slots=True)
class Payload:
    """One image, and the machine that it is for; None: any."""

    urls: tuple[str, ...]
    digest: str
    """Hex digits of a SHA-3."""
    architecture: str | None = None
    system: str | None = None

    def fits(self, architecture: str, system: str) -> bool:
        return self.architecture is None or (self.architecture, self.system) == (
            architecture,
            system,
        )


@dataclass(frozen=True, slots=True)
class Outbound:
    """What programs want to reach: these places, or whatever there is."""

    destinations: tuple[Destination, ...] = ()
    unrestricted: bool = False

    @property
    def is_requested(self) -> bool:
        return self.unrestricted or bool(self.destinations)


NOTHING: Final = Outbound()


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole manifest."""

    expires_ns: int
    payloads: tuple[Payload, ...]
    script: ScriptRules | None
    """None: any script."""
    outbound: Outbound

    def task_package(self, architecture: str, system: str) -> str | None:
        """Return the image for a machine, as a Demand without a manifest would name it."""
        for payload in self.payloads:
            if payload.fits(architecture, system):
                return f"hash:sha3:{payload.digest}:{payload.urls[0]}"
        return None


def decode_manifest(value: object) -> Manifest:
    """Read the property; UsageError says what is wrong with it."""
    if not isinstance(value, str):
        raise UsageError("the manifest is not a text")
    if len(value) > MANIFEST_SIZE_MAX * 2:
        raise UsageError(f"a manifest has at most {MANIFEST_SIZE_MAX} bytes")
    data = _decoded(value)
    if len(data) > MANIFEST_SIZE_MAX:
        raise UsageError(f"a manifest has at most {MANIFEST_SIZE_MAX} bytes")
    try:
        body = json.loads(data)
        json.dumps(body, ensure_ascii=False).encode()  # refuses halves of surrogate pairs
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the manifest is not JSON: {error}") from error
    return parse_manifest(_map(body, "the manifest"))


def parse_manifest(body: Mapping[str, Any]) -> Manifest:
    """Read a decoded manifest."""
    _require_version(body.get("version"), "version")
    _time(body.get("createdAt"), "createdAt")
    if body.get("metadata") is not None:
        _map(body["metadata"], "metadata")
    computation = _map(body.get("compManifest") or {}, "compManifest")
    _require_version(computation.get("version", DEFAULT_VERSION), "compManifest.version")
    script = computation.get("script")
    return Manifest(
        expires_ns=_time(body.get("expiresAt"), "expiresAt"),
        payloads=tuple(
            _payload(item, f"payload {index}")
            for index, item in enumerate(_list(body.get("payload"), "payload", PAYLOADS_MAX))
        ),
        script=None if script is None else parse_rules(_map(script, "script")),
        outbound=_outbound(computation),
    )


def write_manifest(*, image_url: str, image_hash: str, urls: Sequence[str]) -> str:
    """Return a manifest of one image whose programs may reach URLs; the same for the same words.

    `image_hash` is `sha3:` and hex digits.
    """
    for url in urls:
        parse_destination(url)
    body = {
        "version": DEFAULT_VERSION,
        "createdAt": _SINCE,
        "expiresAt": _UNTIL,
        "payload": [{"urls": [image_url], "hash": image_hash}],
        "compManifest": {
            "version": DEFAULT_VERSION,
            "net": {"inet": {"out": {"urls": list(urls)}}},
        },
    }
    return base64.b64encode(json.dumps(body, sort_keys=True).encode()).decode()


def _payload(value: object, where: str) -> Payload:
    body = _map(value, where)
    urls = tuple(_text(url, f"{where}: urls") for url in _list(body.get("urls"), where, URLS_MAX))
    found = _HASH.fullmatch(_text(body.get("hash"), f"{where}: hash"))
    if not urls:
        raise UsageError(f"{where} has no urls")
    bits = 0 if found is None else len(found[2]) * 4
    if found is None or bits not in _DIGEST_BITS or int(found[1] or bits) != bits:
        raise UsageError(f"{where}: hash is not sha3:<hex>")
    platform = body.get("platform")
    if platform is None:
        return Payload(urls, found[2].lower())
    named = _map(platform, f"{where}: platform")
    architecture, system = (_text(named.get(name), f"{where}: {name}") for name in ("arch", "os"))
    return Payload(urls, found[2].lower(), architecture, system)


def _outbound(computation: Mapping[str, Any]) -> Outbound:
    found: object = computation
    for name in ("net", "inet", "out"):
        found = _map(found, name).get(name)
        if found is None:
            return NOTHING
    out = _map(found, "out")
    for name in _list(out.get("protocols", []), "protocols", PROTOCOLS_MAX):
        _text(name, "protocols")
    if ("urls" in out) == ("unrestricted" in out):
        raise UsageError("outbound access is either urls or unrestricted")
    if "urls" not in out:
        if _map(out["unrestricted"], "unrestricted").get("urls") is not True:
            raise UsageError("unrestricted.urls is not true")
        return Outbound(unrestricted=True)
    urls = _list(out["urls"], "urls", URLS_MAX)
    return Outbound(tuple(parse_destination(_text(url, "urls")) for url in urls))


def _decoded(text: str) -> bytes:
    """Return the JSON; some tools break lines of base64, some forget to encode at all."""
    if text.lstrip().startswith("{"):
        return text.encode("utf-8", "replace")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise UsageError(f"the manifest is not base64: {error}") from error


def _require_version(value: object, where: str) -> None:
    found = _VERSION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise UsageError(f"{where} is not a version")
    if int(found[1]) > MAJOR_VERSION:
        raise UsageError(f"{where} {value} is not known here")


def _time(value: object, where: str) -> int:
    try:
        return times.parse(_text(value, where))
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}") from error


def _map(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where} is not a map")
    return value


def _list(value: object, where: str, count_max: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > count_max:
        raise UsageError(f"{where} is not a list of at most {count_max}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > TEXT_CHARS_MAX:
        raise UsageError(f"{where} is not a text")
    return value
