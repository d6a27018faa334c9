"""Who owns a Noise static key: signatures of the node's identities, as libp2p carries them.

Each side signs, with every identity and the default one first, its role, the names of both nodes,
its static key and the transcript before its own message. So a proof is good for this handshake
alone. Pure. Spec: docs/protocol/encryption.md §2.2.
"""

import hashlib
from collections.abc import Sequence
from enum import Enum
from typing import Final

from shem.identity.keys import SIGNATURE_SIZE, PrivateKey, signer
from shem.identity.proof import SIGNATURES_MAX
from shem.kernel.errors import PeerError
from shem.kernel.ids import NodeId

DOMAIN: Final = b"shem noise static key 1"


class Role(Enum):
    """Whose static key is signed."""

    INITIATOR = b"I"
    RESPONDER = b"R"


def digest(role: Role, prologue: bytes, static: bytes, transcript: bytes) -> bytes:
    """Return what is signed."""
    parts = (DOMAIN, role.value, prologue, static, transcript)
    return hashlib.sha256(b"".join(len(part).to_bytes(2) + part for part in parts)).digest()


def sign(to_sign: bytes, keys: Sequence[PrivateKey]) -> bytes:
    """Return the signatures of all identities in one piece."""
    return b"".join(key.sign(to_sign) for key in keys[:SIGNATURES_MAX])


def verify(signed: bytes, signatures: bytes) -> tuple[NodeId, ...]:
    """Return the identities that signed, the default one first; PeerError when any is no good."""
    count, rest = divmod(len(signatures), SIGNATURE_SIZE)
    if rest or not 0 < count <= SIGNATURES_MAX:
        raise PeerError(f"{len(signatures)} bytes are no list of signatures")
    cuts = range(0, len(signatures), SIGNATURE_SIZE)
    return tuple(dict.fromkeys(signer(signed, signatures[at : at + SIGNATURE_SIZE]) for at in cuts))
