"""What the relay told us about nodes: a cache with limits (docs/protocol/net.md §6.3, §6.5). Pure.

Endpoints are strings from a stranger: only IP addresses survive, so that nothing here ever makes
us look up a name.
"""

import math
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from shem.kernel.caller import Assurance
from shem.kernel.errors import PeerError
from shem.kernel.ids import NodeId, node_id_from_bytes
from shem.net.outputs import Address
from shem.net.types import NodeInfo, Peer
from shem.wire import relay as r

INFO_LIFETIME_S: Final = 300.0
NODES_MAX: Final = 8_192
"""Nodes remembered; the one learnt first is forgotten first."""


class Registry:
    """Node records, their aliases, and the slots of the present relay session."""

    def __init__(self) -> None:
        self._infos: dict[NodeId, tuple[NodeInfo, float]] = {}
        self._default_of: dict[NodeId, NodeId] = {}
        self._by_slot: dict[int, NodeInfo] = {}

    def learn(self, info: NodeInfo, now: float) -> None:
        if known := self._infos.pop(info.node_id, None):
            self._forget_slot_of(known[0])
        self._infos[info.node_id] = (info, now + INFO_LIFETIME_S)
        self.learn_aliases(info.node_id, info.identities)
        if info.slot:
            self._by_slot[info.slot] = info
        if len(self._infos) > NODES_MAX:
            self.forget(next(iter(self._infos)))

    def learn_aliases(self, default: NodeId, identities: Iterable[NodeId]) -> None:
        for alias in identities:
            self._default_of[alias] = default
        while len(self._default_of) > 2 * NODES_MAX:
            del self._default_of[next(iter(self._default_of))]

    def learn_proven(self, default: NodeId, proven: frozenset[NodeId]) -> None:
        """Take identities from a session; what the relay said beyond them no longer counts."""
        known = self._infos.get(default)
        for alias in known[0].identities if known else ():
            if alias not in proven:
                self._default_of.pop(alias, None)
        self.learn_aliases(default, proven)

    def default_of(self, node_id: NodeId) -> NodeId:
        """Return the default identity, as far as we know."""
        return self._default_of.get(node_id, node_id)

    def find(self, node_id: NodeId, now: float) -> NodeInfo | None:
        known = self._infos.get(self.default_of(node_id))
        return known[0] if known and known[1] > now else None

    def by_slot(self, slot: int) -> NodeInfo | None:
        return self._by_slot.get(slot)

    def forget(self, node_id: NodeId) -> None:
        """Drop the record, its slot included: the node has moved or gone."""
        known = self._infos.pop(self.default_of(node_id), None)
        if known is None:
            return
        self._forget_slot_of(known[0])
        for alias in known[0].identities:
            self._default_of.pop(alias, None)

    def expire(self, node_id: NodeId) -> None:
        """Have the next search ask anew: the node is not where it was said to be."""
        default = self.default_of(node_id)
        if known := self._infos.get(default):
            self._infos[default] = (known[0], -math.inf)

    def forget_slots(self) -> None:
        """Slots are known only as long as the relay session lives."""
        self._by_slot.clear()

    def _forget_slot_of(self, info: NodeInfo) -> None:
        """Another node may have the slot by now."""
        if self._by_slot.get(info.slot) is info:
            del self._by_slot[info.slot]


def read_node(node: r.Node) -> NodeInfo:
    """Check a Node answer; PeerError when it names nobody."""
    if not node.identities:
        raise PeerError("a node without identities")
    if any(len(identity.node_id) != r.NODE_ID_SIZE for identity in node.identities):
        raise PeerError("a node id of wrong length")
    ids = tuple(node_id_from_bytes(identity.node_id) for identity in node.identities)
    return NodeInfo(ids[0], ids, read_endpoints(node.endpoints), node.slot, node.seen_ts)


def read_endpoints(endpoints: Iterable[r.Endpoint]) -> tuple[Address, ...]:
    """Return the usable ones: UDP, an IP address, a real port."""
    usable = []
    for endpoint in endpoints:
        try:
            host = str(ip_address(_bare(endpoint.address)))
        except ValueError:
            continue
        if endpoint.protocol == r.UDP and 0 < endpoint.port < 65_536:
            usable.append((host, endpoint.port))
    return tuple(usable)


def _bare(address: str) -> str:
    """Return an address without the brackets that our relay gives those of IPv6."""
    return address[1:-1] if address.startswith("[") and address.endswith("]") else address


def vouched(info: NodeInfo) -> Peer:
    """Return the peer that the relay says this node is."""
    return Peer(info.node_id, frozenset(info.identities), Assurance.VOUCHED)
