"""Golem certificates and node descriptors: who vouches for whom, and for what (GAP-25, GAP-31).

Pure. Both are JSON, signed over its canonical form; each carries the certificate that signed it, up
to one that signed itself. A chain is sound when every signature is right and nobody grants more
than was granted to it. That a chain is sound makes nobody trusted: a rule about one of its
certificates does. What is not sound is a PeerError.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shem.kernel import times
from shem.kernel.errors import PeerError, ShemError, UsageError
from shem.kernel.ids import parse_node_id
from shem.provider.canonical import canonical
from shem.rest.destinations import parse_destination

CERTIFICATE_SCHEMA: Final = "https://schemas.golem.network/v1/certificate.schema.json"
DESCRIPTOR_SCHEMA: Final = "https://schemas.golem.network/v1/node-descriptor.schema.json"
CHAIN_MAX: Final = 16
URLS_MAX: Final = 1_024
NAME_CHARS_MAX: Final = 1_024
USAGES: Final = frozenset({"signCertificate", "signManifest", "signNode"})
HASHES: Final = tuple(
    f"{family}{bits}" for family in ("sha", "sha3-") for bits in (224, 256, 384, 512)
)
SIGNS_DIGEST: Final = "EdDSAOpenPGP"
"""As smart cards sign: the SHA-512 of the text instead of the text."""
SIGNS_TEXT: Final = "EdDSA"
_KEY_SIZE: Final = 32
_SIGNATURE_SIZE: Final = 64


class NotSound(PeerError):
    """A certificate or descriptor that proves nothing."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """What may be done on the network; of the internet these URLs, None: whatever there is."""

    everything: bool = False
    outbound: frozenset[str] | None = frozenset()

    def covers(self, other: "Permissions") -> bool:
        """Whether nothing is in another that is not in this."""
        if self.everything:
            return True
        if other.everything:
            return False
        if self.outbound is None:
            return True
        return other.outbound is not None and other.outbound <= self.outbound


@dataclass(frozen=True, slots=True)
class Validity:
    """A span of time, both ends in it."""

    from_ns: int
    until_ns: int

    def holds(self, now_ns: int) -> bool:
        return self.from_ns <= now_ns <= self.until_ns

    def covers(self, other: "Validity") -> bool:
        return self.from_ns <= other.from_ns and other.until_ns <= self.until_ns


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate whose chain is sound."""

    chain: tuple[str, ...]
    """Ids of the certificates, its own first, up to the one that signed itself."""
    subject: str
    usages: frozenset[str] | None
    """What its key may sign; None: anything."""
    permissions: Permissions
    validity: Validity
    key: bytes

    @property
    def id(self) -> str:
        return self.chain[0]

    def may(self, usage: str) -> bool:
        return self.usages is None or usage in self.usages


@dataclass(frozen=True, slots=True)
class NodeDescriptor:
    """What certificates say of a node."""

    node_id: str
    permissions: Permissions
    chain: tuple[str, ...]


def read_certificate(value: object) -> Certificate:
    """Read a signed certificate and check its whole chain; valid times are the caller's."""
    try:
        return _certificate(value)
    except UsageError as error:
        raise NotSound(f"not a certificate: {error.message}") from error


def read_descriptor(value: object, now_ns: int) -> NodeDescriptor:
    """Read a node descriptor and check that it holds now, and its whole chain."""
    try:
        return _descriptor(value, now_ns)
    except UsageError as error:
        raise NotSound(f"not a node descriptor: {error.message}") from error


def fingerprint(certificate: object) -> str:
    """Return the id of a certificate: the hash of what is signed."""
    return hashlib.sha512(canonical(certificate)).hexdigest()


def _descriptor(value: object, now_ns: int) -> NodeDescriptor:
    signed = _signed(value, DESCRIPTOR_SCHEMA, "nodeDescriptor")
    body, signature = _map(signed, "nodeDescriptor"), _map(signed, "signature")
    signer = _certificate(signature.get("signer"))
    _require_signature(body, signature, signer.key)
    permissions, validity = _permissions(body), _validity(body)
    if not signer.may("signNode"):
        raise NotSound("the certificate may not sign node descriptors")
    _require_within(signer, permissions, validity)
    if not validity.holds(now_ns):
        raise NotSound("it is not valid now")
    try:
        node_id = str(parse_node_id(_text(body, "nodeId")))
    except ShemError as error:
        raise UsageError(f"nodeId: {error.message}") from error
    return NodeDescriptor(node_id, permissions, signer.chain)


def _certificate(value: object) -> Certificate:
    """Check a chain from its far end, where one has signed itself."""
    links: list[Mapping[str, Any]] = []
    while value != "self":
        if len(links) == CHAIN_MAX:
            raise NotSound(f"a chain of more than {CHAIN_MAX} certificates")
        links.append(_signed(value, CERTIFICATE_SCHEMA, "certificate"))
        value = _map(links[-1], "signature").get("signer")
    if not links:
        raise UsageError("there is none")
    signer: Certificate | None = None
    for link in reversed(links):
        signer = _link(link, signer)
    assert signer is not None
    return signer


def _link(signed: Mapping[str, Any], signer: Certificate | None) -> Certificate:
    """Check one certificate against its signer; None: it has signed itself."""
    body = _map(signed, "certificate")
    above = () if signer is None else signer.chain
    found = Certificate(
        chain=(fingerprint(body), *above),
        subject=_text(_map(body, "subject"), "displayName"),
        usages=_usages(body),
        permissions=_permissions(body),
        validity=_validity(body),
        key=_key(body),
    )
    signer = found if signer is None else signer
    _require_signature(body, _map(signed, "signature"), signer.key)
    if not signer.may("signCertificate"):
        raise NotSound("a certificate that may not sign certificates has signed one")
    if signer.usages is not None and (found.usages is None or not found.usages <= signer.usages):
        raise NotSound("a certificate grants a use of keys that was not granted to it")
    _require_within(signer, found.permissions, found.validity)
    return found


def _require_within(signer: Certificate, permissions: Permissions, validity: Validity) -> None:
    if not signer.permissions.covers(permissions):
        raise NotSound("a certificate grants permissions that were not granted to it")
    if not signer.validity.covers(validity):
        raise NotSound("a certificate is outlived by what it has signed")


def _require_signature(body: object, signature: Mapping[str, Any], key: bytes) -> None:
    algorithm = _map(signature, "algorithm")
    how, value = algorithm.get("encryption"), _hex(signature, "value", _SIGNATURE_SIZE)
    if how not in (SIGNS_TEXT, SIGNS_DIGEST) or algorithm.get("hash") not in HASHES:
        raise UsageError("the signature's algorithm is not known here")
    text = canonical(body)
    try:
        signed = text if how == SIGNS_TEXT else hashlib.sha512(text).digest()
        Ed25519PublicKey.from_public_bytes(key).verify(value, signed)
    except (InvalidSignature, ValueError):
        raise NotSound("the signature is not right") from None


def _signed(value: object, schema: str, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError("it is not a map")
    if value.get("$schema") != schema:
        raise UsageError(f"$schema is not {schema}")
    if set(value) - {"$schema", name, "signature"}:
        raise UsageError("it holds what is not signed")
    return value


def _usages(body: Mapping[str, Any]) -> frozenset[str] | None:
    value = body.get("keyUsage")
    if value == "all":
        return None
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UsageError("keyUsage is not a list")
    if not set(value) <= USAGES:
        raise UsageError("keyUsage has one that is not known here")
    return frozenset(value)


def _permissions(body: Mapping[str, Any]) -> Permissions:
    value = body.get("permissions")
    if value == "all":
        return Permissions(everything=True, outbound=None)
    outbound = _map(body, "permissions").get("outbound")
    if outbound is None:
        return Permissions()
    if outbound == "unrestricted":
        return Permissions(outbound=None)
    urls = outbound.get("urls") if isinstance(outbound, dict) else None
    if not isinstance(urls, list) or len(urls) > URLS_MAX:
        raise UsageError(f"permissions.outbound.urls is not a list of at most {URLS_MAX}")
    if not all(isinstance(url, str) for url in urls):
        raise UsageError("permissions.outbound.urls holds what is not a text")
    return Permissions(outbound=frozenset(parse_destination(url).url for url in urls))


def _validity(body: Mapping[str, Any]) -> Validity:
    period = _map(body, "validityPeriod")
    ends = [times.parse(_text(period, name)) for name in ("notBefore", "notAfter")]
    return Validity(*ends)


def _key(body: Mapping[str, Any]) -> bytes:
    key = _map(body, "publicKey")
    if key.get("algorithm") not in (SIGNS_TEXT, SIGNS_DIGEST):
        raise UsageError("publicKey is for an algorithm that is not known here")
    return _hex(key, "key", _KEY_SIZE)


def _map(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if not isinstance(value, dict):
        raise UsageError(f"{name} is not a map")
    return value


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or len(value) > NAME_CHARS_MAX:
        raise UsageError(f"{name} is not a text of at most {NAME_CHARS_MAX} characters")
    return value


def _hex(body: Mapping[str, Any], name: str, size: int) -> bytes:
    digits = _text(body, name).removeprefix("0x")
    try:
        value = bytes.fromhex(digits)
    except ValueError:
        value = b""
    if len(value) != size or len(digits) != 2 * size:
        raise UsageError(f"{name} is not {size} bytes in hex digits")
    return value
