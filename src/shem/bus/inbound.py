"""Calls of other nodes to services of this one.

The wire address `/net/<own id>/x` (also under `/udp` and `/transfer`) is `/public/x` here; nothing
else can be reached from outside (docs/protocol/net.md §9.4). The caller a request names must be an
identity of the session it came over, and is known as well as that session proves it. Every call
runs in a task of its own; how many at once is limited per peer and in all. Between nodes all errors
have code 400 and a text (§9.3).
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final, Protocol

import structlog

from shem.bus.router import Bus
from shem.bus.types import Call, GsbCode, GsbError
from shem.kernel.caller import Caller
from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.net.types import Channel, Peer
from shem.wire.gsb import CallReply, CallRequest, Code, ReplyType, encode_packet

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
        self, target: NodeId, channel: Channel, message: bytes, *, timeout_s: float
    ) -> None: ...
    async def broadcast_targets(self) -> Sequence[NodeId]: ...


class Inbound:
    """Answers the calls of peers from the bus."""

    def __init__(self, bus: Bus, net: Network, own: frozenset[NodeId], tasks: TaskScope) -> None:
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
        try:
            await self._answer(peer, channel, request)
        except ShemError as error:  # the answer could not be sent: the peer will ask again or not
            log.info("remote.reply_lost", peer=peer.node_id, error=error.message)
        finally:
            self._running[peer.node_id] -= 1
            if not self._running[peer.node_id]:
                del self._running[peer.node_id]

    async def _answer(self, peer: Peer, channel: Channel, request: CallRequest) -> None:
        async def reply(kind: ReplyType, data: bytes, code: Code = Code.OK) -> None:
            if not request.no_reply:
                packet = encode_packet(CallReply(request.request_id, code, kind, data))
                await self._net.send(peer.node_id, channel, packet, timeout_s=REPLY_SEND_S)

        try:
            replies = self._bus.replies(self._admit(peer, request))
            async with aclosing(replies):
                async for item in replies:
                    await reply(ReplyType.FULL if item.final else ReplyType.PARTIAL, item.data)
                    if item.final:
                        return
        except ShemError as error:
            await reply(ReplyType.FULL, _error_text(error), Code.BAD_REQUEST)
        except Exception:  # the boundary: a broken service must not take the others with it
            log.exception("remote.handler_failed", peer=peer.node_id, address=request.address)
            await reply(ReplyType.FULL, b"GSB failure: internal error", Code.BAD_REQUEST)
        else:
            await reply(ReplyType.FULL, b"")

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


def _error_text(error: ShemError) -> bytes:
    """Say it as the real nodes do: the transport's level first, then the text."""
    text = error.message
    if isinstance(error, GsbError) and error.gsb_code is GsbCode.BAD_REQUEST:
        text = f"Bad request: {text}"
    elif not text.startswith("Bad content: "):
        text = f"GSB failure: {text}"
    return text.encode()
