"""Calls to other nodes: bus addresses outward, and what arrives handed to its owner.

Outward (docs/protocol/net.md §9.4) `/net/<id>/…`, `/from/<own>/to/<id>/…` and both under `/udp` and
`/transfer` become a CallRequest to that node; own ids are answered here. Answers are taken only
from the node that was asked. What was asked of a peer whose stream broke fails at once as
Unreachable: it may or may not have been done. Calls of peers go to `inbound`.
"""

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import structlog

from shem.bus.inbound import Inbound, Network
from shem.bus.pending import PendingCalls
from shem.bus.router import Binding, Bus
from shem.bus.types import Call, GsbCode, GsbError, NoSuchEndpoint, Reply
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import Unreachable, UsageError
from shem.kernel.ids import NodeId, parse_node_id
from shem.kernel.tasks import TaskScope
from shem.kernel.world import Rng
from shem.net.types import Channel, Peer
from shem.wire.errors import WireError
from shem.wire.gsb import (
    BroadcastRequest,
    CallReply,
    CallRequest,
    decode_packet,
    encode_packet,
)

log = structlog.get_logger()

_CHANNELS: Final = {
    "": Channel.RELIABLE,
    "/udp": Channel.UNRELIABLE,
    "/transfer": Channel.TRANSFER,
}
_PREFIXES: Final = {channel: prefix for prefix, channel in _CHANNELS.items()}
_OUTWARD: Final = re.compile(
    r"(?P<channel>|/udp|/transfer)/(?:net/(?P<net>[^/]+)|from/(?P<own>[^/]+)/to/(?P<to>[^/]+))"
    r"/(?P<rest>.+)"
)


@dataclass(slots=True)
class _Asked:
    """Whom a call was put to: the identity asked for, and its node's default one."""

    target: NodeId
    channel: Channel
    default: NodeId | None = None


class RemoteBus:
    """Joins a bus to the net; `identities` are the node's own, default first.

    Further ones may come and go; the default one stays.
    """

    def __init__(self, bus: Bus, net: Network, identities: Sequence[NodeId], *, rng: Rng) -> None:
        self._bus = bus
        self._net = net
        self._default = identities[0]
        self._own = set(identities)
        self._pending: PendingCalls[_Asked] = PendingCalls(rng)
        self._broadcasts: list[Callable[[Peer, BroadcastRequest], None]] = []
        self._tasks = TaskScope()
        self._inbound = Inbound(bus, net, self._own, self._tasks)
        self._bindings: list[Binding] = []
        net.on_message(self._receive)
        net.on_lost(self._lost)

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._bindings = [
            self._bus.attach(prefix, self._outward)
            for prefix in ("/net", "/from", "/udp", "/transfer")
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._bindings:
            self._bindings.pop().close()
        self._pending.fail(Unreachable("the node is shutting down"))
        await self._tasks.__aexit__(kind, error, trace)

    def add_identity(self, node_id: NodeId) -> None:
        """Call as this identity too, and answer what is for it."""
        self._own.add(node_id)

    def remove_identity(self, node_id: NodeId) -> None:
        """Neither call as this identity any more nor answer for it."""
        if node_id != self._default:
            self._own.discard(node_id)

    def on_broadcast(self, fn: Callable[[Peer, BroadcastRequest], None]) -> None:
        """Hear the broadcasts of peers whose stated caller is their default identity."""
        self._broadcasts.append(fn)

    async def _outward(self, call: Call) -> AsyncGenerator[Reply, None]:
        match = _OUTWARD.fullmatch(call.address)
        if match is None:
            raise NoSuchEndpoint
        try:
            target = parse_node_id(match["net"] or match["to"])
            own = parse_node_id(match["own"]) if match["own"] else self._default
        except UsageError as error:
            raise GsbError(error.message, GsbCode.BAD_REQUEST) from error
        if own not in self._own:
            raise GsbError(f"{own} is not an identity of this node", GsbCode.BAD_REQUEST)
        channel = _CHANNELS[match["channel"]]
        if target in self._own:
            replies = self._loop_back(call, own, match["rest"])
        else:
            address = f"{_PREFIXES[channel]}/net/{target}/{match['rest']}"
            replies = self._ask(call, own, target, channel, address)
        async with aclosing(replies):
            async for reply in replies:
                yield reply

    def _loop_back(self, call: Call, own: NodeId, rest: str) -> AsyncGenerator[Reply, None]:
        return self._bus.replies(
            Call(
                Caller(own, Assurance.LOCAL),
                f"/public/{rest}",
                call.data,
                no_reply=call.no_reply,
                caller_text=own,
                timeout_s=call.timeout_s,
            )
        )

    async def _ask(
        self, call: Call, own: NodeId, target: NodeId, channel: Channel, address: str
    ) -> AsyncGenerator[Reply, None]:
        if call.no_reply:
            request = CallRequest(own, address, self._pending.new_request_id(), call.data, True)
            await self._send(call, own, target, channel, request)
            return
        with self._pending.open(_Asked(target, channel)) as pending:
            request = CallRequest(own, address, pending.request_id, call.data)
            await self._send(call, own, target, channel, request)
            pending.asked.default = self._net.default_of(target)  # the route has taught it
            async with aclosing(pending.replies()) as replies:
                async for reply in replies:
                    yield reply

    async def _send(
        self, call: Call, own: NodeId, target: NodeId, channel: Channel, request: CallRequest
    ) -> None:
        packet = encode_packet(request)
        await self._net.send(target, channel, packet, timeout_s=call.timeout_s, sender=own)

    def _lost(self, peer: NodeId, channel: Channel) -> None:
        error = Unreachable(f"the connection to {peer} broke before its answer")
        self._pending.fail(
            error, lambda asked: asked.channel is channel and peer in (asked.target, asked.default)
        )

    def _receive(self, peer: Peer, channel: Channel, message: bytes) -> None:
        if not self._bindings:
            return  # not open yet, or no longer
        try:
            packet = decode_packet(message)
        except WireError as error:
            log.warning("remote.malformed", peer=peer.node_id, error=error.message)
            return
        if isinstance(packet, CallReply):
            self._take_reply(peer, packet)
        elif isinstance(packet, CallRequest):
            self._inbound.take(peer, channel, packet)
        elif isinstance(packet, BroadcastRequest):
            self._take_broadcast(peer, packet)
        else:
            log.warning("remote.unexpected", peer=peer.node_id, packet=type(packet).__name__)

    def _take_reply(self, peer: Peer, reply: CallReply) -> None:
        pending = self._pending.find(reply.request_id)
        if pending is None:
            return
        if pending.asked.target not in peer.identities:
            log.warning("remote.foreign_reply", peer=peer.node_id, asked=pending.asked.target)
            return
        pending.offer(reply)

    def _take_broadcast(self, peer: Peer, request: BroadcastRequest) -> None:
        if request.caller != peer.node_id:
            log.warning("remote.caller_refused", peer=peer.node_id, caller=request.caller[:64])
            return
        for fn in self._broadcasts:
            fn(peer, request)
