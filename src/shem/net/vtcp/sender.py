"""The sending half of a connection: what is under way, what to send next, what to send again.

Pure; speaks in stream offsets, SYN and FIN being one offset each, so that their loss is handled
like that of data. Rules:

* never more under way than the peer's window, the congestion window and `IN_FLIGHT_MAX` allow;
* data is cut at multiples of four bytes (spec §9.1, rule 3);
* transmissions are numbered; one is lost when one sent three later has arrived. What has arrived is
  told by the peer's selective acknowledgements; without them three plain duplicates count as much.
  A path that shows to reorder more gets more patience, until the next time-out;
* time-out: everything under way is lost, and is resent as the congestion window allows.

Spec: docs/protocol/net.md §8.2 (selective acknowledgements), §8.4.
"""

from collections import deque
from collections.abc import Sequence
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

REORDER_MIN: Final = 3
"""A packet overtaken by one sent this many later is lost."""
REORDER_MAX: Final = 24
"""The same on a path that reorders."""
_PAYLOAD_MIN: Final = 536
"""A peer may announce less, but gets this: tiny segments only burn our time."""

Block = tuple[int, int]
"""First offset and end of what the peer holds out of order."""


@dataclass(slots=True)
class Outgoing:
    """A segment to send; kept until it is acknowledged."""

    offset: int
    flags: int
    payload: bytes
    size: int
    """Offsets it occupies: bytes, plus one for SYN or FIN."""
    sent_at: float
    order: int
    """Number of its latest transmission."""
    again: bool = False
    """Sent more than once, so its acknowledgement tells no round trip."""
    arrived: bool = False
    lost: bool = False

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
        self._under_way = 0
        """Bytes of the flight that have neither arrived nor got lost."""
        self._lost_count = 0
        self._order = 0
        self._newest = 0
        """Highest number of a transmission that arrived."""
        self._reorder = REORDER_MIN
        self._plain_duplicates = 0
        self._recover_until = 0
        """Losses below this offset have already narrowed the window."""
        self._timer = RetransmissionTimer()
        self._congestion = CongestionWindow()
        self._closing = False
        self._fin_sent = False

    # --- what the owner asks ---

    def push(self, frame: bytes) -> None:
        """Queue one frame."""
        assert len(frame) % 4 == 0, "frames keep the stream aligned"
        self._queue.push(frame)
        self._pushed_until += len(frame)
        self._frame_ends.append(self._pushed_until)

    def close(self) -> None:
        """Send a FIN after everything queued."""
        self._closing = True

    def limit_payload(self, announced_mss: int) -> None:
        """Respect the peer's MSS, within reason."""
        self.payload_max = min(max(announced_mss, _PAYLOAD_MIN), SEGMENT_SIZE) & ~3

    @property
    def queued_bytes(self) -> int:
        return self._queue.size

    @property
    def pending_bytes(self) -> int:
        """Queued or not acknowledged."""
        return self._queue.size + self.next - self.acknowledged

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

    def on_ack(
        self, offset: int, window: int, blocks: Sequence[Block], *, pure: bool, now: float
    ) -> None:
        """Take an acknowledgement up to `offset` (at most `next`), and the peer's window."""
        if offset < self.acknowledged:
            return
        moved = window != self.window
        self.window = window
        arrived = self._advance(offset, now) + self._mark_arrived(blocks, now)
        if arrived:
            self._plain_duplicates = 0
            self._timer.relax()
            self._congestion.on_acknowledged(arrived)
            self.deadline = now + self._timer.rto_s if self._flight else None
        elif pure and not moved and not blocks and self._flight:
            self._on_plain_duplicate()
        if blocks or self.acknowledged < self._recover_until:
            self._find_lost()

    def on_timeout(self, now: float) -> None:
        """Count everything under way as lost; with a shut window, just wait longer."""
        self._timer.back_off(connecting=self.acknowledged == 0)
        self.deadline = now + self._timer.rto_s
        if not self._flight:
            return
        self._congestion.on_timeout()
        self._reorder = REORDER_MIN
        self._recover_until = self.next
        reneged = self._flight[0].arrived
        for segment in self._flight:
            segment.arrived = segment.arrived and not reneged
            if not segment.arrived:
                self._count_lost(segment)
        self._under_way = 0

    def resume(self, now: float) -> None:
        """The path is whole again: what is long under way was lost with the old one."""
        oldest = self._flight[0].sent_at if self._flight else now
        if now - oldest < self._timer.shortest_s or oldest == now:
            return
        self._timer.relax()
        self.deadline = now + self._timer.rto_s
        for segment in self._flight:
            if not segment.arrived:
                self._count_lost(segment)

    def resend_first(self) -> None:
        """Send the first segment under way again: the peer repeated its SYN."""
        if self._flight:
            self._count_lost(self._flight[0])

    # --- output ---

    def collect(self, now: float) -> list[Outgoing]:
        """Return the segments that may be sent now, and count them as sent."""
        segments: list[Outgoing] = []
        if self._opening_flags is not None:
            segments.append(self._launch(self._opening_flags, b"", 1, now))
            self._opening_flags = None
        self._collect_lost(segments, now)
        self._collect_new(segments, now)
        if self.deadline is None and (self._flight or self._queue.size):
            self.deadline = now + self._timer.rto_s
        return segments

    # --- what arrived, what did not ---

    def _advance(self, offset: int, now: float) -> int:
        """Forget what is acknowledged; return the bytes that were not known to have arrived."""
        if offset == self.acknowledged:
            return 0
        self.acknowledged = offset
        self.progress_at = now
        arrived, latest = 0, None
        while self._flight and self._flight[0].end <= offset:
            latest = self._flight.popleft()
            arrived += self._count_arrived(latest, now)
        if latest is not None and not latest.again:
            self._timer.sample(now - latest.sent_at)
        if self._flight and self._flight[0].offset < offset:
            arrived += self._trim_first(offset)
        while self._frame_ends and self._frame_ends[0] <= offset:
            self._frame_start = self._frame_ends.popleft()
        return arrived

    def _trim_first(self, offset: int) -> int:
        """Cut off what the peer acknowledged of the first segment."""
        first = self._flight[0]
        count = offset - first.offset
        first.payload = first.payload[count:]
        first.offset, first.size = offset, first.size - count
        if first.arrived:
            return 0
        self._under_way -= 0 if first.lost else count
        return count

    def _mark_arrived(self, blocks: Sequence[Block], now: float) -> int:
        if not blocks:
            return 0
        arrived = 0
        for segment in self._flight:
            offset, end = segment.offset, segment.end
            if not segment.arrived and any(a <= offset and end <= b for a, b in blocks):
                arrived += self._count_arrived(segment, now)
        return arrived

    def _count_arrived(self, segment: Outgoing, now: float) -> int:
        if segment.arrived:
            return 0
        if segment.lost:
            self._lost_count -= 1
        else:
            self._under_way -= segment.size
        too_early = segment.again and now - segment.sent_at < self._timer.shortest_s
        if segment.lost or too_early:  # an earlier copy arrived after all
            self._reorder = min(self._reorder * 2, REORDER_MAX)
            self._congestion.undo()
        if not too_early:
            self._newest = max(self._newest, segment.order)
        segment.arrived, segment.lost = True, False
        return segment.size

    def _find_lost(self) -> None:
        patience = max(min(self._reorder, len(self._flight) // 2), REORDER_MIN)
        overtaken = self._newest - patience
        for segment in self._flight:
            if segment.order <= overtaken and not segment.arrived and not segment.lost:
                self._on_lost(segment)

    def _on_plain_duplicate(self) -> None:
        """Count it: a peer without selective acknowledgements says no more than this."""
        self._plain_duplicates += 1
        first = self._flight[0]
        if self._plain_duplicates == REORDER_MIN and not first.again:
            self._on_lost(first)

    def _on_lost(self, segment: Outgoing) -> None:
        if segment.offset >= self._recover_until:
            self._congestion.on_loss()
            self._recover_until = self.next
        self._count_lost(segment)

    def _count_lost(self, segment: Outgoing) -> None:
        if not segment.lost:
            segment.lost = True
            self._lost_count += 1
            self._under_way -= segment.size

    # --- sending ---

    def _collect_lost(self, segments: list[Outgoing], now: float) -> None:
        if not self._lost_count:
            return
        first = self._flight[0]
        for segment in self._flight:
            if not segment.lost:
                continue
            fits = self._under_way + segment.size <= self._congestion.size
            if segment is not first and not fits:  # the first holds up the peer, so it always goes
                return
            segment.lost, segment.again = False, True
            self._lost_count -= 1
            self._transmit(segment, now)
            segments.append(segment)

    def _collect_new(self, segments: list[Outgoing], now: float) -> None:
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
        if not self.acknowledged:
            return 0  # the handshake is not over
        by_peer = min(self.window, IN_FLIGHT_MAX) - (self.next - self.acknowledged)
        by_path = self._congestion.size - self._under_way
        return max(min(by_peer, by_path, self.payload_max), 0) & ~3

    def _launch(self, flags: int, payload: bytes, size: int, now: float) -> Outgoing:
        if not self._flight:
            self.progress_at = now
            self.deadline = now + self._timer.rto_s
        segment = Outgoing(self.next, flags, payload, size, now, 0)
        self._flight.append(segment)
        self.next += size
        self._transmit(segment, now)
        return segment

    def _transmit(self, segment: Outgoing, now: float) -> None:
        self._order += 1
        segment.order, segment.sent_at = self._order, now
        self._under_way += segment.size
