"""Attacks D5 and D6: a proven node that calls in another's name, or by a crooked address."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.bus.types import Call, GsbError
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng
from shem.net.memory import MemoryFabric
from shem.net.types import Channel
from shem.wire.gsb import (
    BroadcastRequest,
    CallReply,
    CallRequest,
    Code,
    decode_packet,
    encode_packet,
)

VICTIM, PROVIDER, EVE = (NodeId("0x" + digit * 40) for digit in "abe")
CHANNELS = {Channel.RELIABLE: "", Channel.UNRELIABLE: "/udp", Channel.TRANSFER: "/transfer"}


class Site:
    """The provider's bus with one public service, and Eve's bare net."""

    def __init__(self, bus, eve, remote):
        self.bus = bus
        self.eve = eve
        self.remote = remote
        self.calls = []
        self.answers = asyncio.Queue()
        self.bus.bind("/public/exeunit/abc", self._serve)
        eve.on_message(lambda peer, channel, m: self.answers.put_nowait(decode_packet(m)))

    async def _serve(self, call: Call) -> bytes:
        self.calls.append(call)
        return b"done"

    async def send(self, packet, channel=Channel.RELIABLE):
        await self.eve.send(PROVIDER, channel, encode_packet(packet), timeout_s=1)

    async def ask(self, caller, address, channel=Channel.RELIABLE):
        await self.send(CallRequest(caller, address, "1", b"x"), channel)
        async with asyncio.timeout(2):
            return await self.answers.get()

    async def settle(self):
        """Wait until an honest call that came last is answered."""
        reply = await self.ask(EVE, f"/net/{PROVIDER}/exeunit/abc/last")
        assert reply.code == Code.OK
        assert self.calls.pop().address == "/public/exeunit/abc/last"


@pytest.fixture
async def site():
    async with provider_and_eve() as site:
        yield site


@asynccontextmanager
async def provider_and_eve():
    fabric = MemoryFabric()
    bus = Bus()
    net = fabric.node(PROVIDER, assurance=Assurance.ENCRYPTED)
    eve = fabric.node(EVE, assurance=Assurance.ENCRYPTED)
    async with RemoteBus(bus, net, [PROVIDER], rng=SeededRng(1)) as remote, net, eve:
        yield Site(bus, eve, remote)


# --- D5


@pytest.mark.parametrize("channel", list(Channel))
@pytest.mark.parametrize(
    "name",
    [
        VICTIM,
        VICTIM.upper().replace("0X", "0x"),
        PROVIDER,
        "",
        "local",
        f" {EVE}",
        f"{EVE}\0",
        f"{EVE}/../{VICTIM}",
        f"/net/{VICTIM}",
        "0x" + "е" * 40,  # Cyrillic
        "0X" + "e" * 40 + "e",
    ],
)
async def test_d5_a_call_in_another_name_is_refused(site, channel, name):
    address = f"{CHANNELS[channel]}/net/{PROVIDER}/exeunit/abc/Exec"
    reply = await site.ask(name, address, channel)
    assert reply.code == Code.BAD_REQUEST
    assert site.calls == []


@pytest.mark.parametrize("channel", list(Channel))
async def test_d5_a_push_in_another_name_is_dropped(site, channel):
    address = f"{CHANNELS[channel]}/net/{PROVIDER}/exeunit/abc/Exec"
    await site.send(CallRequest(VICTIM, address, "1", b"x", no_reply=True), channel)
    await site.settle()
    assert site.calls == []


async def test_d5_a_broadcast_in_another_name_is_dropped(site):
    seen = []
    site.remote.on_broadcast(lambda peer, request: seen.append(request))
    for caller in (VICTIM, PROVIDER, EVE.upper(), ""):
        await site.send(BroadcastRequest(caller, b"", "topic"), Channel.UNRELIABLE)
    await site.settle()
    assert seen == []


async def test_d5_an_answer_from_another_node_than_the_one_asked_is_dropped(site):
    """Eve guesses the id of a call that the provider put to the victim."""
    fabric = site.eve._fabric
    asked = asyncio.Queue()
    async with fabric.node(VICTIM) as victim:
        victim.on_message(lambda peer, channel, m: asked.put_nowait(decode_packet(m)))
        caller = Caller(PROVIDER, Assurance.LOCAL)
        call = asyncio.ensure_future(site.bus.call(caller, f"/net/{VICTIM}/x", b"", timeout_s=0.3))
        request = await asked.get()
        await site.send(CallReply(request.request_id, data=b"forged"))
        with pytest.raises(ShemError):
            await call


async def test_d5_the_handler_is_told_who_called_and_how_well_that_is_proven(site):
    await site.ask(EVE.upper().replace("0X", "0x"), f"/net/{PROVIDER}/exeunit/abc/Exec")
    [call] = site.calls
    assert call.caller == Caller(EVE, Assurance.ENCRYPTED)
    assert call.caller_text == EVE


# --- D6

CROOKED = [
    "/net/{me}//exeunit/abc/Exec",
    "/net/{me}/./exeunit/abc/Exec",
    "/net/{me}/x/../exeunit/abc/Exec",
    "/net/{me}/EXEUNIT/abc/Exec",
    "/net/{me}/exeunit%2Fabc/Exec",
    "/net/{me}/%65xeunit/abc/Exec",
    "/net/{me}/ exeunit/abc/Exec",
    "/net/{me}/exeunit/ABC/Exec",
    "/net/{me}/exeunit/abcd/Exec",
    "/net/{me}/exeunit／abc/Exec",
    "/net/{me}/еxeunit/abc/Exec",
    "/net/{me}/public/exeunit/abc/Exec",
    "//net/{me}/exeunit/abc/Exec",
    "/net//{me}/exeunit/abc/Exec",
    "net/{me}/exeunit/abc/Exec",
    "/net/{me}/../public/exeunit/abc/Exec",
    "/net/{victim}/exeunit/abc/Exec",
    "/net/{me}/net/{me}/exeunit/abc/Exec",
    "/net/{me}/from/{victim}/to/{me}/exeunit/abc/Exec",
    "/from/{victim}/to/{me}/exeunit/abc/Exec",
    "/from/{victim}/to/{me}/net/{me}/exeunit/abc/Exec",
    "/udp/udp/net/{me}/exeunit/abc/Exec",
    "/transfer/udp/net/{me}/exeunit/abc/Exec",
    "/public/exeunit/abc/Exec",
    "/local/exeunit/abc/Exec",
    "/net/{me}",
    "/net/{me}/",
    "/net/{me}\0/exeunit/abc/Exec",
    "",
    "/",
]


@pytest.mark.parametrize("address", CROOKED)
async def test_d6_a_crooked_address_reaches_nothing(site, address):
    reply = await site.ask(EVE, address.format(me=PROVIDER, victim=VICTIM))
    assert reply.code == Code.BAD_REQUEST
    assert site.calls == []


@pytest.mark.parametrize("address", CROOKED)
async def test_d6_a_guard_sees_whatever_reaches_a_service(site, address):
    """No spelling finds the service and not its guard."""
    guarded = []

    async def guard(call, forward):
        guarded.append(call.address)
        return b"refused"

    site.bus.guard("/public/exeunit", guard)
    await site.ask(EVE, address.format(me=PROVIDER, victim=VICTIM))
    await site.ask(EVE, f"/net/{PROVIDER}/exeunit/abc/Exec")
    assert site.calls == []
    assert guarded[-1] == "/public/exeunit/abc/Exec"


async def test_d6_an_upper_case_id_is_the_same_node(site):
    address = f"/net/0x{PROVIDER[2:].upper()}/exeunit/abc/Exec"
    reply = await site.ask(EVE, address)
    assert reply.code == Code.OK
    assert site.calls[0].address == "/public/exeunit/abc/Exec"


@pytest.mark.parametrize(
    "address",
    [
        f"/from/{VICTIM}/to/{EVE}/x",
        f"/from/{VICTIM.upper()}/to/{EVE}/x",
        f"/udp/from/{VICTIM}/to/{EVE}/x",
        f"/from//to/{EVE}/x",
        f"/from/{PROVIDER}/to/{PROVIDER}/../{EVE}/x/",
    ],
)
async def test_d6_nobody_calls_out_in_a_name_that_is_not_this_nodes(site, address):
    caller = Caller(PROVIDER, Assurance.LOCAL)
    with pytest.raises(GsbError):
        await site.bus.call(caller, address, b"", timeout_s=1)
    assert site.answers.empty()
