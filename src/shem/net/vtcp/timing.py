"""How long to wait for an acknowledgement, and how much to have under way meanwhile.

Pure. The estimate of the round trip follows RFC 6298; the window grows as usual and shrinks
gently, because losses on this path are mostly random and the cap is small anyway.
Spec: docs/protocol/net.md §8.4 (RTO bounds, in-flight cap).
"""

from typing import Final

SEGMENT_SIZE: Final = 1312
"""Payload of a full segment: below the MSS of 1338 for the 30 bytes of encryption, and a multiple
of four (spec §9.1, rule 3). A full datagram has 1425 bytes encrypted, 1395 in the clear."""

RTO_INITIAL_S: Final = 1.0
RTO_MIN_S: Final = 0.3
"""Above the 250 ms by which yagna's timers may delay an acknowledgement."""
RTO_MAX_S: Final = 3.0
"""Sending again is also how an awaited path that was cut is found to be whole."""
RTO_MAX_CONNECTING_S: Final = 2.0
"""A peer that comes back should be met soon, and a SYN costs little."""

IN_FLIGHT_MAX: Final = 96 * SEGMENT_SIZE
"""Unacknowledged bytes of a connection, about 128 KiB: a UDP socket buffer must hold a burst."""
_WINDOW_INITIAL: Final = 32 * SEGMENT_SIZE
_WINDOW_MIN: Final = 8 * SEGMENT_SIZE
_SHRINK_ON_LOSS: Final = 0.7
_SHRINK_ON_TIMEOUT: Final = 0.5


class RetransmissionTimer:
    """The retransmission time-out of one connection."""

    def __init__(self) -> None:
        self._smoothed_s: float | None = None
        self._variation_s = 0.0
        self._base_s = RTO_INITIAL_S
        self.rto_s = RTO_INITIAL_S

    @property
    def shortest_s(self) -> float:
        """An answer that comes sooner belongs to an earlier transmission."""
        return (self._smoothed_s or 0.0) / 2

    def sample(self, round_trip_s: float) -> None:
        """Learn from one segment that was sent once and acknowledged."""
        if self._smoothed_s is None:
            self._smoothed_s = round_trip_s
            self._variation_s = round_trip_s / 2
        else:
            error = abs(self._smoothed_s - round_trip_s)
            self._variation_s += (error - self._variation_s) / 4
            self._smoothed_s += (round_trip_s - self._smoothed_s) / 8
        wanted = self._smoothed_s + 4 * self._variation_s
        self._base_s = min(max(wanted, RTO_MIN_S), RTO_MAX_S)
        self.rto_s = self._base_s

    def back_off(self, *, connecting: bool) -> None:
        """Double after a time-out."""
        limit = RTO_MAX_CONNECTING_S if connecting else RTO_MAX_S
        self.rto_s = min(self.rto_s * 2, limit)

    def relax(self) -> None:
        """Forget the doubling: the peer acknowledged something new."""
        self.rto_s = self._base_s


class CongestionWindow:
    """How many bytes may be unacknowledged, as far as the path is concerned."""

    def __init__(self) -> None:
        self.size: int = _WINDOW_INITIAL
        self._threshold: int = IN_FLIGHT_MAX
        self._before_loss: int = 0

    def on_acknowledged(self, count: int) -> None:
        growth = count if self.size < self._threshold else SEGMENT_SIZE * count // self.size
        self.size = min(self.size + growth, IN_FLIGHT_MAX)

    def on_loss(self) -> None:
        self._before_loss = self.size
        self._threshold = self.size = max(int(self.size * _SHRINK_ON_LOSS), _WINDOW_MIN)

    def undo(self) -> None:
        """The latest loss was none: the packet only came late."""
        self.size = max(self.size, self._before_loss)
        self._threshold = max(self._threshold, self.size)

    def on_timeout(self) -> None:
        self._threshold = max(int(self.size * _SHRINK_ON_TIMEOUT), _WINDOW_MIN)
        self.size = _WINDOW_MIN
