"""Identities of a running node: on the bus and the net from their unlocking to their locking."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from shem.bus.broadcast import Broadcast
from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.bus.types import GsbError
from shem.identity.service import IdentityService
from shem.kernel.caller import Assurance, Caller
from shem.kernel.config import NodeConfig
from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.market.records import DEMAND, OFFER
from shem.market.service import MarketService
from shem.net.memory import MemoryFabric, MemoryNet
from shem.node.presence import Presence
from shem.store.open import open_store
from shem.store.outbox import Outbox

PEER = NodeId("0x" + "b" * 40)
CALL_S = 1.0
PASSWORD = "secret"


@dataclass
class Station:
    """A node with a market, and a peer that may call it and be called."""

    identity: IdentityService
    market: MarketService
    bus: Bus
    peer: Bus
    net: MemoryNet

    async def call_as(self, node_id):
        """Call the peer in the name of an identity; return as whom it knows the caller."""
        caller = Caller(node_id, Assurance.LOCAL)
        address = f"/from/{node_id}/to/{PEER}/test/who"
        return (await self.bus.call(caller, address, b"", timeout_s=CALL_S)).decode()

    async def call_to(self, node_id):
        """Have the peer call an identity; return the answer."""
        caller = Caller(PEER, Assurance.LOCAL)
        address = f"/from/{PEER}/to/{node_id}/test/who"
        return (await self.peer.call(caller, address, b"", timeout_s=CALL_S)).decode()

    async def is_absent(self, node_id):
        for call in (self.call_as, self.call_to):
            with pytest.raises(ShemError):
                await call(node_id)
        return node_id not in self.net.identities


async def who(call):
    return call.caller.node_id.encode()


async def markets_of(stack, world, store, bus, remote, net, identity):  # noqa: PLR0917
    broadcast = await stack.enter_async_context(Broadcast(remote, net, identity.default_id))
    market = MarketService(store, bus, broadcast, Outbox(store, world), identity, world, net)
    return await stack.enter_async_context(market)


@pytest.fixture
async def station(tmp_path):
    world, fabric = World(), MemoryFabric()
    async with AsyncExitStack() as stack:
        store = await open_store(tmp_path / "node.db", world=world)
        stack.push_async_callback(store.close)
        identity = IdentityService(store, world, NodeConfig(datadir=tmp_path))
        await identity.start()
        bus, peer = Bus(), Bus()
        net, peer_net = fabric.node(identity.default_id), fabric.node(PEER)
        remote = RemoteBus(bus, net, [identity.default_id], rng=world.rng)
        for part in (net, remote, peer_net, RemoteBus(peer, peer_net, [PEER], rng=world.rng)):
            await stack.enter_async_context(part)
        for each in (bus, peer):
            each.bind("/public/test", who)
        market = await markets_of(stack, world, store, bus, remote, net, identity)
        present = [identity.default_id]
        await stack.enter_async_context(Presence(identity, net, remote, market, present=present))
        yield Station(identity, market, bus, peer, net)


async def test_created_identity_calls_and_is_called(station):
    node_id = (await station.identity.create_identity()).node_id

    assert await station.call_as(node_id) == node_id
    assert await station.call_to(node_id) == PEER


async def test_locked_identity_is_absent_until_it_is_unlocked(station):
    node_id = (await station.identity.create_identity()).node_id

    await station.identity.lock(node_id, new_password=PASSWORD)
    assert await station.is_absent(node_id)

    with pytest.raises(ShemError):
        await station.identity.unlock(node_id, "wrong")
    assert await station.is_absent(node_id)

    await station.identity.unlock(node_id, PASSWORD)
    assert await station.call_as(node_id) == node_id


async def test_unlocking_what_is_open_changes_nothing(station):
    node_id = (await station.identity.create_identity()).node_id

    await station.identity.unlock(node_id, "")

    assert await station.call_to(node_id) == PEER


async def test_dropped_identity_is_absent_and_what_it_published_withdrawn(station):
    node_id = (await station.identity.create_identity()).node_id
    its, ours = (Caller(each, Assurance.LOCAL) for each in (node_id, station.identity.default_id))
    for kind in (OFFER, DEMAND):
        await station.market.subscribe(its, kind, {"a": 1}, "()")
    kept = await station.market.subscribe(ours, OFFER, {"a": 1}, "()")

    await station.identity.drop(node_id)
    await station.market.withdraw_orphans()

    assert await station.is_absent(node_id)
    for kind in (OFFER, DEMAND):
        assert await station.market.subscriptions(its, kind) == []
    assert [item.subscription_id for item in await station.market.subscriptions(ours, OFFER)] == [
        kept
    ]


async def test_offers_of_a_locked_identity_are_told_to_nobody(station):
    node_id = (await station.identity.create_identity()).node_id
    its = Caller(node_id, Assurance.LOCAL)
    offer = await station.market.subscribe(its, OFFER, {"a": 1}, "()")

    async def told():
        address = f"/net/{station.identity.default_id}/market/protocol/mk1/discovery/offers/Get"
        asker = Caller(PEER, Assurance.LOCAL)
        return await station.peer.request(asker, address, {"offerIds": [offer]}, timeout_s=CALL_S)

    assert len(await told()) == 1
    await station.identity.lock(node_id)
    assert await told() == []
    await station.identity.unlock(node_id, "")
    assert len(await told()) == 1


async def test_default_identity_stays_the_name_of_the_node_when_it_is_locked(station):
    default = station.identity.default_id

    await station.identity.lock(default)

    assert await station.call_to(default) == PEER
    assert await station.call_as(default) == default


async def test_identity_that_was_never_unlocked_is_absent(station):
    other = await station.identity.create_identity()
    sealed = await station.identity.lock(other.node_id, new_password=PASSWORD)
    text = await station.identity.export(sealed.node_id)
    await station.identity.drop(sealed.node_id)

    again = await station.identity.create_identity(keystore=text)

    assert again.is_locked
    assert await station.is_absent(again.node_id)
    with pytest.raises(GsbError, match="not an identity"):
        await station.call_as(again.node_id)
