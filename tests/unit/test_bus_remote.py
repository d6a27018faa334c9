import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from shem.bus.inbound import CALLS_PER_PEER_MAX
from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.bus.types import LOCAL_CALLER, Call, GsbCode, GsbError
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import Denied, NotFound, TimedOut, Unreachable
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng
from shem.net.memory import MemoryFabric, MemoryNet
from shem.net.types import Channel, Peer
from shem.wire.gsb import (
    BroadcastRequest,
    CallReply,
    CallRequest,
    Ping,
    decode_packet,
    encode_packet,
)

ANNA, BERT, CARL = (NodeId("0x" + digit * 40) for digit in "abc")
ANNA_TOO = NodeId("0x" + "1" * 40)


@dataclass
class Node:
    bus: Bus
    net: MemoryNet
    remote: RemoteBus


class Town:
    """Three nodes on one fabric; Anna has two identities."""

    def __init__(self) -> None:
        self.fabric = MemoryFabric()
        self._stack = AsyncExitStack()

    async def node(self, *ids: NodeId, assurance: Assurance = Assurance.PROVEN) -> Node:
        bus, net = Bus(), self.fabric.node(*ids, assurance=assurance)
        remote = RemoteBus(bus, net, ids, rng=SeededRng(ord(ids[0][2])))
        await self._stack.enter_async_context(remote)
        await self._stack.enter_async_context(net)
        return Node(bus, net, remote)

    async def __aenter__(self) -> "Town":
        self.anna = await self.node(ANNA, ANNA_TOO)
        self.bert = await self.node(BERT, assurance=Assurance.VOUCHED)
        self.carl = await self.node(CARL)
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._stack.aclose()


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    async with Town() as town:
        yield town


async def echo(call: Call) -> bytes:
    parts = (call.caller.node_id, call.caller.assurance.name, call.address, call.data.decode())
    return " ".join(parts).encode()


async def silent(call: Call) -> bytes:
    await asyncio.Event().wait()
    return b""


async def heard(node: Node) -> asyncio.Queue[tuple[Peer, Channel, object]]:
    queue: asyncio.Queue[tuple[Peer, Channel, object]] = asyncio.Queue()
    node.net.on_message(
        lambda peer, channel, m: queue.put_nowait((peer, channel, decode_packet(m)))
    )
    return queue


@pytest.mark.parametrize("prefix", ["/net", "/udp/net", "/transfer/net"])
async def test_a_call_reaches_the_public_service_of_another_node(town: Town, prefix: str) -> None:
    town.bert.bus.bind("/public/echo", echo)

    answer = await town.anna.bus.call(LOCAL_CALLER, f"{prefix}/{BERT}/echo/X", b"hi", timeout_s=1)

    assert answer.decode() == f"{ANNA} PROVEN /public/echo/X hi"


async def test_each_address_form_has_its_channel_and_its_wire_address(town: Town) -> None:
    queue = await heard(town.bert)
    for address in (
        f"/net/{BERT}/x",
        f"/udp/net/{BERT}/x",
        f"/transfer/from/{ANNA_TOO}/to/{BERT}/x",
    ):
        await town.anna.bus.push(LOCAL_CALLER, address, b"")

    seen = [await queue.get() for _ in range(3)]
    assert [(channel, call.caller, call.address, call.no_reply) for _, channel, call in seen] == [
        (Channel.RELIABLE, ANNA, f"/net/{BERT}/x", True),
        (Channel.UNRELIABLE, ANNA, f"/udp/net/{BERT}/x", True),
        (Channel.TRANSFER, ANNA_TOO, f"/transfer/net/{BERT}/x", True),
    ]


async def test_how_well_the_caller_is_proven_is_the_sessions_word(town: Town) -> None:
    town.anna.bus.bind("/public/echo", echo)

    answer = await town.bert.bus.call(LOCAL_CALLER, f"/net/{ANNA_TOO}/echo", b"", timeout_s=1)

    assert answer.decode() == f"{BERT} VOUCHED /public/echo "


async def test_a_second_identity_calls_under_its_own_name(town: Town) -> None:
    town.bert.bus.bind("/public/echo", echo)

    answer = await town.anna.bus.call(
        LOCAL_CALLER, f"/from/{ANNA_TOO}/to/{BERT}/echo", b"", timeout_s=1
    )

    assert answer.startswith(ANNA_TOO.encode())


@pytest.mark.parametrize(
    "address", [f"/net/{ANNA.upper().replace('X', 'x')}/echo", f"/from/{ANNA}/to/{ANNA_TOO}/echo"]
)
async def test_a_call_to_oneself_stays_at_home(town: Town, address: str) -> None:
    town.anna.bus.bind("/public/echo", echo)

    answer = await town.anna.bus.call(LOCAL_CALLER, address, b"x", timeout_s=1)

    assert answer.decode() == f"{ANNA} LOCAL /public/echo x"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (f"/from/{CARL}/to/{BERT}/echo", "not an identity of this node"),
        ("/net/0x12/echo", "not a node id"),
        (f"/net/{BERT}", "not found"),
        (f"/net/{BERT}/", "not found"),
        (f"/udp/{BERT}/echo", "not found"),
    ],
)
async def test_an_address_that_names_no_call_is_refused(
    town: Town, address: str, text: str
) -> None:
    with pytest.raises(GsbError, match=text) as refusal:
        await town.anna.bus.call(LOCAL_CALLER, address, b"", timeout_s=1)
    assert refusal.value.gsb_code is GsbCode.BAD_REQUEST


async def test_nothing_but_public_services_can_be_reached_from_outside(town: Town) -> None:
    town.bert.bus.bind("/local/secret", echo)
    queue = await heard(town.carl)

    for wire in ("/local/secret/X", f"/net/{ANNA}/x", f"/from/{BERT}/to/{BERT}/x", ""):
        request = CallRequest(CARL, wire, "1")
        await town.carl.net.send(BERT, Channel.RELIABLE, encode_packet(request), timeout_s=1)
        _, _, reply = await queue.get()
        assert reply.code == 400
        assert reply.data.decode() == f"Bad request: Unknown address: {wire}"
    with pytest.raises(GsbError, match="Bad request: endpoint address not found"):
        await town.carl.bus.call(LOCAL_CALLER, f"/net/{BERT}/../local/secret", b"", timeout_s=1)


@pytest.mark.parametrize("caller", [ANNA, "local", "", "0xzz"])
async def test_a_caller_that_is_no_identity_of_the_session_is_refused(
    town: Town, caller: str
) -> None:
    async def unreached(call: Call) -> bytes:
        raise AssertionError

    town.bert.bus.bind("/public/x", unreached)
    queue = await heard(town.carl)
    request = CallRequest(caller, f"/net/{BERT}/x", "1")

    await town.carl.net.send(BERT, Channel.RELIABLE, encode_packet(request), timeout_s=1)

    peer, _, reply = await queue.get()
    assert (peer.node_id, reply.code) == (BERT, 400)
    assert b"no identity of this session" in reply.data


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (GsbError("boom"), "GSB failure: boom"),
        (GsbError("no", GsbCode.BAD_REQUEST), "Bad request: no"),
        (GsbError("Bad content: x"), "Bad content: x"),
        (Denied("not yours"), "GSB failure: not yours"),
        (ZeroDivisionError("secret"), "GSB failure: internal error"),
    ],
)
async def test_every_failure_of_a_service_is_code_400_for_the_peer(
    town: Town, error: Exception, text: str
) -> None:
    async def failing(call: Call) -> bytes:
        raise error

    town.bert.bus.bind("/public/x", failing)

    with pytest.raises(GsbError) as failure:
        await town.anna.bus.call(LOCAL_CALLER, f"/net/{BERT}/x", b"", timeout_s=1)
    assert (failure.value.message, failure.value.gsb_code) == (text, GsbCode.BAD_REQUEST)


async def test_a_stream_crosses_the_net_item_by_item(town: Town) -> None:
    async def counting(call: Call) -> AsyncIterator[bytes]:
        for number in range(5):
            yield str(number).encode()

    town.bert.bus.bind_stream("/public/n", counting)

    stream = town.anna.bus.stream(LOCAL_CALLER, f"/transfer/net/{BERT}/n", b"", timeout_s=1)
    assert [item async for item in stream] == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_stream_that_fails_half_way_says_so(town: Town) -> None:
    async def failing(call: Call) -> AsyncIterator[bytes]:
        yield b"1"
        raise NotFound("gone")

    town.bert.bus.bind_stream("/public/n", failing)
    stream = town.anna.bus.stream(LOCAL_CALLER, f"/net/{BERT}/n", b"", timeout_s=1)

    assert await anext(stream) == b"1"
    with pytest.raises(GsbError, match="gone"):
        await anext(stream)


async def test_a_peer_that_is_away_is_unreachable(town: Town) -> None:
    town.fabric.cut(ANNA, BERT)

    with pytest.raises(Unreachable):
        await town.anna.bus.call(LOCAL_CALLER, f"/net/{BERT}/x", b"", timeout_s=1)


async def test_a_call_whose_stream_breaks_fails_at_once(town: Town) -> None:
    arrived = asyncio.Event()

    async def stuck(call: Call) -> bytes:
        arrived.set()
        return await silent(call)

    town.bert.bus.bind("/public/x", stuck)
    call = asyncio.ensure_future(
        town.anna.bus.call(LOCAL_CALLER, f"/net/{BERT}/x", b"", timeout_s=60)
    )
    await arrived.wait()

    town.fabric.cut(ANNA, BERT)

    with pytest.raises(Unreachable):
        await asyncio.wait_for(call, 1)


async def test_a_break_is_noticed_by_calls_to_a_peers_second_identity(town: Town) -> None:
    queue = await heard(town.anna)
    town.anna.bus.bind("/public/x", silent)
    call = asyncio.ensure_future(
        town.bert.bus.call(LOCAL_CALLER, f"/net/{ANNA_TOO}/x", b"", timeout_s=60)
    )
    await queue.get()

    town.fabric.cut(ANNA, BERT)

    with pytest.raises(Unreachable):
        await asyncio.wait_for(call, 1)


async def test_a_break_of_another_peers_stream_leaves_a_call_alone(town: Town) -> None:
    released = asyncio.Event()

    async def waiting(call: Call) -> bytes:
        await released.wait()
        return b"done"

    town.bert.bus.bind("/public/x", waiting)
    town.carl.bus.bind("/public/x", echo)
    await town.anna.bus.call(LOCAL_CALLER, f"/net/{CARL}/x", b"", timeout_s=1)
    call = asyncio.ensure_future(
        town.anna.bus.call(LOCAL_CALLER, f"/net/{BERT}/x", b"", timeout_s=5)
    )
    await asyncio.sleep(0)

    town.fabric.cut(ANNA, CARL)
    released.set()

    assert await call == b"done"


async def test_a_silent_peer_times_out_and_its_late_answer_is_dropped(town: Town) -> None:
    queue = await heard(town.bert)
    town.bert.bus.bind("/public/x", silent)

    with pytest.raises(TimedOut):
        await town.anna.bus.call(LOCAL_CALLER, f"/net/{BERT}/x", b"", timeout_s=0.01)

    _, _, request = await queue.get()
    late = encode_packet(CallReply(request.request_id, data=b"late"))
    await town.bert.net.send(ANNA, Channel.RELIABLE, late, timeout_s=1)
    await asyncio.sleep(0)


async def test_an_answer_is_taken_from_the_node_that_was_asked_only(town: Town) -> None:
    queue = await heard(town.bert)
    town.bert.bus.bind("/public/x", silent)
    call = asyncio.ensure_future(
        town.anna.bus.call(LOCAL_CALLER, f"/net/{BERT}/x", b"", timeout_s=5)
    )
    _, _, request = await queue.get()

    for node, data in ((town.carl, b"forged"), (town.bert, b"true")):
        reply = encode_packet(CallReply(request.request_id, data=data))
        await node.net.send(ANNA, Channel.RELIABLE, reply, timeout_s=1)

    assert await call == b"true"


@pytest.mark.parametrize("message", [b"", b"\xff\xff", encode_packet(Ping())])
async def test_what_is_no_call_is_dropped(town: Town, message: bytes) -> None:
    town.bert.bus.bind("/public/echo", echo)

    await town.anna.net.send(BERT, Channel.RELIABLE, message, timeout_s=1)

    assert await town.anna.bus.call(LOCAL_CALLER, f"/net/{BERT}/echo", b"", timeout_s=1)


async def test_a_peer_cannot_have_more_than_its_share_of_calls(town: Town) -> None:
    running = 0

    async def stuck(call: Call) -> bytes:
        nonlocal running
        running += 1
        return await silent(call)

    town.bert.bus.bind("/public/x", stuck)
    town.bert.bus.bind("/public/echo", echo)
    for number in range(CALLS_PER_PEER_MAX + 10):
        request = encode_packet(CallRequest(ANNA, f"/net/{BERT}/x", str(number)))
        await town.anna.net.send(BERT, Channel.RELIABLE, request, timeout_s=1)

    assert await town.carl.bus.call(LOCAL_CALLER, f"/net/{BERT}/echo", b"", timeout_s=1)
    assert running == CALLS_PER_PEER_MAX


async def test_a_broadcast_names_its_senders_default_identity(town: Town) -> None:
    seen: list[tuple[NodeId, str]] = []
    town.bert.remote.on_broadcast(lambda peer, b: seen.append((peer.node_id, b.topic)))
    town.bert.bus.bind("/public/echo", echo)

    for caller, topic in ((ANNA_TOO, "second"), (CARL, "foreign"), (ANNA, "good")):
        packet = encode_packet(BroadcastRequest(caller, b"", topic))
        await town.anna.net.send(BERT, Channel.UNRELIABLE, packet, timeout_s=1)
    await town.anna.bus.call(LOCAL_CALLER, f"/net/{BERT}/echo", b"", timeout_s=1)

    assert seen == [(ANNA, "good")]


async def test_shutting_down_fails_what_still_waits() -> None:
    async with Town() as town:
        queue = await heard(town.bert)
        call = asyncio.ensure_future(
            town.anna.bus.call(Caller(ANNA, Assurance.LOCAL), f"/net/{BERT}/x", b"", timeout_s=60)
        )
        await queue.get()

    with pytest.raises(Unreachable):
        await asyncio.wait_for(call, 1)
