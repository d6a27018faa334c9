"""The reliable and the transfer channel: messages to and from peers over virtual TCP.

Sans-IO: packets, messages and the time go in; `outputs()` tells what to send and what arrived;
`tick` is due at `next_deadline()`. Rules (docs/protocol/net.md §8.3, §9.1):

* we dial peer:1 or peer:2 on the first message and send only there; where peers dial we listen;
* frames are padded, buffers live and die with their connection, nonsense ends it;
* when a connection ends by the peer's doing or silence, all connections with that peer that are not
  younger than its last sign of life are dropped: `StreamLost`, sent messages may be lost;
* messages not yet begun then go out on the next connection; a frame that was cut off is completed
  there with zeros, since yagna's buffer outlives connections;
* a connection that never came about takes its waiting messages with it.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final

import structlog

from shem.kernel.errors import Unreachable, UsageError
from shem.kernel.ids import NodeId
from shem.kernel.world import Rng
from shem.net.frames import FrameBuffer, encode_frame
from shem.net.types import MESSAGE_SIZE_MAX, Channel, SocketInfo
from shem.net.vtcp.connection import Connection, End
from shem.net.vtcp.stack import Ended, Established, Event, Stack
from shem.wire.errors import WireError
from shem.wire.tcp import decode_segment

PORTS: Final = {Channel.RELIABLE: 1, Channel.TRANSFER: 2}
_CHANNELS: Final = {port: channel for channel, port in PORTS.items()}
QUEUED_BYTES_MAX: Final = 2 * MESSAGE_SIZE_MAX
"""Waiting for one peer on one channel; a message beyond is refused."""
BUFFERED_BYTES_MAX: Final = 8 * MESSAGE_SIZE_MAX
"""Incomplete frames of all connections together; the one that exceeds it ends."""
FLUSH_TIMEOUT_S: Final = 5.0
"""How long a shutdown waits for peers to take what is queued."""
REPAIRS_MAX: Final = 4096
"""Cut-off frames remembered until the next connection; the oldest is forgotten."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SendPacket:
    """Send an IPv6 packet to the peer in a Forward with the unreliable flag clear."""

    peer: NodeId
    packet: bytes


@dataclass(frozen=True, slots=True)
class DeliverMessage:
    """A whole message came from the peer."""

    peer: NodeId
    channel: Channel
    message: bytes


@dataclass(frozen=True, slots=True)
class StreamUp:
    """Our connection for sending is open."""

    peer: NodeId
    channel: Channel


@dataclass(frozen=True, slots=True)
class StreamLost:
    """Messages sent or expected on this channel may be lost."""

    peer: NodeId
    channel: Channel
    reason: str


Output = SendPacket | DeliverMessage | StreamUp | StreamLost
_LaneKey = tuple[NodeId, Channel]


@dataclass(slots=True)
class _Lane:
    """Our way to one peer on one channel."""

    connection: Connection
    waiting: list[bytes] = field(default_factory=list)
    """Frames to write when the connection is open."""
    waiting_bytes: int = 0
    zeros: bytes = b""
    """What completes a frame that an earlier connection cut off; written first."""


class Streams:
    """See the module."""

    def __init__(self, local_id: NodeId, rng: Rng) -> None:
        self._stack = Stack(local_id, frozenset(_CHANNELS), rng)
        self._lanes: dict[_LaneKey, _Lane] = {}
        self._buffers: dict[Connection, FrameBuffer] = {}
        self._buffered_bytes = 0
        self._repairs: OrderedDict[_LaneKey, int] = OrderedDict()
        self._outputs: list[Output] = []
        self._closing = False
        self._flush_until = math.inf

    # --- commands ---

    def send(self, peer: NodeId, channel: Channel, message: bytes, now: float) -> None:
        """Queue one message; Unreachable when the queue is full or the node shuts down."""
        if channel not in PORTS or not 0 < len(message) <= MESSAGE_SIZE_MAX:
            raise UsageError(f"{len(message)} bytes cannot be a message on a {channel} stream")
        if self._closing:
            raise Unreachable("this node is shutting down")
        frame = encode_frame(message)
        lane = self._lanes.get((peer, channel))
        if lane is None:
            self._dial(peer, channel, [frame], now)
            return
        if lane.waiting_bytes + lane.connection.sender.queued_bytes > QUEUED_BYTES_MAX:
            raise Unreachable(f"too many messages are waiting for {peer}")
        self._write(lane, frame)
        self._stack.touch(lane.connection, now)

    def drop_peer(self, peer: NodeId, now: float, reason: str = "dropped") -> None:
        """Reset all connections with the peer and give up what waits for it."""
        connections = self._stack.with_peer(peer)
        self._abandon(connections, now)
        for channel in sorted({_channel_of(each) for each in connections}):
            self._outputs.append(StreamLost(peer, channel, reason))

    def probe(self, peer: NodeId, now: float) -> None:
        """Find out soon which connections the peer still knows: its session has changed."""
        self._stack.probe(peer, now)

    def resume(self, peer: NodeId, now: float) -> None:
        """The peer can be reached again: send what it has not acknowledged, without waiting."""
        self._stack.resume(peer, now)

    def shutdown(self, now: float) -> None:
        """Finish what is queued, then close everything; go on until `closed`."""
        self._closing = True
        self._flush_until = now + FLUSH_TIMEOUT_S
        self._stack.stop_listening()
        for peer in self._stack.peers():
            self._close_when_flushed(peer, now)

    # --- inputs ---

    def receive(self, peer: NodeId, packet: bytes, now: float) -> None:
        """Take the payload of a Forward from the peer (its default identity)."""
        try:
            events = self._stack.receive(peer, decode_segment(packet), now)
        except WireError as error:
            log.debug("stream.malformed", peer=peer, reason=error.message)
            return
        for event in events:
            self._on_event(event, now)
        if self._closing:
            self._close_when_flushed(peer, now)

    def tick(self, now: float) -> None:
        """Do what is due by now."""
        for event in self._stack.tick(now):
            self._on_event(event, now)
        if now >= self._flush_until:
            self._flush_until = math.inf
            for peer in self._stack.peers():
                self._close(peer, now)

    # --- outputs ---

    def outputs(self) -> list[Output]:
        """Return and forget what happened, in order, packets last."""
        outputs = self._outputs
        self._outputs = []
        outputs += [SendPacket(peer, packet) for peer, packet in self._stack.flush()]
        return outputs

    def next_deadline(self) -> float | None:
        """Return when to call `tick`; at once when `outputs` has something."""
        due = self._stack.next_deadline()
        return due if due is None else min(due, self._flush_until)

    @property
    def closed(self) -> bool:
        """No connection is left."""
        return len(self._stack) == 0

    def queued_bytes(self, peer: NodeId) -> int:
        """Return the bytes that wait for the peer or are not yet acknowledged by it."""
        lanes = [lane for channel in PORTS if (lane := self._lanes.get((peer, channel)))]
        return sum(lane.waiting_bytes + lane.connection.sender.pending_bytes for lane in lanes)

    def sockets(self) -> list[SocketInfo]:
        """Return listeners and connections, as `net sockets` shows them."""
        listeners = [SocketInfo(port, "", 0, "Listen", 0, 0) for port in _CHANNELS]
        return [] if self._closing else listeners + [_describe(each) for each in self._stack]

    # --- events of the stack ---

    def _on_event(self, event: Event, now: float) -> None:
        connection = event.connection
        if isinstance(event, Ended):
            self._on_ended(connection, now)
        elif isinstance(event, Established):
            self._on_established(connection)
        elif not connection.dialled:
            self._on_bytes(connection, event.pieces, now)

    def _on_established(self, connection: Connection) -> None:
        key = (connection.ends.peer, _channel_of(connection))
        if not connection.dialled:
            self._buffers[connection] = FrameBuffer()
            return
        lane = self._lanes[key]
        self._outputs.append(StreamUp(*key))
        if repair := self._repairs.pop(key, 0):
            lane.zeros = bytes(repair)
            connection.send(lane.zeros)
        for frame in lane.waiting:
            connection.send(frame)
        lane.waiting, lane.waiting_bytes = [], 0

    def _on_bytes(self, connection: Connection, pieces: list[bytes], now: float) -> None:
        buffer = self._buffers[connection]
        before = len(buffer)
        peer, channel = connection.ends.peer, _channel_of(connection)
        try:
            messages = buffer.feed(b"".join(pieces) if len(pieces) > 1 else pieces[0])
        except WireError as error:
            log.warning("stream.nonsense", peer=peer, channel=channel, reason=error.message)
            self._lose(connection, error.message, now)
            return
        self._outputs += [DeliverMessage(peer, channel, message) for message in messages]
        self._buffered_bytes += len(buffer) - before
        if self._buffered_bytes > BUFFERED_BYTES_MAX:
            self._lose(connection, "too many incomplete frames", now)

    def _on_ended(self, connection: Connection, now: float) -> None:
        end = connection.end
        assert end is not None
        if self._closing:
            self._abandon([connection], now)
        elif connection.established_at is None and connection.dialled:
            self._abandon([connection], now)
            key = (connection.ends.peer, _channel_of(connection))
            self._outputs.append(StreamLost(*key, reason=end))
        elif connection.established_at is None or end in (End.CLOSED, End.ABORTED):
            self._abandon([connection], now)
        elif connection.dialled or connection in self._buffers:
            self._lose(connection, end, now)

    def _close_when_flushed(self, peer: NodeId, now: float) -> None:
        """Close all connections with the peer together: it drops all when it sees one close."""
        if not self.queued_bytes(peer):
            self._close(peer, now)

    def _close(self, peer: NodeId, now: float) -> None:
        for connection in self._stack.with_peer(peer):
            connection.close(now)
            self._stack.touch(connection, now)

    # --- ways to a peer ---

    def _dial(self, peer: NodeId, channel: Channel, frames: list[bytes], now: float) -> None:
        lane = _Lane(self._stack.dial(peer, PORTS[channel], now))
        self._lanes[peer, channel] = lane
        for frame in frames:
            self._write(lane, frame)

    @staticmethod
    def _write(lane: _Lane, frame: bytes) -> None:
        if lane.connection.established_at is not None:
            lane.connection.send(frame)
        else:
            lane.waiting.append(frame)
            lane.waiting_bytes += len(frame)

    def _lose(self, connection: Connection, reason: str, now: float) -> None:
        """Drop what the peer no longer knows, tell, and dial again for what was not begun."""
        peer = connection.ends.peer
        stale = [connection] + [
            each
            for each in self._stack.with_peer(peer)
            if each.established_at is not None and each.established_at <= connection.heard_at
        ]
        unwritten = self._abandon(stale, now)
        self._stack.probe(peer, now)
        for channel in sorted({_channel_of(each) for each in stale}):
            log.info("stream.lost", peer=peer, channel=channel, reason=reason)
            self._outputs.append(StreamLost(peer, channel, reason))
            if (frames := unwritten.get(channel)) and not self._closing:
                self._dial(peer, channel, frames, now)

    def _abandon(self, connections: list[Connection], now: float) -> dict[Channel, list[bytes]]:
        """Forget connections, with a RST where one is due; return the frames not begun."""
        unwritten: dict[Channel, list[bytes]] = {}
        for connection in connections:
            if connection.end is None:
                self._stack.abort(connection, now)
            self._buffered_bytes -= len(self._buffers.pop(connection, ()))
            key = (connection.ends.peer, _channel_of(connection))
            lane = self._lanes.get(key)
            if lane is not None and lane.connection is connection:
                del self._lanes[key]
                unwritten[key[1]] = self._rescue(key, lane)
        return unwritten

    def _rescue(self, key: _LaneKey, lane: _Lane) -> list[bytes]:
        """Note what a cut-off frame needs to be completed; return the frames not begun."""
        sender = lane.connection.sender
        owed = len(lane.zeros) if sender.acknowledged <= len(lane.zeros) else 0
        if repair := max(owed, sender.broken_bytes()):
            self._repairs[key] = repair
            if len(self._repairs) > REPAIRS_MAX:
                self._repairs.popitem(last=False)
        frames = [each for each in sender.unwritten() if each is not lane.zeros]
        return lane.waiting + frames


def _channel_of(connection: Connection) -> Channel:
    ends = connection.ends
    return _CHANNELS[ends.remote_port if connection.dialled else ends.local_port]


def _describe(connection: Connection) -> SocketInfo:
    ends = connection.ends
    return SocketInfo(
        local_port=ends.local_port,
        remote=str(IPv6Address(ends.remote)),
        remote_port=ends.remote_port,
        state=connection.state,
        received_bytes=connection.receiver.received_bytes,
        sent_bytes=connection.sender.sent_bytes,
    )
