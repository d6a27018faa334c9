"""How well the sender of a stream's bytes is proven, when packets may come by either way. Pure.

A relay could open a connection in the name of a node that also has a direct session with us. So a
connection of which any packet came through the relay stays vouched for, whatever comes later.
"""

from typing import Final

from shem.kernel.caller import Assurance
from shem.kernel.ids import NodeId
from shem.net.types import Peer

CONNECTIONS_MAX: Final = 64
"""Relayed connections told apart per peer; beyond, all of that peer count as relayed."""
PEERS_MAX: Final = 8_192
_PORTS: Final = slice(40, 44)
_FLAGS: Final = 53
_SYN: Final = 0x02


class StreamAssurance:
    """Remembers which connections the relay had a hand in."""

    def __init__(self) -> None:
        self._relayed: dict[NodeId, set[bytes]] = {}

    def of(self, peer: Peer, packet: bytes) -> Peer:
        """Return the peer as what this IPv6 packet's connection proves it to be."""
        if peer.assurance is Assurance.ENCRYPTED:
            return peer  # a stream is encrypted as a whole or not at all
        ports = packet[_PORTS]
        relayed = self._relayed.get(peer.node_id)
        if peer.assurance is Assurance.VOUCHED:
            if relayed is None:
                if len(self._relayed) >= PEERS_MAX:
                    del self._relayed[next(iter(self._relayed))]
                relayed = self._relayed.setdefault(peer.node_id, set())
            if len(relayed) <= CONNECTIONS_MAX:
                relayed.add(ports)
            return peer
        if relayed is None:
            return peer
        if len(packet) > _FLAGS and packet[_FLAGS] & _SYN and len(relayed) <= CONNECTIONS_MAX:
            relayed.discard(ports)
        if ports in relayed or len(relayed) > CONNECTIONS_MAX:
            return Peer(peer.node_id, peer.identities, Assurance.VOUCHED)
        return peer
