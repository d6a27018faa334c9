"""Who may be spoken to, and believed, in the clear: the policy, applied. Pure.

    required    nobody
    preferred   who does not speak encrypted, and never did
    off         everybody (nothing else is asked)

Spec: docs/protocol/encryption.md §5.
"""

from typing import Final, TypeVar

from shem.kernel.config import Encryption
from shem.kernel.ids import NodeId
from shem.net.secure.pins import Pins
from shem.net.types import Peer

REFUSED_S: Final = 300.0
"""How long a legacy node's refusal is remembered; its own Hello is always heard."""
SILENT_S: Final = 30.0
"""The same for silence, which proves less."""
GIVEN_UP_S: Final = 1.0
"""How long a node that may not be spoken to in the clear is not greeted again."""
NODES_MAX: Final = 16_384
"""Entries of each book; the oldest is forgotten first."""

V = TypeVar("V")


class Trust:
    """What is known of nodes that have no channel with us."""

    def __init__(self, policy: Encryption, pins: Pins) -> None:
        self._policy = policy
        self._pins = pins
        self._legacy: dict[NodeId, float] = {}
        self._given_up: dict[NodeId, tuple[float, str]] = {}
        self._plain_streams: dict[NodeId, None] = {}

    @property
    def is_off(self) -> bool:
        return self._policy is Encryption.OFF

    def may_be_plain(self, node_id: NodeId) -> bool:
        """Tell whether the node may go on in the clear when it does not know better."""
        return self._policy is Encryption.PREFERRED and node_id not in self._pins

    def is_legacy(self, node_id: NodeId, now: float) -> bool:
        """Tell whether the node has lately shown that it does not know better."""
        return self._legacy.get(node_id, 0.0) > now and self.may_be_plain(node_id)

    def is_given_up(self, node_id: NodeId, now: float) -> str | None:
        """Return why the node cannot be spoken to just now."""
        until, reason = self._given_up.get(node_id, (0.0, ""))
        return reason if until > now else None

    def note_legacy(self, node_id: NodeId, until: float) -> None:
        _note(self._legacy, node_id, until)

    def note_given_up(self, node_id: NodeId, reason: str, now: float) -> None:
        _note(self._given_up, node_id, (now + GIVEN_UP_S, reason))

    def note_plain_stream(self, node_id: NodeId) -> None:
        if node_id not in self._plain_streams:
            _note(self._plain_streams, node_id, None)

    def note_hello(self, node_id: NodeId) -> None:
        """The node speaks encrypted now."""
        self._legacy.pop(node_id, None)

    def note_channel(self, identities: tuple[NodeId, ...], now: float) -> bool:
        """The node has proven these; tell whether it has had streams in the clear before."""
        node_id = identities[0]
        self._pins.add(identities, now)
        self._legacy.pop(node_id, None)
        self._given_up.pop(node_id, None)
        had_streams = node_id in self._plain_streams
        self._plain_streams.pop(node_id, None)
        return had_streams

    def believed(self, sender: Peer) -> Peer | None:
        """Return the sender of a plain packet as what it is believed to be, or None."""
        if not self.may_be_plain(sender.node_id):
            return None
        identities = self._pins.without(sender.identities)
        if identities is sender.identities:
            return sender
        return Peer(sender.node_id, identities, sender.assurance)


def _note(book: dict[NodeId, V], node_id: NodeId, value: V) -> None:
    """Write into a book of limited size."""
    book.pop(node_id, None)
    book[node_id] = value
    if len(book) > NODES_MAX:
        del book[next(iter(book))]
