"""All virtual TCP connections of a node: dialling, listening, refusing, timers.

Pure. A segment that belongs to nothing is answered with RST, so that a peer notices a restart at
once. A peer that dials a second time on the same port has probably restarted: all connections with
it are probed, and the dead ones are reset by the peer within a round trip.
Spec: docs/protocol/net.md §8.1, §8.3.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

from shem.kernel.ids import NodeId
from shem.kernel.world import Rng
from shem.net.vtcp.connection import Connection, Endpoints, State
from shem.wire.errors import WireError
from shem.wire.tcp import ACK, FIN, RST, SYN, Segment, encode_segment, ipv6_of_node

PORT_MIN: Final = 1000
PORT_MAX: Final = 65_535
ACCEPTED_PER_PEER_MAX: Final = 8
"""An honest peer needs two; the oldest gives way."""
CONNECTIONS_MAX: Final = 16_384
TIMERS_SPARE: Final = 64
"""Entries of closed connections kept before the timers are swept."""
REFUSALS_QUEUED_MAX: Final = 256
_SEQ_SPACE: Final = 1 << 32

Ports = tuple[int, int]
"""Local and remote port."""


@dataclass(frozen=True, slots=True)
class Established:
    """A connection is open; `connection.dialled` tells whose it is."""

    connection: Connection


@dataclass(frozen=True, slots=True)
class Received:
    """Bytes came in order."""

    connection: Connection
    pieces: list[bytes]


@dataclass(frozen=True, slots=True)
class Ended:
    """A connection is over: `connection.end` tells why."""

    connection: Connection


Event = Established | Received | Ended


class Stack:
    """See the module."""

    def __init__(self, local_id: NodeId, listen: frozenset[int], rng: Rng) -> None:
        self.address = ipv6_of_node(local_id)
        self._listen = listen
        self._rng = rng
        self._peers: dict[NodeId, dict[Ports, Connection]] = {}
        self._count = 0
        self._touched: dict[Connection, None] = {}
        self._refused: deque[tuple[NodeId, bytes]] = deque(maxlen=REFUSALS_QUEUED_MAX)
        self._timers: list[tuple[float, int, Connection]] = []
        self._armed: dict[Connection, float] = {}
        self._tie = count()
        self._now = 0.0

    def __iter__(self) -> Iterator[Connection]:
        return (each for peer in self._peers.values() for each in peer.values())

    def __len__(self) -> int:
        return self._count

    def peers(self) -> list[NodeId]:
        return list(self._peers)

    def with_peer(self, peer: NodeId) -> list[Connection]:
        return list(self._peers.get(peer, {}).values())

    # --- commands ---

    def dial(self, peer: NodeId, port: int, now: float) -> Connection:
        """Begin a connection to `port` of the peer."""
        taken = self._peers.get(peer, {})
        local_port = PORT_MIN + self._rng.below(PORT_MAX - PORT_MIN + 1)
        while (local_port, port) in taken:
            local_port = PORT_MIN + self._rng.below(PORT_MAX - PORT_MIN + 1)
        ends = Endpoints(peer, self.address, ipv6_of_node(peer), local_port, port)
        return self._add(Connection(ends, self._rng.below(_SEQ_SPACE), now), now)

    def touch(self, connection: Connection, now: float) -> None:
        """Let the next `flush` look at a connection that got a command."""
        self._now = max(self._now, now)
        self._touched[connection] = None
        if connection.end is not None:
            self._remove(connection)

    def abort(self, connection: Connection, now: float) -> None:
        connection.abort()
        self.touch(connection, now)

    def probe(self, peer: NodeId, now: float) -> None:
        """Make the peer reset the connections that it no longer knows."""
        for connection in self.with_peer(peer):
            connection.probe()
            self.touch(connection, now)

    def resume(self, peer: NodeId, now: float) -> None:
        """Send again at once what the peer has not acknowledged."""
        for connection in self.with_peer(peer):
            connection.sender.resume(now)
            self.touch(connection, now)

    def stop_listening(self) -> None:
        self._listen = frozenset()

    # --- inputs ---

    def receive(self, peer: NodeId, segment: Segment, now: float) -> list[Event]:
        """Take a segment of the peer. WireError: it is not from it, or not for us."""
        if segment.source != ipv6_of_node(peer) or segment.destination != self.address:
            raise WireError("the virtual addresses are not those of the two nodes")
        self._now = max(self._now, now)
        ports = (segment.destination_port, segment.source_port)
        connection = self._peers.get(peer, {}).get(ports)
        if connection is None:
            if self._is_dial(segment):
                return self._accept(peer, segment, now)
            self._refuse(peer, segment)
            return []
        if connection.is_stray(segment):
            self._refuse(peer, segment)
            return []
        was_open = connection.established_at is not None
        pieces = connection.receive(segment, now)
        self.touch(connection, now)
        events: list[Event] = []
        if not was_open and connection.established_at is not None:
            events.append(Established(connection))
        if pieces:
            events.append(Received(connection, pieces))
        if connection.end is not None:
            events.append(Ended(connection))
        return events

    def tick(self, now: float) -> list[Event]:
        """Do what is due by now."""
        self._now = max(self._now, now)
        events: list[Event] = []
        while self._timers and self._timers[0][0] <= now:
            due, _, connection = heapq.heappop(self._timers)
            if self._armed.get(connection) != due:
                continue
            del self._armed[connection]
            connection.tick(now)
            self.touch(connection, now)
            if connection.end is not None:
                events.append(Ended(connection))
        return events

    # --- outputs ---

    def flush(self) -> list[tuple[NodeId, bytes]]:
        """Return the packets to send now, each with its peer."""
        packets = list(self._refused)
        self._refused.clear()
        for connection in self._touched:
            peer = connection.ends.peer
            packets += [(peer, packet) for packet in connection.flush(self._now)]
            self._arm(connection)
        self._touched.clear()
        return packets

    def next_deadline(self) -> float | None:
        """Return when `tick` should be called; it may find nothing to do then."""
        while self._timers and self._armed.get(self._timers[0][2]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        due = self._timers[0][0] if self._timers else None
        if self._touched or self._refused:
            return self._now if due is None else min(due, self._now)
        return due

    # --- within ---

    def _is_dial(self, segment: Segment) -> bool:
        return (
            segment.flags & (SYN | ACK | RST | FIN) == SYN
            and segment.destination_port in self._listen
            and self._count < CONNECTIONS_MAX
        )

    def _accept(self, peer: NodeId, segment: Segment, now: float) -> list[Event]:
        ends = Endpoints(
            peer,
            self.address,
            segment.source,
            segment.destination_port,
            segment.source_port,
        )
        connection = Connection(ends, self._rng.below(_SEQ_SPACE), now, syn=segment)
        others = [each for each in self.with_peer(peer) if not each.dialled]
        events: list[Event] = []
        if len(others) >= ACCEPTED_PER_PEER_MAX:
            oldest = min(others, key=lambda each: each.heard_at)
            self.abort(oldest, now)
            events.append(Ended(oldest))
        if any(each.ends.local_port == ends.local_port for each in others):
            self.probe(peer, now)
        self._add(connection, now)
        return events

    def _refuse(self, peer: NodeId, segment: Segment) -> None:
        if segment.flags & RST:
            return
        size = len(segment.payload) + bool(segment.flags & SYN) + bool(segment.flags & FIN)
        # Without an ACK it would be taken by yagna's listener on that port, and have no effect.
        seq = segment.ack if segment.flags & ACK else 0
        answer = Segment(
            self.address,
            segment.source,
            segment.destination_port,
            segment.source_port,
            seq,
            (segment.seq + size) % _SEQ_SPACE,
            RST | ACK,
            0,
        )
        self._refused.append((peer, encode_segment(answer)))

    def _add(self, connection: Connection, now: float) -> Connection:
        ends = connection.ends
        peer = self._peers.setdefault(ends.peer, {})
        peer[ends.local_port, ends.remote_port] = connection
        self._count += 1
        self.touch(connection, now)
        return connection

    def _remove(self, connection: Connection) -> None:
        ends = connection.ends
        peer = self._peers.get(ends.peer, {})
        if peer.get((ends.local_port, ends.remote_port)) is not connection:
            return
        del peer[ends.local_port, ends.remote_port]
        if not peer:
            del self._peers[ends.peer]
        self._count -= 1

    def _arm(self, connection: Connection) -> None:
        """Have one timer entry at or before the connection's next deadline."""
        if connection.state is State.CLOSED:
            self._armed.pop(connection, None)
            if len(self._timers) > 2 * len(self._armed) + TIMERS_SPARE:
                self._timers = [each for each in self._timers if each[2] in self._armed]
                heapq.heapify(self._timers)
            return
        due = connection.next_deadline()
        armed = self._armed.get(connection)
        if armed is None or due < armed:
            self._armed[connection] = due
            heapq.heappush(self._timers, (due, next(self._tie), connection))
