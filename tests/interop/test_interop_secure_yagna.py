"""A real yagna 0.17.6 refuses our offer of encryption, and is not disturbed by it."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.identity.keys import PrivateKey
from shem.kernel.caller import Assurance, Caller
from shem.kernel.config import Encryption
from shem.kernel.errors import Unreachable
from shem.kernel.world import SystemRng, World
from shem.net.secure.packets import ENCRYPTED, read_hello
from shem.net.secure.pins import Pins
from shem.net.service import Net
from shem.relay.service import Relay
from shem.wire.forward import decode_forward
from tests.interop.real_yagna import real_yagna

LOOPBACK = ("127.0.0.1", 0)
PING = "/diagnostic/net/GsbRemotePing"
CHANNELS = ("", "/udp", "/transfer")

pytestmark = pytest.mark.timeout(110)


@pytest.fixture(params=["direct", "relayed"])
def route(request, monkeypatch):
    if request.param == "relayed":
        monkeypatch.setattr("shem.relay.registry.Registration.endpoints", ())
    return request.param


class OurNode:
    """A net with a bus that answers `net ping`, and a record of what it sends."""

    def __init__(self, net, bus):
        self.net = net
        self.bus = bus
        self.node_id = net.default_id
        self.callers = []
        self.forwards = []
        send = net._socket.send

        def spy(data, address):
            if data[0] == 0x0A:
                self.forwards.append(decode_forward(data))
            send(data, address)

        net._socket.send = spy
        bus.serve(f"/public{PING}", self._answer)

    async def _answer(self, call, body):
        self.callers.append(call.caller)
        return {}

    async def ping(self, node_id, channel="", timeout_s=10):
        caller = Caller(self.node_id, Assurance.LOCAL)
        address = f"{channel}/net/{node_id}{PING}"
        return await self.bus.request(caller, address, {}, timeout_s=timeout_s)

    @property
    def hellos(self):
        return [f for f in self.forwards if f.is_unreliable and read_hello(f.payload)]


@asynccontextmanager
async def our_node(relay, **settings):
    key = PrivateKey.generate(SystemRng())
    net = Net(World(), [key], LOOPBACK, relay, **settings)
    bus = Bus()
    remote = RemoteBus(bus, net, [key.node_id], rng=World().rng)
    async with net, remote:
        await net.wait_online(10)
        yield OurNode(net, bus)


async def assert_yagna_pings(yagna, node_id):
    rows = await yagna.cli("net", "ping", node_id)
    assert rows[0]["ping (udp)"] is not None and rows[0]["ping (tcp)"] is not None, rows


async def test_yagna_refuses_one_hello_and_is_spoken_to_in_the_clear(tmp_path, route):
    async with (
        Relay(World(), LOOPBACK) as relay,
        our_node(relay.address) as node,
        real_yagna(tmp_path, relay.address) as yagna,
    ):
        await node.net.find(yagna.node_id)
        started = time.monotonic()
        for channel in CHANNELS:
            assert await node.ping(yagna.node_id, channel) == {}
        took_s = time.monotonic() - started
        await assert_yagna_pings(yagna, node.node_id)

        print(f"three pings, the Hello included: {took_s * 1e3:.0f} ms")  # noqa: T201
        assert len(node.hellos) == 1
        assert not any(forward.flags & ENCRYPTED for forward in node.forwards)
        expected = Assurance.VOUCHED if route == "relayed" else Assurance.PROVEN
        assert {caller.assurance for caller in node.callers} == {expected}
        told = [line for line in yagna.log.splitlines() if "Noise" in line or "shem" in line]
        assert told == []


async def test_yagna_that_calls_first_is_answered_at_once(tmp_path):
    async with (
        Relay(World(), LOOPBACK) as relay,
        our_node(relay.address) as node,
        real_yagna(tmp_path, relay.address) as yagna,
    ):
        await assert_yagna_pings(yagna, node.node_id)
        await assert_yagna_pings(yagna, node.node_id)
        assert len(node.hellos) <= 1


async def test_yagna_drops_encrypted_packets_unread(tmp_path, route):
    """One that took the place of a shem node may get some."""
    async with (
        Relay(World(), LOOPBACK) as relay,
        our_node(relay.address) as node,
        real_yagna(tmp_path, relay.address) as yagna,
    ):
        assert await node.ping(yagna.node_id) == {}
        before = len(yagna.log.splitlines())
        router = node.net._core.router
        for packet_type in (2, 3, 4):
            for size in (40, 1390):
                payload = ENCRYPTED.to_bytes(2) + bytes([packet_type]) + bytes(size)
                router.send(yagna.node_id, payload, node.net._now())
        node.net._pump()

        for channel in CHANNELS:
            assert await node.ping(yagna.node_id, channel) == {}
        await assert_yagna_pings(yagna, node.node_id)
        assert not [line for line in yagna.log.splitlines()[before:] if "ERROR" in line]


async def test_required_does_not_speak_with_yagna_and_says_why(tmp_path):
    async with (
        Relay(World(), LOOPBACK) as relay,
        our_node(relay.address, encryption=Encryption.REQUIRED) as node,
        our_node(relay.address) as other,
        real_yagna(tmp_path, relay.address) as yagna,
    ):
        with pytest.raises(Unreachable, match="does not speak encrypted"):
            await node.ping(yagna.node_id)
        rows = await yagna.cli("net", "ping", node.node_id)
        assert (rows[0]["ping (udp)"], rows[0]["ping (tcp)"]) == (None, None)
        assert node.callers == []
        await assert_yagna_pings(yagna, other.node_id)  # nothing of it is broken


async def test_yagna_in_the_place_of_a_shem_node_is_refused(tmp_path):
    """Its identity has spoken encrypted before: it may be anybody."""
    key = PrivateKey.generate(SystemRng())
    async with (
        Relay(World(), LOOPBACK) as relay,
        our_node(relay.address, pins=Pins([key.node_id])) as node,
        real_yagna(tmp_path, relay.address, key=key) as yagna,
    ):
        with pytest.raises(Unreachable, match="does not speak encrypted"):
            await node.ping(yagna.node_id)
        assert node.callers == []


async def test_our_nodes_speak_encrypted_beside_a_yagna(tmp_path, route):
    async with (
        Relay(World(), LOOPBACK) as relay,
        our_node(relay.address) as one,
        our_node(relay.address, encryption=Encryption.REQUIRED) as two,
        real_yagna(tmp_path, relay.address) as yagna,
    ):
        async with asyncio.TaskGroup() as group:
            for channel in CHANNELS:
                group.create_task(one.ping(two.node_id, channel))
                group.create_task(one.ping(yagna.node_id, channel))
                group.create_task(two.ping(one.node_id, channel))
        assert {caller.assurance for caller in two.callers} == {Assurance.ENCRYPTED}
        assert {c.assurance for c in one.callers if c.node_id == two.node_id} == {
            Assurance.ENCRYPTED
        }
