"""The receiving half of a connection: order, the peer's FIN, and when to acknowledge.

Pure. As much as fills two segments is acknowledged at once, and less after 40 ms, so that a talk in
small messages is not half acknowledgements; what arrives early or again is acknowledged at once,
one acknowledgement each, since the sender counts them.
Spec: docs/protocol/net.md §8.2, §8.4.
"""

from typing import Final

from shem.net.vtcp.queues import Reassembly

ACK_DELAY_S: Final = 0.04
_SEGMENTS_PER_ACK: Final = 2
SEGMENT_TAKEN_AS_FULL: Final = 1_024
"""A full segment has at least so many bytes, or as many as the largest that has come."""


class Receiver:
    """Bytes from the peer."""

    def __init__(self, start: int) -> None:
        self._bytes = Reassembly(start)
        self._latest = start
        self._fin_at: int | None = None
        self.finished = False
        """The peer's FIN came, and all before it."""
        self.received_bytes = 0
        self._largest = SEGMENT_TAKEN_AS_FULL
        self._unacknowledged = 0
        """Bytes since the last acknowledgement."""
        self._immediate = 0
        self.ack_at: float | None = None
        """When the delayed acknowledgement is due."""

    @property
    def next(self) -> int:
        """Offset to acknowledge."""
        return self._bytes.next + self.finished

    def accept(self, offset: int, payload: bytes, *, fin: bool, now: float) -> list[bytes]:
        """Take a segment that occupies stream space; return the pieces now in order."""
        if self.finished:
            self._immediate += 1
            return []
        before = self._bytes.next
        self._latest = offset
        pieces = self._bytes.accept(offset, payload) if payload else []
        if fin:
            self._fin_at = offset + len(payload)
        self.finished = self._fin_at == self._bytes.next
        if self._bytes.next == before or self._bytes.has_hole or self.finished:
            self._immediate += 1
        else:
            self._immediate = 0
            self._largest = max(self._largest, len(payload))
            self._unacknowledged += len(payload)
            if self.ack_at is None:
                self.ack_at = now + ACK_DELAY_S
        self.received_bytes += self._bytes.next - before
        return pieces

    def demand_ack(self) -> None:
        """Acknowledge at the next flush: the peer asked for a sign of life, or is confused."""
        self._immediate += 1

    def held_blocks(self, limit: int) -> list[tuple[int, int]]:
        """Return what to tell in a selective acknowledgement: the latest block first."""
        return self._bytes.held_blocks(self._latest, limit) if self._bytes.has_hole else []

    def acks_due(self, now: float) -> int:
        """Return how many pure acknowledgements to send now."""
        if self._immediate:
            return self._immediate
        late = self.ack_at is not None and now >= self.ack_at
        return int(late or self._unacknowledged >= _SEGMENTS_PER_ACK * self._largest)

    def acknowledged(self) -> None:
        """Note that an acknowledgement of everything so far is on its way."""
        self._unacknowledged = self._immediate = 0
        self.ack_at = None
