"""Who solved a challenge: identities are learnt from signatures alone (docs/protocol/net.md §3).

Shared by the nodes and the relay. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shem.identity.keys import PrivateKey, node_id_of, recover
from shem.kernel.errors import PeerError
from shem.kernel.ids import NodeId
from shem.wire.challenge import digest_to_sign, is_solution

SIGNATURES_MAX: Final = 16
"""Identities per session: recovering each costs some 30 µs."""


@dataclass(frozen=True, slots=True)
class ProvenIdentity:
    """A node id and the public key whose signature proved it."""

    node_id: NodeId
    public_key: bytes


def sign_solution(solution: bytes, keys: Sequence[PrivateKey]) -> tuple[bytes, ...]:
    """Sign with every identity, the default one first."""
    digest = digest_to_sign(solution)
    return tuple(key.sign(digest) for key in keys)


def prove(
    challenge: bytes, difficulty: int, solution: bytes, signatures: Sequence[bytes]
) -> tuple[ProvenIdentity, ...]:
    """Return the proven identities, the default one first; PeerError when anything is wrong."""
    if not is_solution(solution, challenge, difficulty):
        raise PeerError("the challenge is not solved")
    if not 0 < len(signatures) <= SIGNATURES_MAX:
        raise PeerError(f"a proof carries 1 to {SIGNATURES_MAX} signatures, not {len(signatures)}")
    digest = digest_to_sign(solution)
    keys = dict.fromkeys(recover(digest, signature) for signature in signatures)
    return tuple(ProvenIdentity(node_id_of(key), key) for key in keys)
