"""One virtual TCP connection: handshake, headers, keep-alive, the ways to end.

Pure: segments, frames and the time go in; packets, in-order bytes and an `End` come out. Only the
dialler sends data; both ends are otherwise alike. Rules:

* a SYN is repeated until 45 s have passed; a refusal (RST) counts from the third on, since yagna's
  listener is away for a moment after each connection it accepts;
* an idle connection is probed every 30 s, and everything that is not alive for 120 s is ended;
* the peer's FIN ends the connection at once: it is answered with RST (spec §8.3 allows it);
* our own FIN follows the last queued frame and waits 2 s for its acknowledgement.

Spec: docs/protocol/net.md §8.2-8.4.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shem.kernel.ids import NodeId
from shem.net.vtcp.queues import RECEIVE_WINDOW
from shem.net.vtcp.receiver import Receiver
from shem.net.vtcp.sender import Outgoing, Sender
from shem.wire.tcp import (
    ACK,
    FIN,
    RST,
    SACK_BLOCKS_MAX,
    SYN,
    SYN_OPTIONS,
    WINDOW_SHIFT,
    Segment,
    encode_segment,
    read_sack_blocks,
    read_syn_options,
    sack_options,
)

CONNECT_TIMEOUT_S: Final = 45.0
CLOSE_TIMEOUT_S: Final = 2.0
"""Without progress; the frame under way is finished as long as the peer takes it."""
KEEP_ALIVE_S: Final = 30.0
USER_TIMEOUT_S: Final = 120.0
REFUSALS_MAX: Final = 3
_SYN_WINDOW: Final = 65_535
_SEQ_MASK: Final = 0xFFFF_FFFF
_SEQ_HALF: Final = 0x8000_0000


class State(StrEnum):
    """Names as `net sockets` shows them."""

    SYN_SENT = "SynSent"
    SYN_RECEIVED = "SynReceived"
    ESTABLISHED = "Established"
    CLOSING = "FinWait"
    CLOSED = "Closed"


class End(StrEnum):
    """Why a connection is over."""

    CLOSED = "closed"
    ABORTED = "aborted"
    FINISHED = "closed by the peer"
    RESET = "reset by the peer"
    REFUSED = "refused by the peer"
    NO_ANSWER = "no answer to the connection request"
    SILENT = "the peer fell silent"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The coordinates of a connection; the addresses are virtual (spec §8.1)."""

    peer: NodeId
    local: bytes
    remote: bytes
    local_port: int
    remote_port: int


class Connection:
    """See the module; made by `Stack`."""

    def __init__(
        self, ends: Endpoints, isn: int, now: float, *, syn: Segment | None = None
    ) -> None:
        self.ends = ends
        self.dialled = syn is None
        self.state = State.SYN_SENT if syn is None else State.SYN_RECEIVED
        self.end: End | None = None
        self.heard_at = now
        """When the last acceptable segment came."""
        self.established_at: float | None = None
        self.sender = Sender(SYN if syn is None else SYN | ACK)
        self.receiver = Receiver(1)
        self._isn = isn
        self._peer_isn = 0
        self._peer_shift = 0
        self._scaled = False
        self._selective_ack = False
        self._opened_at = now
        self._probed_at = now
        self._probe_wanted = False
        self._refusals = 0
        self._reset_wanted = False
        if syn is not None:
            self._learn_syn(syn)

    def __repr__(self) -> str:
        return f"<Connection {self.ends.local_port}-{self.ends.remote_port} {self.state}>"

    # --- commands ---

    def send(self, frame: bytes) -> None:
        """Queue one frame, a multiple of four bytes long."""
        self.sender.push(frame)

    def close(self, now: float) -> None:
        """End after all queued frames; at once when nothing was agreed on yet."""
        if self.state is State.CLOSING:
            return
        if self.state is not State.ESTABLISHED:
            self.abort()
            return
        self.state = State.CLOSING
        self.sender.close()
        self.sender.progress_at = now

    def abort(self) -> None:
        """End now, with a RST."""
        self._reset_wanted = self.state is not State.SYN_SENT
        self._finish(End.ABORTED)

    def probe(self) -> None:
        """Make the peer show whether it knows this connection."""
        self._probe_wanted = self.established_at is not None

    # --- inputs ---

    def receive(self, segment: Segment, now: float) -> list[bytes]:
        """Take a segment of this connection; return the bytes that are in order now."""
        if self.state is State.SYN_SENT:
            self._on_answer_to_syn(segment, now)
            return []
        offset = self.receiver.next + _distance(segment.seq, self._peer_isn + self.receiver.next)
        if segment.flags & RST:
            if -1 <= offset - self.receiver.next <= RECEIVE_WINDOW:
                self._finish(End.RESET)
            return []
        if segment.flags & SYN:
            self._on_repeated_syn()
            return []
        if not segment.flags & ACK or not self._take_ack(segment, now):
            return []
        self.heard_at = now
        return self._take_bytes(segment, offset, now)

    def is_stray(self, segment: Segment) -> bool:
        """Tell whether an acknowledgement is for an older connection on the same ports."""
        return (
            self.state is State.SYN_SENT
            and segment.flags & (ACK | RST) == ACK
            and segment.ack != (self._isn + 1) & _SEQ_MASK
        )

    def tick(self, now: float) -> None:
        """Do what is due."""
        if now >= self._give_up_at():
            self._give_up()
            return
        if self.sender.deadline is not None and now >= self.sender.deadline:
            self._probe_wanted |= self.sender.blocked
            self.sender.on_timeout(now)
        if self.established_at is not None and now >= self._probe_at():
            self._probe_wanted = True

    def next_deadline(self) -> float:
        """Return when `tick` or `flush` has something to do at the latest."""
        due = [self._give_up_at()]
        if self.established_at is not None:
            due.append(self._probe_at())
        if self.sender.deadline is not None:
            due.append(self.sender.deadline)
        if self.receiver.ack_at is not None:
            due.append(self.receiver.ack_at)
        return min(due)

    # --- output ---

    def flush(self, now: float) -> list[bytes]:
        """Return the packets to send now."""
        if self.end is not None:
            return self._last_packets()
        packets = [self._encode(segment) for segment in self.sender.collect(now)]
        if packets:
            self.receiver.acknowledged()
        if self._probe_wanted:
            self._probe_wanted = False
            self._probed_at = now
            packets.append(self._packet(self.sender.next - 1, ACK, b"\0"))
        if self.state is not State.SYN_SENT and (count := self.receiver.acks_due(now)):
            self.receiver.acknowledged()
            packets += [self._acknowledgement()] * count
        return packets

    # --- handshake ---

    def _on_answer_to_syn(self, segment: Segment, now: float) -> None:
        acknowledges = bool(segment.flags & ACK) and segment.ack == (self._isn + 1) & _SEQ_MASK
        if segment.flags & RST:
            self._refusals += acknowledges
            if self._refusals >= REFUSALS_MAX:
                self._finish(End.REFUSED)
            return
        if not acknowledges or not segment.flags & SYN or self.sender.next == 0:
            return
        self._learn_syn(segment)
        self.sender.on_ack(1, segment.window, (), pure=False, now=now)
        self._establish(now)
        self.receiver.demand_ack()

    def _learn_syn(self, segment: Segment) -> None:
        options = read_syn_options(segment.options)
        self._peer_isn = segment.seq
        self._scaled = options.window_shift is not None
        self._selective_ack = options.selective_ack
        self._peer_shift = options.window_shift or 0
        self.sender.limit_payload(options.mss)

    def _establish(self, now: float) -> None:
        self.state = State.ESTABLISHED
        self.established_at = self.heard_at = self._probed_at = now

    def _on_repeated_syn(self) -> None:
        """Answer again, or show a peer that started afresh what we think (RFC 5961 §4)."""
        if self.state is State.SYN_RECEIVED:
            self.sender.resend_first()
        else:
            self.receiver.demand_ack()

    # --- data ---

    def _take_ack(self, segment: Segment, now: float) -> bool:
        """Handle the acknowledgement; False when the segment must be ignored."""
        sender = self.sender
        offset = sender.acknowledged + _distance(segment.ack, self._isn + sender.acknowledged)
        if offset > sender.next:
            self.receiver.demand_ack()
            return False
        if self.state is State.SYN_RECEIVED:
            if offset < 1:
                return False
            self._establish(now)
        pure = not segment.payload and not segment.flags & FIN
        blocks = self._read_blocks(segment.options) if segment.options else ()
        sender.on_ack(offset, segment.window << self._peer_shift, blocks, pure=pure, now=now)
        if sender.fin_acknowledged:
            self._finish(End.CLOSED)
        return True

    def _read_blocks(self, options: bytes) -> list[tuple[int, int]]:
        origin = self._isn + self.sender.acknowledged
        return [
            (
                self.sender.acknowledged + _distance(first, origin),
                self.sender.acknowledged + _distance(end, origin),
            )
            for first, end in read_sack_blocks(options)
        ]

    def _take_bytes(self, segment: Segment, offset: int, now: float) -> list[bytes]:
        fin = bool(segment.flags & FIN)
        if not segment.payload and not fin:
            if offset == self.receiver.next - 1:
                self.receiver.demand_ack()  # a keep-alive probe without the usual byte
            return []
        pieces = self.receiver.accept(offset, segment.payload, fin=fin, now=now)
        if self.receiver.finished and self.end is None:
            self._reset_wanted = True
            self._finish(End.FINISHED)
        return pieces

    # --- the end ---

    def _give_up_at(self) -> float:
        if self.established_at is None:
            return self._opened_at + CONNECT_TIMEOUT_S
        if self.state is State.CLOSING:
            return self.sender.progress_at + CLOSE_TIMEOUT_S
        silent_at = self.heard_at + USER_TIMEOUT_S
        if self.sender.in_flight:
            return min(silent_at, self.sender.progress_at + USER_TIMEOUT_S)
        return silent_at

    def _probe_at(self) -> float:
        return max(self.heard_at, self._probed_at) + KEEP_ALIVE_S

    def _give_up(self) -> None:
        self._reset_wanted = self.established_at is not None
        if self.established_at is None:
            self._finish(End.NO_ANSWER)
        else:
            self._finish(End.CLOSED if self.state is State.CLOSING else End.SILENT)

    def _finish(self, end: End) -> None:
        if self.end is None:
            self.end = end
            self.state = State.CLOSED

    def _last_packets(self) -> list[bytes]:
        if not self._reset_wanted:
            return []
        self._reset_wanted = False
        return [self._packet(self.sender.next, RST | ACK)]

    # --- headers ---

    def _encode(self, segment: Outgoing) -> bytes:
        if segment.flags & SYN:
            return self._packet(segment.offset, segment.flags, options=SYN_OPTIONS)
        return self._packet(segment.offset, segment.flags | ACK, segment.payload)

    def _acknowledgement(self) -> bytes:
        blocks = self.receiver.held_blocks(SACK_BLOCKS_MAX) if self._selective_ack else []
        origin = self._peer_isn
        wire = [((origin + a) & _SEQ_MASK, (origin + b) & _SEQ_MASK) for a, b in blocks]
        return self._packet(self.sender.next, ACK, options=sack_options(wire) if wire else b"")

    def _packet(self, offset: int, flags: int, payload: bytes = b"", options: bytes = b"") -> bytes:
        ends = self.ends
        window = RECEIVE_WINDOW >> WINDOW_SHIFT if self._scaled else _SYN_WINDOW
        ack = (self._peer_isn + self.receiver.next) & _SEQ_MASK if flags & ACK else 0
        return encode_segment(
            Segment(
                ends.local,
                ends.remote,
                ends.local_port,
                ends.remote_port,
                (self._isn + offset) & _SEQ_MASK,
                ack,
                flags,
                _SYN_WINDOW if flags & SYN else window,
                payload,
                options,
            )
        )


def _distance(seq: int, origin: int) -> int:
    """Return the signed distance of two sequence numbers, which wrap at 2**32."""
    return ((seq - origin + _SEQ_HALF) & _SEQ_MASK) - _SEQ_HALF
