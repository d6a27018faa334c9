"""Where the nodes of a network are registered: the seam at which several relays serve one network.

A relay publishes the sessions of its own nodes here, and finds all others here by node id, by slot
or as neighbours. Rules: of several registrations of one node id the newest counts, and the earlier
one again when that goes; a slot is never given to another node. `MemoryRegistry` serves one relay,
or several in one process. A registry over a message broker keeps a copy of every relay's
registrations, so that look-ups stay synchronous, and gives slots from blocks of its own relay.
Pure. Spec: docs/protocol/net.md §5.2 - §5.4.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from shem.kernel.ids import NodeId, node_id_from_bytes

Address = tuple[str, int]


@dataclass(slots=True, eq=False)
class Registration:
    """A proven node at one address of one relay."""

    session_id: bytes
    address: Address
    identities: tuple[tuple[NodeId, bytes], ...]
    """Node id and public key, the default one first."""
    slot: int
    last_seen: float
    """On the clock that the relay is run with."""
    relay: str = ""
    """Name of the relay that holds the session."""
    is_public: bool = False

    @property
    def node_id(self) -> NodeId:
        return self.identities[0][0]

    @property
    def endpoints(self) -> tuple[Address, ...]:
        """Where others may dial the node."""
        return (self.address,) if self.is_public else ()


class Registry(Protocol):
    """All registrations of one network, whichever relay holds them."""

    @property
    def slots(self) -> int:
        """How many slots are assigned; they count from 1."""

    def has_slot(self, node_id: NodeId) -> bool: ...

    def slot_of(self, node_id: NodeId) -> int:
        """Return the node's slot, a new one at its first use."""

    def publish(self, entry: Registration) -> None:
        """Make it visible to all relays."""

    def withdraw(self, entry: Registration) -> None:
        """Make it invisible again, if it is visible."""

    def find(self, node_id: NodeId) -> Registration | None: ...

    def at_slot(self, slot: int) -> Registration | None: ...

    def neighbours(self, asker: Registration, count: int) -> list[Registration]:
        """Return the nodes nearest to the asker by Hamming distance, each once."""


class MemoryRegistry:
    """The registrations of one process."""

    def __init__(self, slots: Iterable[bytes] = ()) -> None:
        self._slot_of: dict[NodeId, int] = {}
        self._by_slot: dict[int, list[Registration]] = {}
        self._by_number: dict[int, list[Registration]] = {}
        for raw in slots:
            self.slot_of(node_id_from_bytes(raw))

    @property
    def slots(self) -> int:
        return len(self._slot_of)

    def has_slot(self, node_id: NodeId) -> bool:
        return node_id in self._slot_of

    def slot_of(self, node_id: NodeId) -> int:
        return self._slot_of.setdefault(node_id, len(self._slot_of) + 1)

    def publish(self, entry: Registration) -> None:
        self._by_slot.setdefault(entry.slot, []).append(entry)
        for node_id, _ in entry.identities:
            self._by_number.setdefault(int(node_id, 16), []).append(entry)

    def withdraw(self, entry: Registration) -> None:
        _take_out(self._by_slot, entry.slot, entry)
        for node_id, _ in entry.identities:
            _take_out(self._by_number, int(node_id, 16), entry)

    def find(self, node_id: NodeId) -> Registration | None:
        same = self._by_number.get(int(node_id, 16))
        return same[-1] if same else None

    def at_slot(self, slot: int) -> Registration | None:
        same = self._by_slot.get(slot)
        return same[-1] if same else None

    def neighbours(self, asker: Registration, count: int) -> list[Registration]:
        centre = int(asker.node_id, 16)
        distances = [(number ^ centre).bit_count() for number in self._by_number]
        # Aliases are entries of their own, so that some more than `count` have to be looked at.
        for wanted in (2 * count + len(asker.identities), len(distances)):
            limit = sorted(distances)[:wanted][-1:] or [0]
            near = sorted(
                (distance, -number)
                for number, distance in zip(self._by_number, distances, strict=True)
                if distance <= limit[0]
            )
            found = {id(e): e for e in (self._by_number[-number][-1] for _, number in near)}
            others = [e for e in found.values() if e.node_id != asker.node_id]
            if len(others) >= count:
                break
        return others[:count]


def _take_out(book: dict[int, list[Registration]], key: int, entry: Registration) -> None:
    same = book.get(key, [])
    if entry in same:
        same.remove(entry)
        if not same:
            del book[key]
