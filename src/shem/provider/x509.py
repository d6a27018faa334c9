"""X.509 certificates: who has signed a manifest, and whom the operator trusts to (docs/protocol/
provider-agent.md §5.9).

Pure. A manifest comes with its signature and the signer's certificate, maybe with those above it.
From there a chain leads up, one issuer at a time, through what came along and what is in the
keystore; it is sound when it reaches a certificate of the keystore, and all up to there hold now.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509.oid import ExtensionOID, NameOID

from shem.kernel.times import NS_PER_S
from shem.provider.certificates import CHAIN_MAX, NotSound, Validity

CERTIFICATES_MAX: Final = 64
"""In one file."""
TEXT_SIZE_MAX: Final = 256 << 10
SUBJECT_NAMES: Final = {
    "CN": NameOID.COMMON_NAME,
    "E": NameOID.EMAIL_ADDRESS,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
}
DIGESTS: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
    "sha3-224": hashes.SHA3_224(),
    "sha3-256": hashes.SHA3_256(),
    "sha3-384": hashes.SHA3_384(),
    "sha3-512": hashes.SHA3_512(),
}
UNDERSTOOD: Final = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
"""Extensions that may be critical."""
_FAULTS: Final = (
    *(ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
"""What the library raises about certificates of strangers."""


@dataclass(frozen=True, slots=True)
class SignedText:
    """A text, and what came along to prove who has signed it; all as in the demand."""

    text: str
    signature: str
    algorithm: str
    certificates: str


def read_certificates(data: bytes) -> tuple[x509.Certificate, ...]:
    """Read PEM, one after the other, or a single DER; NotSound when it is neither."""
    try:
        if b"-----BEGIN" in data:
            found = x509.load_pem_x509_certificates(data)
        else:
            found = [x509.load_der_x509_certificate(data)]
        for certificate in found:
            id_of(certificate), validity_of(certificate), subject_of(certificate)
            certificate.extensions, certificate.issuer, certificate.public_key()
    except _FAULTS as error:
        raise NotSound(f"not an X.509 certificate: {error}") from error
    if not 0 < len(found) <= CERTIFICATES_MAX:
        raise NotSound(f"there are not 1 to {CERTIFICATES_MAX} certificates")
    return tuple(found)


def id_of(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA512()).hex()


def validity_of(certificate: x509.Certificate) -> Validity:
    ends = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
    return Validity(*(int(end.timestamp()) * NS_PER_S for end in ends))


def subject_of(certificate: x509.Certificate) -> dict[str, str]:
    found = {}
    for short, oid in SUBJECT_NAMES.items():
        if texts := [str(part.value) for part in certificate.subject.get_attributes_for_oid(oid)]:
            found[short] = ", ".join(texts)
    return found


def leaves(certificates: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """Return those that have issued none of the others."""
    issuers = {found.issuer.public_bytes() for found in certificates if not _is_root(found)}
    return tuple(found for found in certificates if found.subject.public_bytes() not in issuers)


def require_signed(
    signed: SignedText, trusted: Sequence[x509.Certificate], now_ns: int
) -> tuple[str, ...]:
    """Return the ids of the chain of who has signed a text, the signer first; else NotSound."""
    digest = DIGESTS.get(signed.algorithm.lower())
    if digest is None:
        raise NotSound(f"the signature algorithm {signed.algorithm[:40]!r} is not known here")
    came = read_certificates(_decoded(signed.certificates, "certificate"))
    if len(came) > CHAIN_MAX:
        raise NotSound(f"more than {CHAIN_MAX} certificates came along")
    signer = (leaves(came) or came)[-1]
    chain = tuple(_chain(signer, came, trusted, now_ns))
    _require_signature(signer, _decoded(signed.signature, "signature"), signed.text, digest)
    return chain


def _chain(
    signer: x509.Certificate,
    came: Sequence[x509.Certificate],
    trusted: Sequence[x509.Certificate],
    now_ns: int,
) -> Iterator[str]:
    """Go up from the signer; what is above the first trusted one is named as far as it is known."""
    known = {id_of(found) for found in trusted}
    reached, current = False, signer
    for below in range(CHAIN_MAX):
        reached = reached or id_of(current) in known
        _require_understood(current)
        if not validity_of(current).holds(now_ns):
            raise NotSound("a certificate of the chain is not valid now")
        yield id_of(current)
        above = None if _is_root(current) else _issuer(current, (*trusted, *came), below)
        if above is None:
            break
        current = above
    if not reached:
        raise NotSound("no certificate of the chain is in the keystore")


def _issuer(
    certificate: x509.Certificate, candidates: Sequence[x509.Certificate], below: int
) -> x509.Certificate | None:
    for found in candidates:
        if found.subject != certificate.issuer or not _may_issue(found, below):
            continue
        try:
            certificate.verify_directly_issued_by(found)
        except _FAULTS:
            continue
        return found
    return None


def _may_issue(certificate: x509.Certificate, below: int) -> bool:
    """Whether it is an authority, with so many others between it and the signer."""
    extensions = certificate.extensions
    try:
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        if not basic.ca or (basic.path_length is not None and basic.path_length < below):
            return False
        return extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        return missing.oid == x509.KeyUsage.oid


def _require_understood(certificate: x509.Certificate) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in UNDERSTOOD:
            raise NotSound("a certificate of the chain has limits that are not known here")


def _is_root(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer


def _require_signature(
    signer: x509.Certificate, signature: bytes, text: str, digest: hashes.HashAlgorithm
) -> None:
    key = signer.public_key()
    try:
        if isinstance(key, RSAPublicKey):
            key.verify(signature, text.encode(), PKCS1v15(), digest)
        elif isinstance(key, EllipticCurvePublicKey):
            key.verify(signature, text.encode(), ECDSA(digest))
        else:
            raise NotSound("the key of the certificate is of a kind that is not known here")
    except _FAULTS as error:
        raise NotSound("Invalid signature.") from error


def _decoded(text: str, what: str) -> bytes:
    if len(text) > TEXT_SIZE_MAX:
        raise NotSound(f"the {what} is larger than {TEXT_SIZE_MAX} characters")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise NotSound(f"the {what} is not base64") from error
