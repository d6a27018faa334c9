"""One socket connection of the bus, seen from either end.

Packets in and out, calls both ways, keep-alive (docs/protocol/gsb-identity.md §1.4, §1.5, §1.7). A
peer that takes nothing for a minute, or says nothing for longer than the ping time-out, is given
up. When a connection ends, the calls that were put to it fail at once.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Final

import structlog

from shem.bus.answering import answer
from shem.bus.pending import PendingCalls
from shem.bus.router import Bus
from shem.bus.types import Call, GsbError, Reply
from shem.kernel.caller import Caller
from shem.kernel.config import GsbAddress
from shem.kernel.errors import ShemError, Unreachable
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.kernel.writing import put, put_all
from shem.wire.gsb import (
    CallReply,
    CallRequest,
    Code,
    FrameReader,
    Packet,
    Ping,
    decode_packet,
    encode_packet,
    frame,
)

log = structlog.get_logger()

READ_SIZE: Final = 65_536
STALL_S: Final = 60.0
"""How long a peer may take nothing before it is given up."""
CALLS_MAX: Final = 1_024
"""Calls of the other side that are being answered."""
BUFFERED_MAX: Final = 1024 * 1024
"""Bytes waiting for a slow peer before broadcasts to it are dropped."""


async def open_streams(
    address: GsbAddress,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the bus socket; OSError when nothing listens there."""
    if address.path is not None:
        return await asyncio.open_unix_connection(str(address.path), limit=READ_SIZE)
    return await asyncio.open_connection(address.host, address.port, limit=READ_SIZE)


class Link:
    """One connection: reads packets, writes packets, asks and answers."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, world: World
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._clock = world.clock
        self._pending: PendingCalls[None] = PendingCalls(world.rng)
        self._heard = world.clock.monotonic()
        self._answering = 0
        self._closed = False

    async def packets(self) -> AsyncIterator[Packet]:
        """Yield packets until the other side closes; WireError when it talks nonsense."""
        frames = FrameReader()
        while not self._closed:
            try:
                data = await self._reader.read(READ_SIZE)
            except OSError:
                return
            if not data:
                return
            self._heard = self._clock.monotonic()
            for found in frames.feed(data):
                yield decode_packet(found)

    async def send(self, packet: Packet) -> None:
        """Write a packet and wait while the peer is slow; GsbError when it is gone."""
        if self._closed:
            raise GsbError("lost connection")
        try:
            async with asyncio.timeout(STALL_S):
                await put_all(self._writer, frame(encode_packet(packet)))
        except TimeoutError as error:
            self.close()
            raise GsbError("stalled connection") from error
        except OSError as error:
            self.close()
            raise GsbError("lost connection") from error

    def offer(self, packet: Packet) -> None:
        """Write a packet unless the peer is too slow for it."""
        if self._closed or self._writer.transport.get_write_buffer_size() >= BUFFERED_MAX:
            return
        with suppress(OSError):  # `packets` ends with it
            put(self._writer, frame(encode_packet(packet)))

    def close(self) -> None:
        """End the connection; what it still owed fails."""
        if not self._closed:
            self._closed = True
            self._writer.close()
            self._pending.fail(Unreachable("lost connection"))

    async def keep_alive(self, interval_s: float, timeout_s: float) -> None:
        """Ping a peer that is silent for half an interval, give it up after `timeout_s`."""
        while not self._closed:
            await self._clock.sleep(interval_s)
            silent_s = self._clock.monotonic() - self._heard
            if silent_s > timeout_s:
                log.info("bus.silent", silent_s=round(silent_s, 1))
                self.close()
            elif silent_s > interval_s / 2:
                self.offer(Ping())

    async def ask(self, call: Call) -> AsyncGenerator[Reply, None]:
        """Put a call to the other side: an endpoint for the router."""
        caller = call.caller_text or call.caller.node_id
        if call.no_reply:
            request_id = self._pending.new_request_id()
            await self.send(CallRequest(caller, call.address, request_id, call.data, True))
            return
        with self._pending.open(None) as pending:
            await self.send(CallRequest(caller, call.address, pending.request_id, call.data))
            async with aclosing(pending.replies()) as replies:
                async for reply in replies:
                    yield reply

    def take_reply(self, reply: CallReply) -> None:
        pending = self._pending.find(reply.request_id)
        if pending is not None:
            pending.offer(reply)

    async def take_request(
        self, request: CallRequest, bus: Bus, caller: Caller, tasks: TaskScope
    ) -> None:
        """Start answering a call of the other side from `bus`, as `caller`."""
        if self._answering >= CALLS_MAX:
            if not request.no_reply:
                text = b"too many calls are under way"
                await self.send(CallReply(request.request_id, Code.SERVICE_FAILURE, data=text))
            return
        call = Call(
            caller, request.address, request.data, request.no_reply, caller_text=request.caller
        )
        self._answering += 1
        tasks.spawn(self._answer(request, bus.replies(call)), f"call {request.address[:100]}")

    async def _answer(self, request: CallRequest, replies: AsyncGenerator[Reply, None]) -> None:
        try:
            await answer(request, replies, self.send)
        except ShemError as error:
            log.debug("bus.reply_lost", address=request.address, error=error.message)
        finally:
            self._answering -= 1
