"""Noise_XX_25519_ChaChaPoly_SHA256, as a state machine without IO (Noise revision 34).

    -> e          <- e, ee, s, es          -> s, se

Pure: key pairs come as arguments. To read a message gives a new state and leaves the old one, so
that a forged datagram, or one with a bad proof inside, never spoils a handshake under way. Checked
against Noise's published vectors (`tests/vectors/noise_xx.json`). Spec: encryption.md §2.
"""

import hashlib
import hmac
from copy import copy
from enum import StrEnum
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from shem.kernel.errors import PeerError

PROTOCOL_NAME: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"
KEY_SIZE: Final = 32
TAG_SIZE: Final = 16
MESSAGE_SIZE_MAX: Final = 65_535


class Token(StrEnum):
    """What the parts of a message do."""

    E = "e"
    S = "s"
    EE = "ee"
    ES = "es"
    SE = "se"


XX: Final = (
    (Token.E,),
    (Token.E, Token.EE, Token.S, Token.ES),
    (Token.S, Token.SE),
)
"""The messages in turn, the initiator's first."""


class KeyPair:
    """An X25519 key pair; the private half never shows."""

    __slots__ = ("_private", "public")

    def __init__(self, secret: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes_raw()

    def exchange(self, remote: bytes) -> bytes:
        """Return the shared secret; PeerError for a point of low order."""
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(remote))
        except ValueError as error:
            raise PeerError("a public key yields no shared secret") from error

    def __repr__(self) -> str:
        return f"KeyPair({self.public.hex()})"


def nonce(counter: int) -> bytes:
    """Return the nonce of the n-th message under a key."""
    return bytes(4) + counter.to_bytes(8, "little")


class _Symmetric:
    """Chaining key, transcript hash, and the key that encrypts within the handshake."""

    __slots__ = ("_chaining_key", "_cipher", "_counter", "hash")

    def __init__(self, prologue: bytes) -> None:
        self.hash = PROTOCOL_NAME  # 32 bytes: used as it is
        self._chaining_key = PROTOCOL_NAME
        self._cipher: ChaCha20Poly1305 | None = None
        self._counter = 0
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + data).digest()

    def mix_key(self, secret: bytes) -> None:
        self._chaining_key, key = _hkdf(self._chaining_key, secret)
        self._cipher = ChaCha20Poly1305(key)
        self._counter = 0

    def encrypt(self, plain: bytes) -> bytes:
        sealed = plain
        if self._cipher is not None:
            sealed = self._cipher.encrypt(nonce(self._counter), plain, self.hash)
            self._counter += 1
        self.mix_hash(sealed)
        return sealed

    def decrypt(self, sealed: bytes) -> bytes:
        plain = sealed
        if self._cipher is not None:
            try:
                plain = self._cipher.decrypt(nonce(self._counter), sealed, self.hash)
            except InvalidTag as error:
                raise PeerError("a handshake message is not authentic") from error
            self._counter += 1
        self.mix_hash(sealed)
        return plain

    @property
    def tag_size(self) -> int:
        return TAG_SIZE if self._cipher is not None else 0

    def split(self) -> tuple[bytes, bytes]:
        return _hkdf(self._chaining_key, b"")


class Handshake:
    """One side of one handshake; `write` and `read` take turns, three messages in all."""

    __slots__ = (
        "_ephemeral",
        "_is_initiator",
        "_remote_ephemeral",
        "_static",
        "_symmetric",
        "_turn",
        "remote_static",
    )

    def __init__(
        self, *, is_initiator: bool, prologue: bytes, static: KeyPair, ephemeral: KeyPair
    ) -> None:
        self.remote_static = b""
        self._is_initiator = is_initiator
        self._static = static
        self._ephemeral = ephemeral
        self._remote_ephemeral = b""
        self._symmetric = _Symmetric(prologue)
        self._turn = 0

    @property
    def hash(self) -> bytes:
        """The transcript so far: what both sides have in common if nobody came between."""
        return self._symmetric.hash

    @property
    def is_complete(self) -> bool:
        return self._turn == len(XX)

    def write(self, payload: bytes) -> bytes:
        """Return the next message."""
        assert not self.is_complete and self._is_our_turn
        state = self._symmetric
        parts: list[bytes] = []
        for token in XX[self._turn]:
            if token is Token.E:
                parts.append(self._ephemeral.public)
                state.mix_hash(self._ephemeral.public)
            elif token is Token.S:
                parts.append(state.encrypt(self._static.public))
            else:
                state.mix_key(self._exchange(token))
        parts.append(state.encrypt(payload))
        self._turn += 1
        return b"".join(parts)

    def read(self, message: bytes) -> tuple[Self, bytes]:
        """Return the state after the next message, and its payload; this state stays as it is."""
        if self.is_complete or self._is_our_turn or len(message) > MESSAGE_SIZE_MAX:
            raise PeerError("a handshake message comes out of turn")
        after = copy(self)
        after._symmetric = copy(self._symmetric)
        payload = after._take(message)
        after._turn += 1
        return after, payload

    def split(self) -> tuple[bytes, bytes]:
        """Return our key for sending and our key for receiving."""
        assert self.is_complete
        first, second = self._symmetric.split()
        return (first, second) if self._is_initiator else (second, first)

    @property
    def _is_our_turn(self) -> bool:
        return (self._turn % 2 == 0) is self._is_initiator

    def _take(self, message: bytes) -> bytes:
        state = self._symmetric
        at = 0
        for token in XX[self._turn]:
            if token is Token.E:
                self._remote_ephemeral = _cut(message, at, KEY_SIZE)
                state.mix_hash(self._remote_ephemeral)
                at += KEY_SIZE
            elif token is Token.S:
                size = KEY_SIZE + state.tag_size
                self.remote_static = state.decrypt(_cut(message, at, size))
                at += size
            else:
                state.mix_key(self._exchange(token))
        return state.decrypt(_cut(message, at, max(state.tag_size, len(message) - at)))

    def _exchange(self, token: Token) -> bytes:
        if token is Token.EE:
            return self._ephemeral.exchange(self._remote_ephemeral)
        if (token is Token.ES) is self._is_initiator:
            return self._ephemeral.exchange(self.remote_static)
        return self._static.exchange(self._remote_ephemeral)


def _cut(message: bytes, at: int, size: int) -> bytes:
    part = message[at : at + size]
    if len(part) != size:
        raise PeerError("a handshake message is cut off")
    return part


def _hkdf(chaining_key: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """Return the two outputs of Noise's HKDF."""
    extracted = hmac.digest(chaining_key, secret, "sha256")
    first = hmac.digest(extracted, b"\x01", "sha256")
    return first, hmac.digest(extracted, first + b"\x02", "sha256")
