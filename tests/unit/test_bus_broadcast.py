import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from shem.bus.broadcast import Broadcast
from shem.bus.features import ADDRESS, EXPIRY_S, Features
from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.bus.types import Call, GsbError
from shem.kernel.caller import Caller
from shem.kernel.errors import Denied, Unreachable
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng
from shem.net.memory import MemoryFabric, MemoryNet
from shem.net.types import Channel
from shem.wire.flexbuffers import dumps, pack
from shem.wire.gsb import BroadcastRequest, encode_packet

ANNA, BERT, CARL = (NodeId("0x" + digit * 40) for digit in "abc")
TOPIC = "market-protocol-discovery-mk1-offers"


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall_ns(self) -> int:
        return 0

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


class Town:
    def __init__(self) -> None:
        self.fabric = MemoryFabric()
        self.clock = Clock()
        self.stack = AsyncExitStack()
        self.buses: dict[NodeId, Bus] = {}
        self.broadcasts: dict[NodeId, Broadcast] = {}
        self.nets: dict[NodeId, MemoryNet] = {}

    async def add(self, node: NodeId) -> None:
        bus, net = Bus(), self.fabric.node(node)
        remote = RemoteBus(bus, net, [node], rng=SeededRng(ord(node[2])))
        broadcast = Broadcast(remote, net, node)
        for part in (remote, broadcast, net):
            await self.stack.enter_async_context(part)
        self.buses[node], self.broadcasts[node], self.nets[node] = bus, broadcast, net

    def features_of(self, node: NodeId, *own: str) -> Features:
        return Features(self.buses[node], self.nets[node], own, clock=self.clock)


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    town = Town()
    async with town.stack:
        for node in (ANNA, BERT, CARL):
            await town.add(node)
        yield town


async def test_all_subscribers_of_a_topic_on_other_nodes_hear_a_broadcast(town: Town) -> None:
    queue: asyncio.Queue[tuple[NodeId, NodeId, object]] = asyncio.Queue()
    for node in (ANNA, BERT, CARL):

        async def hear(caller: Caller, body: object, node: NodeId = node) -> None:
            queue.put_nowait((node, caller.node_id, body))

        town.broadcasts[node].subscribe(TOPIC, hear)

    await town.broadcasts[ANNA].publish("another-topic", None)
    await town.broadcasts[ANNA].publish(TOPIC, {"offerIds": ["1"]})

    heard = [await queue.get(), await queue.get()]
    assert sorted(heard, key=str) == [
        (BERT, ANNA, {"offerIds": ["1"]}),
        (CARL, ANNA, {"offerIds": ["1"]}),
    ]
    assert queue.empty()


async def test_a_failing_subscriber_harms_nobody(town: Town) -> None:
    queue: asyncio.Queue[object] = asyncio.Queue()

    async def refuse(caller: Caller, body: object) -> None:
        raise Denied("no")

    async def crash(caller: Caller, body: object) -> None:
        raise ZeroDivisionError

    async def hear(caller: Caller, body: object) -> None:
        queue.put_nowait(body)

    for fn in (refuse, crash, hear):
        town.broadcasts[BERT].subscribe(TOPIC, fn)
    for number in range(2):
        await town.broadcasts[ANNA].publish(TOPIC, number)

    assert [await queue.get(), await queue.get()] == [0, 1]


async def test_a_node_that_cannot_be_reached_does_not_stop_a_broadcast(town: Town) -> None:
    queue: asyncio.Queue[object] = asyncio.Queue()

    async def hear(caller: Caller, body: object) -> None:
        queue.put_nowait(body)

    town.broadcasts[CARL].subscribe(TOPIC, hear)
    town.fabric.cut(ANNA, BERT)

    await town.broadcasts[ANNA].publish(TOPIC, 1)

    assert await queue.get() == 1


@pytest.mark.parametrize("data", [b"", b"\xff", dumps(5), dumps({"topic": TOPIC})])
async def test_a_malformed_broadcast_is_dropped(town: Town, data: bytes) -> None:
    queue: asyncio.Queue[object] = asyncio.Queue()

    async def hear(caller: Caller, body: object) -> None:
        queue.put_nowait(body)

    town.broadcasts[BERT].subscribe(TOPIC, hear)
    net = town.fabric.node(ANNA)
    for payload in (data, pack({"id": None, "topic": TOPIC, "body": "good"})):
        packet = encode_packet(BroadcastRequest(ANNA, payload, TOPIC))
        await net.send(BERT, Channel.UNRELIABLE, packet, timeout_s=1)

    assert await queue.get() == "good"


async def test_nodes_tell_each_other_what_they_understand(town: Town) -> None:
    anna = town.features_of(ANNA, "resolve-batch", "intent")
    bert = town.features_of(BERT, "resolve-batch")

    assert await anna.features(BERT) == {"resolve-batch"}
    assert await bert.features(ANNA) == {"resolve-batch", "intent"}


async def test_a_legacy_node_has_no_features_and_is_asked_once(town: Town) -> None:
    asked = 0

    async def refuse(call: Call) -> bytes:
        nonlocal asked
        asked += 1
        raise GsbError("endpoint address not found")

    town.buses[CARL].bind("/public", refuse)
    anna = town.features_of(ANNA)

    assert await anna.features(BERT) == frozenset()
    assert await anna.features(CARL) == await anna.features(CARL) == frozenset()
    assert asked == 1


async def test_a_node_that_is_away_is_not_taken_for_a_legacy_one(town: Town) -> None:
    anna = town.features_of(ANNA)
    town.fabric.cut(ANNA, BERT)
    with pytest.raises(Unreachable):
        await anna.features(BERT)

    town.fabric.join(ANNA, BERT)
    town.features_of(BERT, "intent")

    assert await anna.features(BERT) == {"intent"}


async def test_features_are_asked_again_after_a_while_and_when_the_peer_shows_up(
    town: Town,
) -> None:
    anna = town.features_of(ANNA)
    assert await anna.features(BERT) == frozenset()
    town.features_of(BERT, "intent")

    assert await anna.features(BERT) == frozenset()
    town.clock.now += EXPIRY_S + 1
    assert await anna.features(BERT) == {"intent"}


async def test_a_broken_hello_is_an_error_and_not_remembered(town: Town) -> None:
    anna = town.features_of(ANNA)
    with town.buses[BERT].bind(ADDRESS, _hello(b"\xff")), pytest.raises(GsbError):
        await anna.features(BERT)

    assert await anna.features(BERT) == frozenset()


async def test_a_peer_that_shows_up_is_asked_at_once(town: Town) -> None:
    asked: asyncio.Queue[NodeId] = asyncio.Queue()

    async def hello(call: Call) -> bytes:
        asked.put_nowait(call.caller.node_id)
        return dumps({"Ok": {"features": ["intent"]}})

    town.buses[BERT].bind(ADDRESS, hello)
    async with town.features_of(ANNA):
        for _ in range(2):
            await town.nets[ANNA].connect(BERT)

            assert await asked.get() == ANNA
            await town.nets[ANNA].disconnect(BERT)


async def test_a_peer_that_does_not_answer_the_greeting_harms_nobody(town: Town) -> None:
    met = asyncio.Event()

    async def fall_silent(call: Call) -> bytes:
        met.set()
        town.fabric.cut(ANNA, BERT)
        raise GsbError("nobody hears this")

    town.buses[BERT].bind(ADDRESS, fall_silent)
    async with town.features_of(ANNA) as anna:
        await town.nets[ANNA].connect(BERT)
        await met.wait()

        assert await anna.features(CARL) == frozenset()


@pytest.mark.parametrize("answer", [5, {}, {"features": 5}, {"features": [1, None, {}]}])
async def test_an_odd_hello_means_no_features(town: Town, answer: object) -> None:
    town.buses[BERT].bind(ADDRESS, _hello(dumps({"Ok": answer})))

    assert await town.features_of(ANNA).features(BERT) == frozenset()


def _hello(answer: bytes):
    async def handler(call: Call) -> bytes:
        return answer

    return handler
