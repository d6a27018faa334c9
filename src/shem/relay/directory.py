"""Who is at this relay: its sessions, and which of its nodes have to do with whom. Pure.

Rules: a node is visible only once it is registered, and by one session of one address; what is
said about other relays' nodes stands in the `registry`. Spec: docs/protocol/net.md §5.2 - §5.7.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from shem.kernel.ids import NodeId
from shem.relay.limits import (
    FORWARD_BURST,
    FORWARD_CHUNK,
    FORWARD_RATE_PER_S,
    HOST_FORWARD_BURST,
    HOST_FORWARD_RATE_PER_S,
    SESSIONS_MAX,
    SESSIONS_PER_HOST_MAX,
    Bucket,
)
from shem.relay.registry import Address, Registration, Registry
from shem.wire.forward import FORWARD_BYTE

SESSION_EXPIRY_S: Final = 90.0
"""Without a sign of life; nodes ping every 15 s, and roaming ones must not linger."""
REGISTER_WITHIN_S: Final = 10.0
"""A session that stays unregistered for longer serves nobody: its node believes to be visible,
since somebody has answered it in our name. Nodes register at once, for three seconds."""
CONTACTS_MAX: Final = 256
"""Remembered per slot; the oldest is forgotten first."""
BOOKS_MAX: Final = 2 * SESSIONS_MAX
"""Slots whose contacts are remembered."""
CONTACTS_KEPT_S: Final = 900.0
"""How long a node that is gone is remembered to have had contacts."""
FORWARDED_LATELY_S: Final = 120.0


@dataclass(slots=True, eq=False)
class Host:
    """One source address, whatever the port."""

    name: str
    sessions: int = 0
    bucket: Bucket | None = None


@dataclass(slots=True, eq=False)
class RelaySession(Registration):
    """One proven node at one address."""

    is_registered: bool = False
    since: float = 0.0
    head: bytes = b""
    """How a Forward to this node begins."""
    slot_bytes: bytes = b""
    credit: int = 0
    """Datagrams that it may send before the buckets are asked again."""
    recent: set[bytes] | None = None
    """Slots forwarded to since the last clean-up: spares the hot path the contact book."""
    host: Host | None = None
    bucket: Bucket | None = None

    def __post_init__(self) -> None:
        self.since = self.last_seen
        self.head = FORWARD_BYTE + self.session_id
        self.slot_bytes = self.slot.to_bytes(4, "big")

    def refill(self, now: float) -> bool:
        """Take credit for more Forwards; False when the session or its host is at its limit."""
        host = self.host
        assert host is not None
        if self.bucket is None:
            self.bucket = Bucket(FORWARD_RATE_PER_S, FORWARD_BURST, now)
        if host.bucket is None:
            host.bucket = Bucket(HOST_FORWARD_RATE_PER_S, HOST_FORWARD_BURST, now)
        if not self.bucket.take(FORWARD_CHUNK, now) or not host.bucket.take(FORWARD_CHUNK, now):
            return False
        self.credit = FORWARD_CHUNK
        return True


@dataclass(slots=True)
class Contacts:
    """Which slots have to do with each other, and when a Forward last passed (0: only asked)."""

    _books: dict[int, dict[int, float]] = field(default_factory=dict)
    _left: dict[int, float] = field(default_factory=dict)
    """Slots without a session, since when."""

    def note(self, a: int, b: int, forwarded_at: float) -> None:
        for one, other in ((a, b), (b, a)):
            book = self._books.setdefault(one, {})
            book[other] = max(book.pop(other, 0.0), forwarded_at)
            if len(book) > CONTACTS_MAX:
                del book[next(iter(book))]
        if len(self._books) > BOOKS_MAX:
            del self._books[next(iter(self._books))]

    def of(self, slot: int) -> dict[int, float]:
        return self._books.get(slot, {})

    def came(self, slot: int) -> None:
        self._left.pop(slot, None)

    def went(self, slot: int, now: float) -> None:
        self._left.setdefault(slot, now)

    def forget_old(self, now: float) -> None:
        while self._left and next(iter(self._left.values())) < now - CONTACTS_KEPT_S:
            slot = next(iter(self._left))
            del self._left[slot]
            self._books.pop(slot, None)

    def pairs(self) -> Iterator[tuple[int, int, float]]:
        for one, book in self._books.items():
            yield from ((one, other, at) for other, at in book.items() if one < other)


class Directory:
    """All sessions of one relay."""

    def __init__(self, registry: Registry, relay: str = "") -> None:
        self.registry = registry
        self.relay = relay
        self.sessions: dict[bytes, RelaySession] = {}
        self.by_slot: dict[bytes, RelaySession] = {}
        """Registered sessions by slot, as it stands in a Forward."""
        self.contacts = Contacts()
        self._hosts: dict[str, Host] = {}

    def is_full(self, address: Address) -> bool:
        host = self._hosts.get(address[0])
        return len(self.sessions) >= SESSIONS_MAX or (
            host is not None and host.sessions >= SESSIONS_PER_HOST_MAX
        )

    def find_session(self, sid: bytes, source: Address, now: float) -> RelaySession | None:
        """Return the session of this id and address; one that failed to register is ended."""
        session = self.sessions.get(sid)
        if session is None or session.address != source:
            return None
        if not session.is_registered and now - session.since > REGISTER_WITHIN_S:
            self.remove(session)
            return None
        return session

    def add(self, session: RelaySession) -> None:
        session.relay = self.relay
        session.host = self._hosts.setdefault(session.address[0], Host(session.address[0]))
        session.host.sessions += 1
        session.address = (session.host.name, session.address[1])
        self.sessions[session.session_id] = session

    def remove(self, session: RelaySession) -> None:
        if self.sessions.pop(session.session_id, None) is None:
            return
        assert session.host is not None
        session.host.sessions -= 1
        if not session.host.sessions:
            del self._hosts[session.host.name]
        if not session.is_registered:
            return
        self.registry.withdraw(session)
        if self.by_slot.get(session.slot_bytes) is session:
            del self.by_slot[session.slot_bytes]
            self.contacts.went(session.slot, session.last_seen)

    def register(self, session: RelaySession) -> bool:
        """Make it visible, in place of an earlier session of the same node.

        Tell whether the node itself replaces a session that it still holds: one that spoke after
        the new one was proven, from the same address. It is not found any more, and lives on
        until the node takes its leave.
        """
        if session.is_registered:
            return False
        earlier = self.by_slot.get(session.slot_bytes)
        is_succession = (
            earlier is not None
            and earlier.address == session.address
            and earlier.last_seen > session.since
        )
        if earlier is not None and is_succession:
            self.registry.withdraw(earlier)
            earlier.is_registered = False
            earlier.since = earlier.last_seen
        elif earlier is not None:
            self.remove(earlier)
        session.is_registered = True
        self.registry.publish(session)
        self.by_slot[session.slot_bytes] = session
        self.contacts.came(session.slot)
        return is_succession

    def find(self, node_id: NodeId) -> Registration | None:
        """Return the newest registration of this identity, at whichever relay."""
        return self.registry.find(node_id)

    def at_slot(self, slot: int) -> Registration | None:
        return self.by_slot.get(slot.to_bytes(4, "big")) or self.registry.at_slot(slot)

    def is_assigned(self, slot: int) -> bool:
        return 0 < slot <= self.registry.slots

    def expired(self, now: float) -> list[RelaySession]:
        limit = now - SESSION_EXPIRY_S
        return [session for session in self.sessions.values() if session.last_seen < limit]
