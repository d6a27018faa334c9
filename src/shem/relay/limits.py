"""What one source may make the relay do, and one session (docs/protocol/net.md §5).

Each limit is a token bucket: so many at once, so many a second after that. Pure.
"""

from typing import Final

from shem.kernel.rates import RateLimit

SESSIONS_MAX: Final = 100_000
SESSIONS_PER_HOST_MAX: Final = 2_000

CONTROL_RATE_PER_S: Final = 100.0
"""Control packets answered per session (an address has one); a node sends one in ten seconds."""
CONTROL_BURST: Final = 400.0
HOST_CONTROL_RATE_PER_S: Final = 2_000.0
"""The same for all ports of one host, which may be a network behind one address."""
HOST_CONTROL_BURST: Final = 8_000.0

PROOF_RATE_PER_S: Final = 200.0
"""Challenge answers looked at per host: they cost signature recovery."""
PROOF_BURST: Final = 400.0
ALL_PROOFS_RATE_PER_S: Final = 1_000.0
"""The same for all hosts: a fifth of one core. Who is not heard asks again in 2 s."""
ALL_PROOFS_BURST: Final = 1_000.0

SEARCH_RATE_PER_S: Final = 1.0
"""Neighbour questions per session: they look at every node."""
SEARCH_BURST: Final = 100.0
"""Among few nodes a yagna asks before each broadcast, and sends up to 50 of them in three seconds:
200 Offers and 200 withdrawals, eight at a time. Refused, it does not broadcast at all."""

FORWARD_RATE_PER_S: Final = 50_000.0
"""Datagrams forwarded per session: 70 MB/s, half of what the relay can do."""
FORWARD_BURST: Final = 50_000.0
HOST_FORWARD_RATE_PER_S: Final = 100_000.0
HOST_FORWARD_BURST: Final = 100_000.0
FORWARD_CHUNK: Final = 500
"""Taken from the buckets at a time, so that most datagrams cost one subtraction."""


class Bucket:
    """One token bucket, full at first."""

    __slots__ = ("_burst", "_rate_per_s", "_since", "_tokens")

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._since = now

    def take(self, amount: int, now: float) -> bool:
        """Take so many tokens, or none."""
        grown = self._tokens + (now - self._since) * self._rate_per_s
        self._since = now
        self._tokens = min(self._burst, grown)
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True


class Gate:
    """The limits on control packets."""

    def __init__(self) -> None:
        self._control = RateLimit(CONTROL_RATE_PER_S, CONTROL_BURST)
        self._host_control = RateLimit(HOST_CONTROL_RATE_PER_S, HOST_CONTROL_BURST)
        self._proof = RateLimit(PROOF_RATE_PER_S, PROOF_BURST)
        self._all_proofs = RateLimit(ALL_PROOFS_RATE_PER_S, ALL_PROOFS_BURST)
        self._search = RateLimit(SEARCH_RATE_PER_S, SEARCH_BURST)

    def control(self, source: tuple[str, int], now: float) -> bool:
        """Count a control packet, or an answer to a Forward that leads nowhere."""
        return self._control.allow(source, now) and self._host_control.allow(source[0], now)

    def proof(self, source: tuple[str, int], now: float) -> bool:
        return self._proof.allow(source[0], now)

    def any_proof(self, now: float) -> bool:
        return self._all_proofs.allow(None, now)

    def search(self, session_id: bytes, now: float) -> bool:
        return self._search.allow(session_id, now)
