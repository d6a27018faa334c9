"""Calls of other nodes to services of this one.

The wire address `/net/<own id>/x` (also under `/udp` and `/transfer`) is `/public/x` here; nothing
else can be reached from outside (docs/protocol/net.md §9.4). The caller a request names must be an
identity of the session it came over, and is known as well as that session proves it. Every call
runs in a task of its own; how many at once is limited per peer and in all. Between nodes all errors
have code 400 and a text (§9.3).
"""

import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence, Set
from contextlib import aclosing
from typing import Final, Protocol

import structlog

from shem.bus.answering import answer, describe_to_peer
from shem.bus.router import Bus
from shem.bus.types import Call, GsbCode, GsbError, Reply
from shem.kernel.caller import Caller
from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.net.types import Channel, Peer
from shem.wire.gsb import CallReply, CallRequest, encode_packet

log = structlog.get_logger()

CALLS_PER_PEER_MAX: Final = 256
"""Calls of one peer that are being answered; a long poll is one for up to a minute."""
CALLS_MAX: Final = 8_192
REPLY_SEND_S: Final = 60.0

_INWARD: Final = re.compile(r"(?:/udp|/transfer)?/net/(?P<own>[^/]+)/(?P<rest>.+)")


class Network(Protocol):
    """What the bus needs of `net.service.Net`."""

    def on_message(self, fn: Callable[[Peer, Channel, bytes], None]) -> None: ...
    def on_lost(self, fn: Callable[[NodeId, Channel], None]) -> None: ...
    async def send(
        self,
        target: NodeId,
        channel: Channel,
        message: bytes,
        *,
        timeout_s: float,
        sender: NodeId | None = None,
    ) -> None: ...
    def default_of(self, node_id: NodeId) -> NodeId: ...
    async def broadcast_targets(self) -> Sequence[NodeId]: ...


class Inbound:
    """Answers the calls of peers from the bus; `own` is what the node's identities are just now."""

    def __init__(self, bus: Bus, net: Network, own: Set[NodeId], tasks: TaskScope) -> None:
        self._bus = bus
        self._net = net
        self._own = own
        self._tasks = tasks
        self._running: Counter[NodeId] = Counter()

    def take(self, peer: Peer, channel: Channel, request: CallRequest) -> None:
        """Start answering; a peer beyond its limit is left without an answer."""
        if self._running[peer.node_id] >= CALLS_PER_PEER_MAX or self._tasks.size >= CALLS_MAX:
            log.warning("remote.overload", peer=peer.node_id)
            return
        self._running[peer.node_id] += 1
        self._tasks.spawn(self._run(peer, channel, request), f"call from {peer.node_id}")

    async def _run(self, peer: Peer, channel: Channel, request: CallRequest) -> None:
        async def send(reply: CallReply) -> None:
            packet = encode_packet(reply)
            await self._net.send(peer.node_id, channel, packet, timeout_s=REPLY_SEND_S)

        try:
            await answer(request, self._replies(peer, request), send, describe_to_peer)
        except ShemError as error:  # the answer could not be sent: the peer will ask again or not
            log.info("remote.reply_lost", peer=peer.node_id, error=error.message)
        finally:
            self._running[peer.node_id] -= 1
            if not self._running[peer.node_id]:
                del self._running[peer.node_id]

    async def _replies(self, peer: Peer, request: CallRequest) -> AsyncGenerator[Reply, None]:
        async with aclosing(self._bus.replies(self._admit(peer, request))) as replies:
            async for reply in replies:
                yield reply

    def _admit(self, peer: Peer, request: CallRequest) -> Call:
        """Return the local form of the call, or refuse it."""
        caller = NodeId(request.caller.lower())
        if caller not in peer.identities:
            log.warning("remote.caller_refused", peer=peer.node_id, caller=request.caller[:64])
            raise GsbError("caller is no identity of this session", GsbCode.BAD_REQUEST)
        match = _INWARD.fullmatch(request.address)
        if match is None or match["own"].lower() not in self._own:
            text = f"Unknown address: {request.address[:256]}"
            raise GsbError(text, GsbCode.BAD_REQUEST)
        return Call(
            Caller(caller, peer.assurance),
            f"/public/{match['rest']}",
            request.data,
            no_reply=request.no_reply,
            caller_text=caller,
        )
