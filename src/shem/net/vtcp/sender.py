"""The sending half of a connection: what is under way, what to send next, what to send again.

Pure; speaks in stream offsets, SYN and FIN being one offset each, so that their loss is handled
like that of data. Rules:

* never more under way than the peer's window, the congestion window and `IN_FLIGHT_MAX` allow;
* data is cut at multiples of four bytes (spec §9.1, rule 3);
* three duplicate acknowledgements: resend the first segment, and after each partial acknowledgement
  the next hole (NewReno); selective acknowledgements are ignored;
* time-out: everything under way counts as lost and is resent as fast as the window opens.

Spec: docs/protocol/net.md §8.4.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from shem.net.vtcp.queues import FrameQueue
from shem.net.vtcp.timing import (
    IN_FLIGHT_MAX,
    SEGMENT_SIZE,
    CongestionWindow,
    RetransmissionTimer,
)
from shem.wire.tcp import FIN, PSH

DUPLICATES_FOR_LOSS: Final = 3
_PAYLOAD_MIN: Final = 536
"""A peer may announce less, but gets this: tiny segments only burn our time."""


@dataclass(slots=True)
class Outgoing:
    """A segment to send; kept until it is acknowledged."""

    offset: int
    flags: int
    payload: bytes
    size: int
    """Offsets it occupies: bytes, plus one for SYN or FIN."""
    sent_at: float
    again: bool = False
    """It was sent more than once, so its acknowledgement tells no round trip."""

    @property
    def end(self) -> int:
        return self.offset + self.size


class Sender:
    """Bytes to the peer. Starts with a SYN (`first_flags`) at offset 0."""

    def __init__(self, first_flags: int) -> None:
        self._opening_flags: int | None = first_flags
        self.acknowledged = 0
        self.next = 0
        self.window = 1
        """The peer's window in bytes; room for the SYN."""
        self.payload_max = SEGMENT_SIZE
        self.deadline: float | None = None
        self.progress_at = 0.0
        """When something new was acknowledged, or sending began after a pause."""
        self._queue = FrameQueue()
        self._pushed_until = 1
        self._frame_ends: deque[int] = deque()
        """Where the frames end that are not acknowledged whole; the first begins at the start."""
        self._frame_start = 1
        self._flight: deque[Outgoing] = deque()
        self._timer = RetransmissionTimer()
        self._congestion = CongestionWindow()
        self._duplicates = 0
        self._departed = 0
        """Bytes that duplicate acknowledgements tell to have left the path."""
        self._recover_until = 0
        self._after_timeout = False
        self._resend_index = 0
        self._resend_until = 0
        self._closing = False
        self._fin_sent = False

    # --- what the owner asks ---

    def push(self, frame: bytes) -> None:
        assert len(frame) % 4 == 0, "frames keep the stream aligned"
        self._queue.push(frame)
        self._pushed_until += len(frame)
        self._frame_ends.append(self._pushed_until)

    def close(self) -> None:
        """Send a FIN after everything queued."""
        self._closing = True

    @property
    def queued_bytes(self) -> int:
        return self._queue.size

    @property
    def sent_bytes(self) -> int:
        return max(self.next - 1 - self._fin_sent, 0)

    @property
    def in_flight(self) -> bool:
        return bool(self._flight)

    @property
    def fin_acknowledged(self) -> bool:
        return self._fin_sent and not self._flight

    @property
    def blocked(self) -> bool:
        """The peer's window is shut, and nothing under way will open it."""
        return self._queue.size > 0 and not self._flight

    def unwritten(self) -> list[bytes]:
        """Return the frames of which nothing was sent."""
        return self._queue.untouched()

    def broken_bytes(self) -> int:
        """Return how many bytes at most the peer may miss of a frame that it has in part."""
        longest, start, ends = 0, self._frame_start, iter(self._frame_ends)
        end = next(ends, start)
        for position in (self.acknowledged, *(each.end for each in self._flight)):
            while end <= position and start != end:
                start, end = end, next(ends, end)
            if position > start:
                longest = max(longest, end - position)
        return longest

    # --- inputs ---

    def on_ack(self, offset: int, window: int, *, pure: bool, now: float) -> None:
        """Take an acknowledgement up to `offset` (at most `next`), and the peer's window."""
        if offset < self.acknowledged:
            return
        moved = window != self.window
        self.window = window
        if offset > self.acknowledged:
            self._advance(offset, now)
        elif pure and self._flight and not moved:
            self._on_duplicate()

    def on_timeout(self, now: float) -> None:
        """Count everything under way as lost, or wait longer with a shut window."""
        self._timer.back_off()
        self.deadline = now + self._timer.rto_s
        if self._flight:
            self._congestion.on_timeout()
            self._duplicates = self._departed = 0
            self._after_timeout = True
            self._recover_until = self._resend_until = self.next
            self._resend_index = 0

    def resend_first(self) -> None:
        """Send the first segment under way again: the peer repeated its SYN."""
        if self._flight:
            self._resend_index = 0
            self._resend_until = max(self._resend_until, self._flight[0].end)

    # --- output ---

    def collect(self, now: float) -> list[Outgoing]:
        """Return the segments that may be sent now, and count them as sent."""
        segments = self._collect_lost(now)
        if not self._resending:
            self._collect_new(segments, now)
        if self.deadline is None and (self._flight or self._queue.size):
            self.deadline = now + self._timer.rto_s
        return segments

    # --- acknowledgements ---

    def _advance(self, offset: int, now: float) -> None:
        count = offset - self.acknowledged
        self.acknowledged = offset
        self.progress_at = now
        self._forget_acknowledged(offset, now)
        self._timer.relax()
        if offset >= self._recover_until:
            self._after_timeout = False
            self._duplicates = self._departed = 0
            self._congestion.on_acknowledged(count)
        elif self._after_timeout:
            self._congestion.on_acknowledged(count)
        else:
            self._departed = max(self._departed - count, 0)
            self.resend_first()
        self.deadline = now + self._timer.rto_s if self._flight or self._queue.size else None

    def _forget_acknowledged(self, offset: int, now: float) -> None:
        sample: float | None = None
        while self._flight and self._flight[0].end <= offset:
            segment = self._flight.popleft()
            sample = None if segment.again else now - segment.sent_at
            self._resend_index = max(self._resend_index - 1, 0)
        if sample is not None:
            self._timer.sample(sample)
        if self._flight and self._flight[0].offset < offset:
            first = self._flight[0]
            first.payload = first.payload[offset - first.offset :]
            first.size -= offset - first.offset
            first.offset = offset
        while self._frame_ends and self._frame_ends[0] <= offset:
            self._frame_start = self._frame_ends.popleft()

    def _on_duplicate(self) -> None:
        self._duplicates += 1
        self._departed += self.payload_max
        if self._duplicates == DUPLICATES_FOR_LOSS and self.acknowledged >= self._recover_until:
            self._congestion.on_loss()
            self._recover_until = self.next
            self.resend_first()

    # --- sending ---

    @property
    def _resending(self) -> bool:
        return (
            self._resend_index < len(self._flight)
            and self._flight[self._resend_index].offset < self._resend_until
        )

    def _collect_lost(self, now: float) -> list[Outgoing]:
        segments: list[Outgoing] = []
        limit = self.acknowledged + self._congestion.size
        while self._resending:
            segment = self._flight[self._resend_index]
            if self._resend_index and segment.end > limit:
                break
            segment.sent_at, segment.again = now, True
            segments.append(segment)
            self._resend_index += 1
        return segments

    def _collect_new(self, segments: list[Outgoing], now: float) -> None:
        if self._opening_flags is not None:
            segments.append(self._launch(self._opening_flags, b"", 1, now))
            self._opening_flags = None
            return
        while self._queue.size:
            limit = self._room()
            if limit < min(self.payload_max, self._queue.size) and (self._flight or limit < 4):
                return  # wait for more room rather than send a small piece
            payload, ends_frame = self._queue.take(limit)
            segments.append(self._launch(PSH if ends_frame else 0, payload, len(payload), now))
        if self._closing and not self._fin_sent and self.acknowledged:
            self._fin_sent = True
            segments.append(self._launch(FIN, b"", 1, now))

    def _room(self) -> int:
        under_way = self.next - self.acknowledged
        allowed = min(self.window, IN_FLIGHT_MAX, self._congestion.size + self._departed)
        return min(allowed - under_way, self.payload_max) & ~3

    def _launch(self, flags: int, payload: bytes, size: int, now: float) -> Outgoing:
        if not self._flight:
            self.progress_at = now
            self.deadline = now + self._timer.rto_s
        segment = Outgoing(self.next, flags, payload, size, now)
        self._flight.append(segment)
        self.next += size
        return segment

    def limit_payload(self, announced_mss: int) -> None:
        """Respect the peer's MSS, within reason."""
        self.payload_max = min(max(announced_mss, _PAYLOAD_MIN), SEGMENT_SIZE) & ~3
