"""Two real nets through a real relay over a path that drops three packets of a hundred."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

from shem.identity.keys import PrivateKey
from shem.kernel.world import SystemRng, World
from shem.net.service import Net
from shem.net.types import Channel
from shem.relay.service import Relay
from tests.lossy_proxy import lossy_proxy

LOOPBACK = ("127.0.0.1", 0)
LOSS = 0.03
BOUND_S = 20.0
CHANNELS = (Channel.RELIABLE, Channel.TRANSFER)


@asynccontextmanager
async def two_nets_over_a_lossy_path():
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(World(), LOOPBACK, difficulty=4))
        proxy = await stack.enter_async_context(lossy_proxy(relay.address))
        nets = []
        for _ in range(2):
            key = PrivateKey.generate(SystemRng())
            net = Net(World(), [key], LOOPBACK, proxy.address)
            nets.append(await stack.enter_async_context(net))
            await net.wait_online(5)
        yield proxy, *nets
        proxy.loss = 0.0


async def test_long_messages_cross_a_lossy_relay_whole_and_in_order(monkeypatch):
    monkeypatch.setattr("shem.relay.registry.Registration.endpoints", ())  # nobody is public
    async with two_nets_over_a_lossy_path() as (proxy, one, two):
        arrived = {channel: asyncio.Queue() for channel in CHANNELS}
        lost = []
        two.on_message(lambda peer, channel, message: arrived[channel].put_nowait(message))
        for net in (one, two):
            net.on_lost(lambda *what: lost.append(what))
        messages = [SystemRng().token(size) for size in (10, 400_000, 50, 400_000)]
        for channel in CHANNELS:
            await one.send(two.default_id, channel, b"hello", timeout_s=5)
        proxy.loss = LOSS

        for message in messages:
            for channel in CHANNELS:
                await one.send(two.default_id, channel, message, timeout_s=5)

        async with asyncio.timeout(BOUND_S):
            for queue in arrived.values():
                assert [await queue.get() for _ in range(1 + len(messages))][1:] == messages
        assert proxy.dropped > 5
        assert lost == []
