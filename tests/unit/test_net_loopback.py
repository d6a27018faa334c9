"""Two nets over a real relay on loopback: all channels, direct and relayed."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from shem.identity.keys import PrivateKey
from shem.kernel.caller import Assurance
from shem.kernel.config import Encryption
from shem.kernel.errors import NotFound, ShemError
from shem.kernel.ids import NodeId
from shem.kernel.world import SystemRng, World
from shem.net.service import Net
from shem.net.types import Channel
from shem.relay.service import Relay

LOOPBACK = ("127.0.0.1", 0)
EASY = 4


class Inbox:
    """What a net received, to be awaited."""

    def __init__(self, net):
        self.messages = asyncio.Queue()
        self.lost = asyncio.Queue()
        self.up = asyncio.Queue()
        net.on_message(lambda *m: self.messages.put_nowait(m))
        net.on_lost(lambda *m: self.lost.put_nowait(m))
        net.on_peer_up(self.up.put_nowait)

    async def next(self):
        async with asyncio.timeout(10):
            return await self.messages.get()


def new_net(relay, key=None, bind=LOOPBACK, **settings):
    return Net(World(), [key or PrivateKey.generate(SystemRng())], bind, relay, **settings)


@asynccontextmanager
async def two_nets(**settings):
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(World(), LOOPBACK, difficulty=EASY))
        nets = [
            await stack.enter_async_context(new_net(relay.address, **settings)) for _ in range(2)
        ]
        for net in nets:
            await net.wait_online(5)
        yield relay, *nets


@pytest.mark.parametrize("channel", list(Channel))
@pytest.mark.parametrize("encryption", list(Encryption))
async def test_message_and_reply_over_a_direct_session(channel, encryption):
    async with two_nets(encryption=encryption) as (_, one, two):
        inbox_one, inbox_two = Inbox(one), Inbox(two)

        await one.send(two.default_id, channel, b"ping", timeout_s=5)
        peer, heard_on, message = await inbox_two.next()

        assert (peer.node_id, heard_on, message) == (one.default_id, channel, b"ping")
        is_off = encryption is Encryption.OFF
        assert peer.assurance is (Assurance.PROVEN if is_off else Assurance.ENCRYPTED)
        await two.send(peer.node_id, channel, b"pong", timeout_s=5)
        assert (await inbox_one.next())[1:] == (channel, b"pong")
        assert {row.kind for row in one.sessions()} == {"relay", "p2p"}


@pytest.mark.parametrize("channel", list(Channel))
@pytest.mark.parametrize("encryption", list(Encryption))
async def test_message_and_reply_through_the_relay(channel, encryption, monkeypatch):
    monkeypatch.setattr("shem.relay.registry.Registration.endpoints", ())  # nobody is public
    async with two_nets(encryption=encryption) as (_, one, two):
        inbox_one, inbox_two = Inbox(one), Inbox(two)

        await one.send(two.default_id, channel, b"ping", timeout_s=5)
        peer, heard_on, message = await inbox_two.next()

        assert (peer.node_id, heard_on, message) == (one.default_id, channel, b"ping")
        is_off = encryption is Encryption.OFF
        assert peer.assurance is (Assurance.VOUCHED if is_off else Assurance.ENCRYPTED)
        await two.send(peer.node_id, channel, b"pong", timeout_s=5)
        assert (await inbox_one.next())[1:] == (channel, b"pong")
        assert {row.kind for row in one.sessions()} == {"relay"}


async def test_two_megabytes_arrive_whole():
    async with two_nets() as (_, one, two):
        inbox = Inbox(two)
        message = SystemRng().token(2_000_000)

        await one.send(two.default_id, Channel.TRANSFER, message, timeout_s=5)

        assert (await inbox.next())[2] == message


async def test_find_and_neighbours():
    async with two_nets() as (_, one, two):
        info = await one.find(two.default_id)

        assert info.node_id == two.default_id
        assert info.endpoints == (two.bind_address,)
        assert await one.neighbours(5) == [two.default_id]
        assert await one.broadcast_targets() == [two.default_id]


async def test_a_broadcast_right_after_the_start_waits_for_the_relay():
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(World(), LOOPBACK, difficulty=EASY))
        one, two = [await stack.enter_async_context(new_net(relay.address)) for _ in range(2)]
        await two.wait_online(5)

        assert await one.broadcast_targets() == [two.default_id]


async def test_a_broadcast_goes_to_peers_when_there_is_no_relay(monkeypatch):
    monkeypatch.setattr("shem.net.service.ONLINE_WAIT_S", 0.1)
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(World(), LOOPBACK, difficulty=EASY))
        nets = [await stack.enter_async_context(new_net(relay.address)) for _ in range(2)]
        lonely = await stack.enter_async_context(new_net(None))
        one, two = nets
        await two.wait_online(5)
        await one.send(two.default_id, Channel.RELIABLE, b"x", timeout_s=5)
        one._online.clear()

        assert await one.broadcast_targets() == [two.default_id]
        assert await lonely.broadcast_targets() == []


async def test_unknown_node_is_not_found_and_cannot_be_sent_to():
    async with two_nets() as (_, one, _two):
        nobody = NodeId("0x" + "12" * 20)

        with pytest.raises(NotFound):
            await one.find(nobody)
        with pytest.raises(ShemError, match="404"):
            await one.send(nobody, Channel.RELIABLE, b"x", timeout_s=5)


async def test_aliases_are_found_and_share_the_session():
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(World(), LOOPBACK, difficulty=EASY))
        keys = [PrivateKey.generate(SystemRng()) for _ in range(2)]
        two = await stack.enter_async_context(Net(World(), keys, LOOPBACK, relay.address))
        one = await stack.enter_async_context(new_net(relay.address))
        await two.wait_online(5)
        await one.wait_online(5)
        inbox_one, inbox_two = Inbox(one), Inbox(two)

        await one.send(keys[1].node_id, Channel.RELIABLE, b"to the alias", timeout_s=5)
        await inbox_two.next()
        await two.send(one.default_id, Channel.RELIABLE, b"back", timeout_s=5)
        peer, _, _ = await inbox_one.next()

        assert peer.identities == {key.node_id for key in keys}
        assert len(one.sessions()) == 2


async def test_node_restarted_on_its_address_is_heard_again_within_two_seconds():
    async with two_nets() as (relay, one, _two):
        inbox = Inbox(one)
        key = PrivateKey.generate(SystemRng())
        first = new_net(relay.address, key)
        await first.__aenter__()
        inbox_first = Inbox(first)
        await first.wait_online(5)
        await first.send(one.default_id, Channel.RELIABLE, b"before", timeout_s=5)
        await inbox.next()
        await one.send(key.node_id, Channel.RELIABLE, b"hello", timeout_s=5)
        assert (await inbox_first.next())[2] == b"hello"
        address = first.bind_address
        kill(first)

        async with new_net(relay.address, key, address) as again:
            started = asyncio.get_running_loop().time()
            inbox_again = Inbox(again)
            async with asyncio.timeout(2):
                await inbox.lost.get()
            await one.send(key.node_id, Channel.RELIABLE, b"after", timeout_s=5)
            assert (await inbox_again.next())[2] == b"after"
            await again.send(one.default_id, Channel.RELIABLE, b"back", timeout_s=5)
            assert (await inbox.next())[2] == b"back"
            assert asyncio.get_running_loop().time() - started < 2


def kill(net):
    """End a net as SIGKILL would: nothing more is said."""
    net._socket.close()
    net._timer.cancel()
    net._core.link.stop()
    for resolver in asyncio.all_tasks():
        if resolver.get_name() == "net.resolve_relay":
            resolver.cancel()
