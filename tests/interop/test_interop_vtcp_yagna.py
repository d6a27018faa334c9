"""Our virtual TCP against yagna's: long messages, loss, a frame cut off in the middle."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from shem.identity.keys import PrivateKey
from shem.kernel.world import SystemRng, World
from shem.net.service import Net
from shem.net.types import Channel
from shem.relay.service import Relay
from shem.wire.gsb import CallReply, CallRequest, decode_packet, encode_packet
from tests.interop.real_yagna import real_yagna
from tests.lossy_proxy import lossy_proxy

LOOPBACK = ("127.0.0.1", 0)
PING = "diagnostic/net/GsbRemotePing"
EMPTY_MAP = bytes.fromhex("00000100002401")
NO_FLEXBUFFER = b"\xff" * 400_000

pytestmark = pytest.mark.timeout(110)


class Caller:
    """Sends raw calls to a yagna and gets its replies."""

    def __init__(self, net, yagna):
        self.net = net
        self.node_id = yagna.node_id
        self.replies = asyncio.Queue()
        net.on_message(lambda peer, channel, message: self.replies.put_nowait(message))

    async def write(self, data, request_id):
        address = f"/net/{self.node_id}/{PING}"
        call = encode_packet(CallRequest(self.net.default_id, address, request_id, data))
        await self.net.send(self.node_id, Channel.RELIABLE, call, timeout_s=10)

    async def call(self, data, request_id, timeout_s=20):
        await self.write(data, request_id)
        async with asyncio.timeout(timeout_s):
            while True:
                reply = decode_packet(await self.replies.get())
                if isinstance(reply, CallReply) and reply.request_id == request_id:
                    return reply


@asynccontextmanager
async def caller_of_yagna(tmp_path):
    """Yield the caller, and the proxy that all its packets pass."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(World(), LOOPBACK))
        proxy = await stack.enter_async_context(lossy_proxy(relay.address))
        net = Net(World(), [PrivateKey.generate(SystemRng())], LOOPBACK, proxy.address)
        await stack.enter_async_context(net)
        yagna = await stack.enter_async_context(real_yagna(tmp_path, relay.address))
        await net.wait_online(10)
        yield Caller(net, yagna), proxy
        proxy.loss = 0.0


async def test_long_calls_cross_a_path_that_loses_three_packets_of_a_hundred(tmp_path, monkeypatch):
    monkeypatch.setattr("shem.relay.registry.Registration.endpoints", ())  # all goes by the relay
    async with caller_of_yagna(tmp_path) as (caller, proxy):
        assert (await caller.call(EMPTY_MAP, "1")).code == 0
        proxy.loss = 0.03

        for n in range(5):
            refused = await caller.call(NO_FLEXBUFFER, f"long-{n}")
            assert refused.code == 400
            assert b"Flexbuffer" in refused.data
        assert (await caller.call(EMPTY_MAP, "2")).code == 0
        assert proxy.dropped > 5


async def test_a_call_cut_off_in_the_middle_does_not_spoil_the_next_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("shem.relay.registry.Registration.endpoints", ())
    async with caller_of_yagna(tmp_path) as (caller, proxy):
        assert (await caller.call(EMPTY_MAP, "1")).code == 0
        await caller.write(NO_FLEXBUFFER, "cut")
        caller.net._streams.drop_peer(caller.node_id, World().clock.monotonic())
        caller.net._pump()

        replies = []
        for n in range(3):
            await asyncio.sleep(0.5)  # yagna closes all connections after the reset
            try:
                replies.append(await caller.call(EMPTY_MAP, f"after-{n}", timeout_s=5))
            except TimeoutError:
                continue

        assert replies
        assert replies[-1].request_id == "after-2"
        assert proxy.loss == 0.0
