"""Established sessions with peers and with the relay, and their keep-alive rules (spec §6.4). Pure.

A session that has been silent for 15 s is pinged; so is one that we send to without hearing back,
and one that somebody says is gone: hints are checked, not obeyed.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from shem.kernel.ids import NodeId
from shem.net.outputs import Address, SendDatagram
from shem.net.post import Post
from shem.net.types import Peer, SessionInfo
from shem.wire.forward import forward_head

IDLE_AFTER_S: Final = 15.0
UNHEARD_AFTER_S: Final = 1.5
"""Sending into silence for so long puts the session in doubt."""
FRESH_S: Final = 1.0
"""A session younger than this is not doubted because of traffic that crossed its birth."""
CROSSING_S: Final = 2.0
"""Sessions begun by both sides within this time are two answers to one question."""
HELD_MAX: Final = 256
"""Packets kept while the peer has not resumed us; the oldest is dropped first."""
SESSIONS_MAX: Final = 16_384


@dataclass(frozen=True, slots=True)
class CheckAlive:
    """Purpose of the pings whose loss ends a session."""

    session_id: bytes


@dataclass(frozen=True, slots=True)
class MeasureLatency:
    """Purpose of a ping that only measures."""

    session_id: bytes


@dataclass(slots=True, eq=False)
class Session:
    """One session; `peer` is None for the relay's."""

    address: Address
    session_id: bytes
    peer: Peer | None
    since: float
    last_seen: float
    own_ids: frozenset[NodeId] = frozenset()
    """What we have proven to the other end."""
    is_initiator: bool = True
    former_id: bytes = b""
    """The session that this one replaced on the same address: its packets may be under way."""
    may_send: bool = True
    """False until a responder's peer has resumed it, and while it pauses us."""
    unheard_since: float | None = None
    is_doubted: bool = False
    """Somebody says that the peer has lost it."""
    ping_s: float | None = None
    received_bytes: int = 0
    sent_bytes: int = 0
    head: bytes = b""
    held: deque[bytes] = field(default_factory=lambda: deque(maxlen=HELD_MAX))

    def __post_init__(self) -> None:
        self.head = forward_head(self.session_id, 0)

    def is_named(self, session_id: bytes) -> bool:
        """Tell whether a packet with this id belongs here."""
        return session_id in (self.session_id, self.former_id) and session_id != b""

    def is_older_than(self, age_s: float, now: float) -> bool:
        return now - self.since >= age_s

    def is_fresh(self, now: float) -> bool:
        """Tell whether another session now would be begun by both sides at once."""
        return not self.is_doubted and not self.is_older_than(CROSSING_S, now)

    def heard(self, size: int, now: float) -> None:
        self.last_seen = now
        self.unheard_since = None
        self.is_doubted = False
        self.received_bytes += size

    def send_forward(self, post: Post, data: bytes, now: float) -> None:
        """Send a whole Forward datagram, or keep it until the peer resumes us."""
        if not self.may_send:
            self.held.append(data)
            return
        self.sent_bytes += len(data)
        if self.unheard_since is None:
            self.unheard_since = now
        post.emit(SendDatagram(data, self.address))

    def resume(self, post: Post, now: float) -> None:
        self.may_send = True
        while self.held:
            self.send_forward(post, self.held.popleft(), now)

    def is_idle(self, now: float) -> bool:
        return now - self.last_seen >= IDLE_AFTER_S

    def is_unheard(self, now: float) -> bool:
        return self.unheard_since is not None and now - self.unheard_since >= UNHEARD_AFTER_S

    def info(self, node_id: NodeId, kind: str, now: float) -> SessionInfo:
        return SessionInfo(
            node_id=node_id,
            address=self.address,
            kind=kind,
            session_id=self.session_id.hex(),
            up_s=now - self.since,
            seen_s=now - self.last_seen,
            ping_s=self.ping_s,
            received_bytes=self.received_bytes,
            sent_bytes=self.sent_bytes,
        )


class PeerSessions:
    """The sessions with peers: one per address and one per node."""

    def __init__(self) -> None:
        self.by_address: dict[Address, Session] = {}
        self._by_node: dict[NodeId, Session] = {}
        self._by_id: dict[bytes, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self.by_address.values()))

    def __len__(self) -> int:
        return len(self.by_address)

    def find(self, node_id: NodeId) -> Session | None:
        """Return the session with the node that has this default id."""
        return self._by_node.get(node_id)

    def named(self, session_id: bytes) -> Session | None:
        """Return the session with this id."""
        return self._by_id.get(session_id)

    def add(self, session: Session) -> list[Session]:
        """Add it; return the sessions of the same node or address, now removed."""
        assert session.peer is not None
        same_node = self._by_node.get(session.peer.node_id)
        if same_node is not None and same_node is self.by_address.get(session.address):
            session.former_id = same_node.session_id
        replaced = self.hear(session)
        if same_node is not None and same_node not in replaced:
            self.remove(same_node)
            replaced.append(same_node)
        self._by_node[session.peer.node_id] = session
        return replaced

    def hear(self, session: Session) -> list[Session]:
        """Listen to it, but do not send on it; return the sessions in its place, now removed."""
        replaced: list[Session] = []
        same_address = self.by_address.get(session.address)
        if same_address is not None and same_address is not session:
            replaced.append(same_address)
            self.remove(same_address)
        if len(self.by_address) >= SESSIONS_MAX and same_address is not session:
            oldest = min(self.by_address.values(), key=lambda s: s.last_seen)
            self.remove(oldest)
            replaced.append(oldest)
        self.by_address[session.address] = session
        self._by_id[session.session_id] = session
        return replaced

    def remove(self, session: Session) -> None:
        assert session.peer is not None
        if self.by_address.get(session.address) is session:
            del self.by_address[session.address]
        if self._by_id.get(session.session_id) is session:
            del self._by_id[session.session_id]
        if self._by_node.get(session.peer.node_id) is session:
            del self._by_node[session.peer.node_id]
