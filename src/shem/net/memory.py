"""A network inside one process: the in-memory seam behind the face of `net.service.Net`.

For tests and simulations in which whole nodes run side by side. Messages between two nodes arrive
in order on the next turn of the event loop; `cut` breaks a link as a lost session does (both sides
are told that their streams broke, what was under way is gone), `join` mends it. A node is on the
fabric while its `async with` block lasts.
"""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from shem.identity.keys import PrivateKey
from shem.kernel.caller import Assurance
from shem.kernel.errors import NotFound, Unreachable, UsageError
from shem.kernel.ids import NodeId
from shem.net.types import (
    DATAGRAM_MESSAGE_MAX,
    MESSAGE_SIZE_MAX,
    Channel,
    NetStatus,
    NodeInfo,
    Peer,
    SessionInfo,
    SocketInfo,
)

_ADDRESS = ("127.0.0.1", 11500)


class MemoryFabric:
    """All nodes that can reach each other, and the links between them that are cut."""

    def __init__(self) -> None:
        self._nodes: dict[NodeId, MemoryNet] = {}
        self._cut: set[frozenset[NodeId]] = set()
        self._sessions: set[frozenset[NodeId]] = set()

    def node(self, *identities: NodeId, assurance: Assurance = Assurance.PROVEN) -> "MemoryNet":
        """Return a node's net; `assurance` is how well its peers get to know its identities."""
        return MemoryNet(self, identities, assurance)

    def cut(self, one: NodeId, other: NodeId) -> None:
        """Break the link between two nodes (named by their default ids) until `join`."""
        pair = frozenset((one, other))
        self._cut.add(pair)
        self._lose(pair)

    def join(self, one: NodeId, other: NodeId) -> None:
        """Mend the link; the nodes meet again when either sends."""
        self._cut.discard(frozenset((one, other)))

    def _lose(self, pair: frozenset[NodeId]) -> None:
        if pair not in self._sessions:
            return
        self._sessions.discard(pair)
        one, other = pair
        for mine, theirs in ((one, other), (other, one)):
            node = self._nodes.get(mine)
            if node is not None:
                node.lost(theirs)

    def add(self, node: "MemoryNet") -> None:
        for identity in node.identities:
            self._nodes[identity] = node

    def remove_names(self, node: "MemoryNet") -> None:
        for identity in node.identities:
            del self._nodes[identity]

    def remove(self, node: "MemoryNet") -> None:
        self.remove_names(node)
        for pair in [pair for pair in self._sessions if node.default_id in pair]:
            self._lose(pair)

    def peer_of(self, node: "MemoryNet", target: NodeId) -> "MemoryNet":
        """Return the node that `target` is an identity of; Unreachable when away or cut off."""
        peer = self._nodes.get(target)
        if peer is None or frozenset((node.default_id, peer.default_id)) in self._cut:
            raise Unreachable(f"node {target} cannot be reached")
        return peer

    def meet(self, node: "MemoryNet", peer: "MemoryNet") -> None:
        """Have a session between two nodes."""
        pair = frozenset((node.default_id, peer.default_id))
        if pair not in self._sessions:
            self._sessions.add(pair)
            node.met(peer.default_id)
            peer.met(node.default_id)

    def in_session(self, node: "MemoryNet", peer: "MemoryNet") -> bool:
        return frozenset((node.default_id, peer.default_id)) in self._sessions

    def others(self, node: "MemoryNet") -> list["MemoryNet"]:
        reachable = {
            peer.default_id: peer
            for peer in self._nodes.values()
            if peer is not node and frozenset((node.default_id, peer.default_id)) not in self._cut
        }
        return list(reachable.values())


class MemoryNet:
    """One node's net on a `MemoryFabric`."""

    bind_address = _ADDRESS
    public_address: tuple[str, int] | None = None

    def __init__(
        self, fabric: MemoryFabric, identities: Sequence[NodeId], assurance: Assurance
    ) -> None:
        if not identities:
            raise UsageError("a node has at least one identity")
        self.identities = frozenset(identities)
        self.default_id = identities[0]
        self._fabric = fabric
        self._assurance = assurance
        self._on_message: list[Callable[[Peer, Channel, bytes], None]] = []
        self._on_lost: list[Callable[[NodeId, Channel], None]] = []
        self._on_peer_up: list[Callable[[NodeId], None]] = []
        self._on_online: list[Callable[[], None]] = []
        self._received = self._sent = 0

    async def __aenter__(self) -> Self:
        self._fabric.add(self)
        self.come_online()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._fabric.remove(self)

    def on_message(self, fn: Callable[[Peer, Channel, bytes], None]) -> None:
        self._on_message.append(fn)

    def on_lost(self, fn: Callable[[NodeId, Channel], None]) -> None:
        self._on_lost.append(fn)

    def on_online(self, fn: Callable[[], None]) -> None:
        self._on_online.append(fn)

    def on_peer_up(self, fn: Callable[[NodeId], None]) -> None:
        self._on_peer_up.append(fn)

    def come_online(self) -> None:
        """Be told what a node is told when it has found its relay, again or for the first time."""
        for fn in self._on_online:
            fn()

    async def send(
        self,
        target: NodeId,
        channel: Channel,
        message: bytes,
        *,
        timeout_s: float,
        sender: NodeId | None = None,
    ) -> None:
        """Hand one message to the target's node; Unreachable when it is away or cut off."""
        limit = DATAGRAM_MESSAGE_MAX if channel is Channel.UNRELIABLE else MESSAGE_SIZE_MAX
        if len(message) > limit:
            raise UsageError(f"a message of {len(message)} bytes; the limit is {limit}")
        peer = self._fabric.peer_of(self, target)
        self._fabric.meet(self, peer)
        self._sent += len(message)
        asyncio.get_running_loop().call_soon(peer.deliver, self, channel, message)

    def deliver(self, sender: "MemoryNet", channel: Channel, message: bytes) -> None:
        if not self._fabric.in_session(self, sender):
            return
        self._received += len(message)
        for fn in self._on_message:
            fn(sender.as_peer, channel, message)

    @property
    def as_peer(self) -> Peer:
        return Peer(self.default_id, self.identities, self._assurance)

    def add_key(self, key: PrivateKey) -> None:
        self._fabric.remove_names(self)
        self.identities |= {key.node_id}
        self._fabric.add(self)

    def remove_key(self, node_id: NodeId) -> None:
        self._fabric.remove_names(self)
        self.identities -= {node_id} - {self.default_id}
        self._fabric.add(self)

    def lost(self, peer: NodeId) -> None:
        for channel in (Channel.RELIABLE, Channel.TRANSFER):
            for fn in self._on_lost:
                fn(peer, channel)

    def met(self, peer: NodeId) -> None:
        for fn in self._on_peer_up:
            fn(peer)

    def default_of(self, node_id: NodeId) -> NodeId:
        for peer in self._fabric.others(self):
            if node_id in peer.identities:
                return peer.default_id
        return node_id

    async def find(self, node_id: NodeId) -> NodeInfo:
        for peer in (self, *self._fabric.others(self)):
            if node_id in peer.identities:
                ids = (peer.default_id, *sorted(peer.identities - {peer.default_id}))
                return NodeInfo(peer.default_id, ids, (_ADDRESS,), slot=1, seen_s=0)
        raise NotFound(f"node {node_id} is not registered")

    async def connect(self, node_id: NodeId) -> NodeInfo:
        self._fabric.meet(self, self._fabric.peer_of(self, node_id))
        return await self.find(node_id)

    async def disconnect(self, node_id: NodeId) -> None:
        self._fabric.cut(self.default_id, node_id)
        self._fabric.join(self.default_id, node_id)

    async def neighbours(self, count: int) -> list[NodeId]:
        return [peer.default_id for peer in self._fabric.others(self)][:count]

    async def broadcast_targets(self) -> list[NodeId]:
        return await self.neighbours(5)

    def status(self) -> NetStatus:
        return NetStatus(
            node_id=self.default_id,
            listen_address=_ADDRESS,
            public_address=None,
            sessions=len(self.sessions()),
            received_bytes=self._received,
            sent_bytes=self._sent,
        )

    def sessions(self) -> list[SessionInfo]:
        return [
            SessionInfo(peer.default_id, _ADDRESS, "p2p", "", 0.0, 0.0, None, 0, 0)
            for peer in self._fabric.others(self)
            if self._fabric.in_session(self, peer)
        ]

    def sockets(self) -> list[SocketInfo]:
        return []
