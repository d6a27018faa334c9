"""Keys, node ids and signatures on secp256k1 (docs/protocol/gsb-identity.md §3.2).

Pure. A signature is 65 bytes, recovery id (0 or 1) first, then r and s, over the given 32 bytes as
the digest itself. Whatever a peer sends is either a valid, canonical (low-s) signature or a
PeerError. A private key never shows in `repr`.
"""

from typing import Final, Self

import coincurve
import sha3

from shem.kernel.errors import PeerError, UsageError
from shem.kernel.ids import NodeId, node_id_from_bytes
from shem.kernel.world import Rng

DIGEST_SIZE: Final = 32
PUBLIC_KEY_SIZE: Final = 64
SIGNATURE_SIZE: Final = 65
_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_UNCOMPRESSED: Final = b"\x04"


def keccak256(data: bytes) -> bytes:
    """Return Ethereum's Keccak-256, which is not SHA3-256."""
    digest: bytes = sha3.keccak_256(data).digest()
    return digest


def node_id_of(public_key: bytes) -> NodeId:
    """Return the node id of a public key given as X and Y; PeerError when it is no such key."""
    if len(public_key) != PUBLIC_KEY_SIZE:
        raise PeerError(f"a public key has {PUBLIC_KEY_SIZE} bytes, not {len(public_key)}")
    return node_id_from_bytes(keccak256(public_key)[-20:])


def recover(digest: bytes, signature: bytes) -> bytes:
    """Return the public key that made `signature` over `digest`; PeerError when none did."""
    if len(digest) != DIGEST_SIZE or len(signature) != SIGNATURE_SIZE:
        raise PeerError("a signature has 65 bytes over a digest of 32")
    if signature[0] > 1:
        raise PeerError(f"recovery id {signature[0]} is neither 0 nor 1")
    if int.from_bytes(signature[33:], "big") > _ORDER // 2:
        raise PeerError("signature is not canonical: its s is in the upper half")
    rotated = signature[1:] + signature[:1]
    try:
        public_key = coincurve.PublicKey.from_signature_and_message(rotated, digest, hasher=None)
    except ValueError as error:
        raise PeerError("signature recovers no public key") from error
    return public_key.format(compressed=False)[1:]


def signer(digest: bytes, signature: bytes) -> NodeId:
    """Return the node id that made `signature` over `digest`; PeerError when none did."""
    return node_id_of(recover(digest, signature))


class PrivateKey:
    """A secp256k1 private key with its node id."""

    __slots__ = ("_key", "node_id", "public_key")

    def __init__(self, key: coincurve.PrivateKey) -> None:
        self._key = key
        self.public_key: bytes = key.public_key.format(compressed=False)[1:]
        self.node_id = node_id_of(self.public_key)

    @classmethod
    def from_bytes(cls, secret: bytes) -> Self:
        """Read 32 bytes; UsageError unless they are a key of the curve."""
        if len(secret) != DIGEST_SIZE or not 0 < int.from_bytes(secret, "big") < _ORDER:
            raise UsageError("a private key is 32 bytes within the order of secp256k1")
        return cls(coincurve.PrivateKey(secret))

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Read 64 hex digits, with or without `0x`; the error never repeats them."""
        try:
            secret = bytes.fromhex(text.removeprefix("0x"))
        except ValueError:
            raise UsageError("a private key is 64 hex digits") from None
        return cls.from_bytes(secret)

    @classmethod
    def generate(cls, rng: Rng) -> Self:
        while True:
            secret = rng.token(DIGEST_SIZE)
            if 0 < int.from_bytes(secret, "big") < _ORDER:
                return cls.from_bytes(secret)

    def secret_bytes(self) -> bytes:
        """Return the key itself, for the keystore only."""
        return bytes(self._key.secret)

    def sign(self, digest: bytes) -> bytes:
        """Sign 32 bytes as they are (RFC 6979, low s)."""
        if len(digest) != DIGEST_SIZE:
            raise UsageError(f"only a digest of {DIGEST_SIZE} bytes can be signed")
        signature = self._key.sign_recoverable(digest, hasher=None)
        return signature[64:] + signature[:64]

    def __repr__(self) -> str:
        return f"PrivateKey({self.node_id})"
