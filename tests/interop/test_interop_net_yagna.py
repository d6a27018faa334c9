"""Our relay and our node against a real yagna 0.17.6: registration, pings, returns."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.identity.keys import PrivateKey
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import ShemError
from shem.kernel.world import SystemRng, World
from shem.net.service import Net
from shem.relay.service import Relay
from tests.interop.real_yagna import real_yagna

LOOPBACK = ("127.0.0.1", 0)
PING = "/diagnostic/net/GsbRemotePing"
CHANNELS = ("", "/udp", "/transfer")

pytestmark = pytest.mark.timeout(110)


@asynccontextmanager
async def our_node(relay, key=None, bind=LOOPBACK):
    """Run a net with a bus that answers `net ping`."""
    key = key or PrivateKey.generate(SystemRng())
    net = Net(World(), [key], bind, relay)
    bus = Bus()
    remote = RemoteBus(bus, net, [key.node_id], rng=World().rng)
    bus.serve(f"/public{PING}", answer)
    async with net, remote:
        await net.wait_online(10)
        yield OurNode(net, bus)


async def answer(call, body):
    return {}


class OurNode:
    def __init__(self, net, bus):
        self.net = net
        self.bus = bus
        self.node_id = net.default_id

    async def ping(self, node_id, channel="", timeout_s=10):
        caller = Caller(self.node_id, Assurance.LOCAL)
        address = f"{channel}/net/{node_id}{PING}"
        return await self.bus.request(caller, address, {}, timeout_s=timeout_s)

    async def ping_until_answered(self, node_id, channel, timeout_s):
        """Ping again after every error; return the seconds until the first answer."""
        started = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    await self.ping(node_id, channel, timeout_s=1)
                    return time.monotonic() - started
                except ShemError:
                    await asyncio.sleep(0.05)

    @property
    def peer_kinds(self):
        return [row.kind for row in self.net.sessions()]


async def assert_yagna_pings(yagna, node_id):
    rows = await yagna.cli("net", "ping", node_id)
    assert [row["nodeId"] for row in rows] == [node_id]
    assert rows[0]["ping (udp)"] is not None, rows
    assert rows[0]["ping (tcp)"] is not None, rows


async def test_yagna_dials_us_and_both_ping_on_all_channels(tmp_path):
    async with (
        Relay(World(), LOOPBACK) as relay,
        our_node(relay.address) as node,
        real_yagna(tmp_path, relay.address) as yagna,
    ):
        info = await node.net.find(yagna.node_id)
        assert info.endpoints == (yagna.bind,)

        await assert_yagna_pings(yagna, node.node_id)

        for channel in CHANNELS:
            assert await node.ping(yagna.node_id, channel) == {}
        assert node.peer_kinds == ["relay", "p2p"]
        sessions = await yagna.cli("net", "sessions")
        assert {row["type"] for row in sessions} == {"relay", "p2p"}


async def test_we_dial_yagna(tmp_path):
    async with (
        Relay(World(), LOOPBACK) as relay,
        our_node(relay.address) as node,
        real_yagna(tmp_path, relay.address) as yagna,
    ):
        for channel in CHANNELS:
            assert await node.ping(yagna.node_id, channel) == {}

        assert node.peer_kinds == ["relay", "p2p"]
        await assert_yagna_pings(yagna, node.node_id)


async def test_relayed_when_nobody_is_public(tmp_path, monkeypatch):
    monkeypatch.setattr("shem.relay.registry.Registration.endpoints", ())
    async with (
        Relay(World(), LOOPBACK) as relay,
        our_node(relay.address) as node,
        real_yagna(tmp_path, relay.address) as yagna,
    ):
        for channel in CHANNELS:
            assert await node.ping(yagna.node_id, channel) == {}

        assert node.peer_kinds == ["relay"]
        await assert_yagna_pings(yagna, node.node_id)


async def test_reverse_connection_when_only_one_is_public(tmp_path, monkeypatch):
    public = set()

    def endpoints(entry):
        return (entry.address,) if entry.node_id in public else ()

    monkeypatch.setattr("shem.relay.registry.Registration.endpoints", property(endpoints))
    key = PrivateKey.generate(SystemRng())
    public.add(key.node_id)
    async with (
        Relay(World(), LOOPBACK) as relay,
        our_node(relay.address, key) as node,
        real_yagna(tmp_path, relay.address) as yagna,
    ):
        assert await node.ping(yagna.node_id) == {}  # yagna is asked to dial us

        assert node.peer_kinds == ["relay", "p2p"]


async def test_our_node_killed_and_back_on_its_address_is_pinged_again(tmp_path):
    key = PrivateKey.generate(SystemRng())
    async with (
        Relay(World(), LOOPBACK) as relay,
        real_yagna(tmp_path, relay.address) as yagna,
    ):
        first = our_node(relay.address, key)
        node = await first.__aenter__()
        await assert_yagna_pings(yagna, node.node_id)
        assert await node.ping(yagna.node_id) == {}
        address = node.net.bind_address
        silence(node.net)

        async with our_node(relay.address, key, address) as again:
            took_s = await again.ping_until_answered(yagna.node_id, "", 20)
            await assert_yagna_pings(yagna, again.node_id)

        print(f"reliable ping {took_s:.2f} s after our return")  # noqa: T201
        assert took_s < 4


async def test_yagna_killed_and_back_is_pinged_again(tmp_path):
    async with (
        Relay(World(), LOOPBACK) as relay,
        our_node(relay.address) as node,
        real_yagna(tmp_path, relay.address) as yagna,
    ):
        for channel in CHANNELS:
            await node.ping(yagna.node_id, channel)
        await yagna.kill()
        await yagna.start()

        took_s = [
            await node.ping_until_answered(yagna.node_id, channel, 30) for channel in CHANNELS
        ]

        print(f"pings {took_s} s after yagna was up")  # noqa: T201
        assert sum(took_s) < 6
        await assert_yagna_pings(yagna, node.node_id)


async def test_two_yagnas_meet_over_our_relay(tmp_path):
    async with (
        Relay(World(), LOOPBACK) as relay,
        real_yagna(tmp_path / "one", relay.address) as one,
        real_yagna(tmp_path / "two", relay.address) as two,
    ):
        await assert_yagna_pings(one, two.node_id)
        await assert_yagna_pings(two, one.node_id)
        assert await one.cli("net", "list-neighbors", "5") == [two.node_id]


async def test_relay_restarted_without_memory_is_found_by_both(tmp_path):
    async with Relay(World(), LOOPBACK) as relay:
        address = relay.address
        node_context = our_node(address)
        node = await node_context.__aenter__()
        yagna_context = real_yagna(tmp_path, address)
        yagna = await yagna_context.__aenter__()
        await node.ping(yagna.node_id)
    try:
        async with Relay(World(), address) as relay:
            async with asyncio.timeout(40):  # a yagna pings every 15 s, and learns it then
                while relay.nodes < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            for channel in CHANNELS:
                await node.ping_until_answered(yagna.node_id, channel, 10)
            await assert_yagna_pings(yagna, node.node_id)
    finally:
        await node_context.__aexit__(None, None, None)
        await yagna_context.__aexit__(None, None, None)


def silence(net):
    """End a net as SIGKILL would: nothing more is said."""
    net._socket.close()
    net._timer.cancel()
    net._timer = None
