"""The proof of work inside handshakes (docs/protocol/net.md §3).

Solving is cut into slices, so that an event loop can do other work in between: difficulty 16 takes
some 65 000 hashes, 60 ms on the average. Pure.
"""

from hashlib import sha3_512, sha256
from typing import Final

from shem.wire.errors import WireError

CHALLENGE_SIZE: Final = 16
SOLUTION_SIZE: Final = 72
DIFFICULTY_MAX: Final = 26
"""Harder challenges are refused: 2**26 hashes already take a minute."""
SLICE: Final = 4096
"""Trials per call of `Solver.step`: about 4 ms."""
_HASH_BITS: Final = 512


class Solver:
    """The search for one solution."""

    __slots__ = ("_challenge", "_counter", "_limit")

    def __init__(self, challenge: bytes, difficulty: int) -> None:
        if difficulty > DIFFICULTY_MAX:
            raise WireError(f"a challenge of difficulty {difficulty} is refused")
        self._challenge = challenge
        self._limit = 1 << (_HASH_BITS - difficulty)
        self._counter = 0

    def step(self, trials: int = SLICE) -> bytes | None:
        """Try the next counters; return the solution when it is among them."""
        challenge, limit = self._challenge, self._limit
        for counter in range(self._counter, self._counter + trials):
            head = counter.to_bytes(8, "big")
            digest = sha3_512(head + challenge).digest()
            if int.from_bytes(digest, "big") < limit:
                return head + digest
        self._counter += trials
        return None


def is_solution(solution: bytes, challenge: bytes, difficulty: int) -> bool:
    """Check a solution by one hash."""
    if len(solution) != SOLUTION_SIZE or difficulty > _HASH_BITS:
        return False
    digest = sha3_512(solution[:8] + challenge).digest()
    return digest == solution[8:] and int.from_bytes(digest, "big") < 1 << (_HASH_BITS - difficulty)


def digest_to_sign(solution: bytes) -> bytes:
    return sha256(solution).digest()
