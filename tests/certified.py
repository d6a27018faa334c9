"""Certificates for tests: Golem's own and X.509, chains of them, and what they sign."""

import base64
import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from shem.provider.canonical import canonical
from shem.provider.certificates import CERTIFICATE_SCHEMA, DESCRIPTOR_SCHEMA

SINCE, UNTIL = "2020-01-01T00:00:00Z", "2090-01-01T00:00:00Z"
DAY = datetime.timedelta(days=1)


@dataclass
class Authority:
    """A Golem certificate with its key."""

    signed: dict[str, Any]
    key: Ed25519PrivateKey

    def sign(self, body: Mapping[str, Any], encryption: str = "EdDSA") -> dict[str, Any]:
        text = canonical(body)
        text = text if encryption == "EdDSA" else hashlib.sha512(text).digest()
        return {
            "algorithm": {"hash": "sha512", "encryption": encryption},
            "value": self.key.sign(text).hex(),
            "signer": self.signed or "self",
        }

    def certify(self, name: str, *, encryption: str = "EdDSA", **changes: Any) -> "Authority":
        """Sign a certificate for somebody."""
        key = new_key(name)
        signature_of = Authority(self.signed, self.key)
        body = certificate_body(name, key, **changes)
        return Authority(
            {
                "$schema": CERTIFICATE_SCHEMA,
                "certificate": body,
                "signature": signature_of.sign(body, encryption),
            },
            key,
        )

    def describe(self, node_id: str, **changes: Any) -> dict[str, Any]:
        """Sign a node descriptor."""
        body = {
            "nodeId": node_id,
            "permissions": "all",
            "validityPeriod": period(),
            **changes,
        }
        return {
            "$schema": DESCRIPTOR_SCHEMA,
            "nodeDescriptor": body,
            "signature": self.sign(body),
        }


def new_key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def period(since: str = SINCE, until: str = UNTIL) -> dict[str, str]:
    return {"notBefore": since, "notAfter": until}


def certificate_body(name: str, key: Ed25519PrivateKey, **changes: Any) -> dict[str, Any]:
    return {
        "subject": {"displayName": name, "contact": {"email": f"{name}@example.com"}},
        "publicKey": {
            "algorithm": "EdDSA",
            "key": key.public_key().public_bytes_raw().hex(),
            "parameters": {"scheme": "Ed25519"},
        },
        "validityPeriod": period(),
        "keyUsage": "all",
        "permissions": "all",
        **changes,
    }


def root(name: str = "root", **changes: Any) -> Authority:
    """Make a certificate that signs itself."""
    key = new_key(name)
    return Authority({}, key).certify(name, **changes)


@dataclass
class Issuer:
    """An X.509 certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: "Issuer | None" = field(default=None, repr=False)

    def issue(self, name: str, **options: Any) -> "Issuer":
        return issue(name, self, **options)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def sign(self, text: str, algorithm: hashes.HashAlgorithm | None = None) -> str:
        made = self.key.sign(text.encode(), ec.ECDSA(algorithm or hashes.SHA256()))
        return base64.b64encode(made).decode()


def issue(
    name: str,
    above: Issuer | None = None,
    *,
    is_authority: bool = True,
    path_length: int | None = None,
    since_days: int = -1,
    days: int = 10_000,
    now: datetime.datetime | None = None,
    critical: x509.ExtensionType | None = None,
) -> Issuer:
    """Make an X.509 certificate; without an issuer it signs itself."""
    now = now or datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if above is None else above.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since_days * DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.BasicConstraints(is_authority, path_length), critical=True)
    )
    if critical is not None:
        builder = builder.add_extension(critical, critical=True)
    signer = key if above is None else above.key
    return Issuer(builder.sign(signer, hashes.SHA256()), key, above)


def manifest_text(payload: Sequence[Mapping[str, Any]] = (), **computation: Any) -> str:
    """Return a manifest as a demand holds it."""
    body = {
        "version": "0.1.0",
        "createdAt": "2022-07-26T12:51:00.000000Z",
        "expiresAt": "2100-01-01T00:01:00.000000Z",
        "payload": list(payload),
        "compManifest": {"version": "0.1.0", **computation},
    }
    return base64.b64encode(json.dumps(body).encode()).decode()


def reaching(*urls: str) -> str:
    """Return a manifest that wants to reach URLs; without any, whatever there is."""
    out: dict[str, Any] = {"urls": list(urls)} if urls else {"unrestricted": {"urls": True}}
    return manifest_text(net={"inet": {"out": out}})
