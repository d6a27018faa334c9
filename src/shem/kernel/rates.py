"""Token buckets by source: how often one sender may make us work. Pure; `now` in seconds."""

from collections.abc import Hashable
from typing import Final

SOURCES_MAX: Final = 16_384
"""Sources remembered; the one that was idle for longest is forgotten first."""


class RateLimit:
    """Lets `rate_per_s` events a second through for each source, and `burst` at once."""

    __slots__ = ("_buckets", "_burst", "_rate_per_s")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._buckets: dict[Hashable, tuple[float, float]] = {}

    def allow(self, source: Hashable, now: float) -> bool:
        """Count one event; False when the source has used up its share."""
        tokens, since = self._buckets.pop(source, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate_per_s)
        allowed = tokens >= 1
        self._buckets[source] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > SOURCES_MAX:
            del self._buckets[next(iter(self._buckets))]
        return allowed
