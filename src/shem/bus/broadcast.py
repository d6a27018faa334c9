"""Topics over the net: unreliable, to a handful of nodes, for whoever listens there.

A broadcast is a BroadcastRequest on the unreliable channel whose data is `{id, topic, body}`
(docs/protocol/net.md §9.6). Loss is normal: publishing never fails, what a subscriber cannot take
is dropped. Passing a message on to further nodes is the topic's business. Every delivery runs in a
task of its own, and a failing subscriber harms nobody else.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

import structlog

from shem.bus.inbound import Network
from shem.bus.remote import RemoteBus
from shem.kernel.caller import Caller
from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.net.types import Channel, Peer
from shem.wire.errors import WireError
from shem.wire.flexbuffers import pack, unpack
from shem.wire.gsb import BroadcastRequest, encode_packet

log = structlog.get_logger()

DELIVERIES_MAX: Final = 256
"""Deliveries under way; market discovery may call the sender back in each."""
SEND_S: Final = 5.0

Subscriber = Callable[[Caller, object], Awaitable[None]]
"""`(sender, body)`."""


class Broadcast:
    """Publishes to other nodes and delivers what they publish."""

    def __init__(self, remote: RemoteBus, net: Network, default: NodeId) -> None:
        self._net = net
        self._default = default
        self._subscribers: dict[str, list[Subscriber]] = {}
        self._tasks = TaskScope()
        self._open = False
        remote.on_broadcast(self._receive)

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        await self._tasks.__aexit__(kind, error, trace)

    def subscribe(self, topic: str, fn: Subscriber) -> None:
        """Have `fn` called with every broadcast of the topic that arrives."""
        self._subscribers.setdefault(topic, []).append(fn)

    async def publish(self, topic: str, body: object) -> None:
        """Send to the nodes the net chooses; returns when each was tried."""
        data = pack({"id": None, "topic": topic, "body": body})
        message = encode_packet(BroadcastRequest(self._default, data, topic))
        try:
            targets = await self._net.broadcast_targets()
        except ShemError as error:
            log.debug("broadcast.no_targets", topic=topic, error=error.message)
            return
        await asyncio.gather(*(self._send(target, message) for target in targets))

    async def _send(self, target: NodeId, message: bytes) -> None:
        try:
            await self._net.send(target, Channel.UNRELIABLE, message, timeout_s=SEND_S)
        except ShemError as error:
            log.debug("broadcast.not_sent", peer=target, error=error.message)

    def _receive(self, peer: Peer, request: BroadcastRequest) -> None:
        subscribers = self._subscribers.get(request.topic)
        if not subscribers or not self._open:
            return
        try:
            message = unpack(request.data)
        except WireError as error:
            log.warning("broadcast.malformed", peer=peer.node_id, error=error.message)
            return
        if not isinstance(message, dict) or "body" not in message:
            log.warning("broadcast.malformed", peer=peer.node_id, error="no body")
            return
        caller = Caller(peer.node_id, peer.assurance)
        for fn in subscribers:
            if self._tasks.size >= DELIVERIES_MAX:
                log.warning("broadcast.overload", topic=request.topic, peer=peer.node_id)
                return
            self._tasks.spawn(self._deliver(fn, caller, message["body"]), request.topic)

    async def _deliver(self, fn: Subscriber, caller: Caller, body: object) -> None:
        try:
            await fn(caller, body)
        except ShemError as error:
            log.info("broadcast.refused", peer=caller.node_id, error=error.message)
        except Exception:  # the boundary: one topic's bug must not end the others
            log.exception("broadcast.subscriber_failed", peer=caller.node_id)
