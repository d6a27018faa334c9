"""What waits until it is known how to talk to a node: packets, and those who want a route. Pure."""

from collections import deque
from collections.abc import Callable
from typing import Final

from shem.kernel.ids import NodeId
from shem.net.secure.packets import Kind

HELD_MAX: Final = 128
"""Packets that wait per node; the oldest is dropped first."""
NODES_MAX: Final = 1_024
"""Nodes that packets wait for; those for further ones are dropped."""


class Waiting:
    """Kept by the identity that was asked for, found by the default one that it turns out to be."""

    def __init__(self, default_of: Callable[[NodeId], NodeId]) -> None:
        self._default_of = default_of
        self._wanted: dict[NodeId, None] = {}
        self._held: dict[NodeId, deque[tuple[Kind, bytes]]] = {}

    def __contains__(self, node_id: NodeId) -> bool:
        return any(self._is(each, node_id) for each in (*self._wanted, *self._held))

    def want(self, node_id: NodeId) -> None:
        self._wanted[node_id] = None

    def hold(self, node_id: NodeId, kind: Kind, payload: bytes) -> None:
        if node_id not in self._held:
            if len(self._held) >= NODES_MAX:
                return
            self._held[node_id] = deque(maxlen=HELD_MAX)
        self._held[node_id].append((kind, payload))

    def take(self, node_id: NodeId) -> tuple[bool, list[tuple[Kind, bytes]]]:
        """Return whether the node's route is wanted, and the packets held for it."""
        wanted = [each for each in self._wanted if self._is(each, node_id)]
        for each in wanted:
            del self._wanted[each]
        packets: list[tuple[Kind, bytes]] = []
        for each in [each for each in self._held if self._is(each, node_id)]:
            packets += self._held.pop(each)
        return bool(wanted), packets

    def _is(self, asked_for: NodeId, node_id: NodeId) -> bool:
        return node_id in (asked_for, self._default_of(asked_for))
