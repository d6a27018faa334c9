"""Who is at the relay: sessions, slots, neighbourhoods, and who has to do with whom.

Rules: a node is visible only once it is registered; of several sessions for one node id the newest
counts, and the earlier one again when that goes; slots are never given to another node. Pure.
Spec: docs/protocol/net.md §5.2 - §5.7.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from shem.kernel.ids import NodeId, node_id_from_bytes, node_id_to_bytes
from shem.wire.forward import FORWARD_BYTE
from shem.wire.relay import NODE_ID_SIZE

Address = tuple[str, int]

SESSION_EXPIRY_S: Final = 90.0
"""Without a sign of life; nodes ping every 15 s, and roaming ones must not linger."""
SESSIONS_MAX: Final = 100_000
SESSIONS_PER_HOST_MAX: Final = 2_000
CONTACTS_MAX: Final = 1_024
"""Remembered per node; the oldest is forgotten first."""
FORWARDED_LATELY_S: Final = 120.0


@dataclass(slots=True, eq=False)
class RelaySession:
    """One proven node at one address."""

    session_id: bytes
    address: Address
    identities: tuple[tuple[NodeId, bytes], ...]
    """Node id and public key, the default one first."""
    slot: int
    last_seen: float
    is_registered: bool = False
    is_public: bool = False
    recent: set[int] = field(default_factory=set)
    """Slots forwarded to since the last clean-up: spares the hot path the contact book."""
    head: bytes = b""
    slot_bytes: bytes = b""

    def __post_init__(self) -> None:
        self.head = FORWARD_BYTE + self.session_id
        self.slot_bytes = self.slot.to_bytes(4, "big")

    @property
    def node_id(self) -> NodeId:
        return self.identities[0][0]


class Directory:
    """All sessions and slots of one relay."""

    def __init__(self, slots: Iterable[bytes] = ()) -> None:
        self.sessions: dict[bytes, RelaySession] = {}
        self.by_slot: dict[int, RelaySession] = {}
        self._by_node: dict[NodeId, list[RelaySession]] = {}
        self._slot_of: dict[NodeId, int] = {}
        self._per_host: dict[str, int] = {}
        self._contacts: dict[int, dict[int, float]] = {}
        for raw in slots:
            self.slot_of(node_id_from_bytes(raw))

    # --- slots

    def slot_of(self, node_id: NodeId) -> int:
        """Return the node's slot, the next free one at its first use."""
        return self._slot_of.setdefault(node_id, len(self._slot_of) + 1)

    def has_slot(self, node_id: NodeId) -> bool:
        return node_id in self._slot_of

    def is_assigned(self, slot: int) -> bool:
        return 0 < slot <= len(self._slot_of)

    # --- sessions

    def is_full(self, address: Address) -> bool:
        return (
            len(self.sessions) >= SESSIONS_MAX
            or self._per_host.get(address[0], 0) >= SESSIONS_PER_HOST_MAX
        )

    def add(self, session: RelaySession) -> None:
        self.sessions[session.session_id] = session
        host = session.address[0]
        self._per_host[host] = self._per_host.get(host, 0) + 1

    def remove(self, session: RelaySession) -> None:
        if self.sessions.pop(session.session_id, None) is None:
            return
        self._count_down(session.address[0])
        if not session.is_registered:
            return
        for node_id, _ in session.identities:
            same = self._by_node[node_id]
            same.remove(session)
            if not same:
                del self._by_node[node_id]
        if self.by_slot.get(session.slot) is session:
            del self.by_slot[session.slot]
            if (previous := self.find(session.node_id)) and previous.slot == session.slot:
                self.by_slot[session.slot] = previous

    def register(self, session: RelaySession) -> list[RelaySession]:
        """Make it visible; return the earlier sessions of the same node, now removed."""
        if session.is_registered:
            return []
        earlier = [
            other
            for other in self._by_node.get(session.node_id, ())
            if other.node_id == session.node_id
        ]
        for other in earlier:
            self.remove(other)
        session.is_registered = True
        for node_id, _ in session.identities:
            self._by_node.setdefault(node_id, []).append(session)
        self.by_slot[session.slot] = session
        return earlier

    def find(self, node_id: NodeId) -> RelaySession | None:
        """Return the newest registered session that has this identity."""
        same = self._by_node.get(node_id)
        return same[-1] if same else None

    def expired(self, now: float) -> list[RelaySession]:
        limit = now - SESSION_EXPIRY_S
        return [session for session in self.sessions.values() if session.last_seen < limit]

    # --- neighbourhood

    def neighbours(self, asker: RelaySession, count: int) -> list[RelaySession]:
        """Return the nodes nearest to the asker by Hamming distance, each once."""
        centre = int(asker.node_id, 16)

        def rank(node_id: NodeId) -> tuple[int, int]:
            number = int(node_id, 16)
            return (number ^ centre).bit_count(), -number

        # Aliases are entries of their own, so that some more than `count` have to be looked at.
        for wanted in (2 * count + len(asker.identities), len(self._by_node)):
            nearest = heapq.nsmallest(wanted, self._by_node, key=rank)
            found = {id(s): s for s in map(self.find, nearest) if s}
            found.pop(id(self.find(asker.node_id)), None)
            found.pop(id(asker), None)
            if len(found) >= count:
                break
        return list(found.values())[:count]

    # --- contacts

    def note_contact(self, a: int, b: int, forwarded_at: float) -> None:
        """Remember that two slots have to do with each other (0: only asked for)."""
        for one, other in ((a, b), (b, a)):
            book = self._contacts.setdefault(one, {})
            latest = max(book.pop(other, 0.0), forwarded_at)
            book[other] = latest
            if len(book) > CONTACTS_MAX:
                del book[next(iter(book))]

    def contacts(self, slot: int) -> Iterator[tuple[RelaySession, float]]:
        """Yield the visible contacts of a slot, with the time of the last Forward."""
        for other, forwarded_at in self._contacts.get(slot, {}).items():
            if session := self.by_slot.get(other):
                yield session, forwarded_at

    def _count_down(self, host: str) -> None:
        left = self._per_host.get(host, 1) - 1
        if left:
            self._per_host[host] = left
        else:
            self._per_host.pop(host, None)


def parse_slots(stored: bytes) -> list[bytes]:
    """Cut the slot file into node ids; an entry that a crash cut off is left out."""
    whole = len(stored) - len(stored) % NODE_ID_SIZE
    return [stored[at : at + NODE_ID_SIZE] for at in range(0, whole, NODE_ID_SIZE)]


def slot_entry(node_id: NodeId) -> bytes:
    return node_id_to_bytes(node_id)
