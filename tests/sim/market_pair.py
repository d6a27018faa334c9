"""Two whole markets in one process: real stores, buses and outboxes on an in-memory network."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shem.bus.broadcast import Broadcast
from shem.bus.features import Features
from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.identity.service import IdentityService
from shem.kernel.caller import Assurance, Caller
from shem.kernel.config import NodeConfig
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.market import agreement_states
from shem.market.ids import Role
from shem.market.records import AgreementRow
from shem.market.service import MarketService
from shem.net.memory import MemoryFabric, MemoryNet
from shem.store.committer import Committer
from shem.store.open import open_store
from shem.store.outbox import Outbox
from shem.store.unit import Store

REQUESTOR_SECRET = "11" * 32
PROVIDER_SECRET = "22" * 32
STRANGER_SECRET = "33" * 32

OFFER = {
    "golem.node.debug.subnet": "s3",
    "golem.inf.mem.gib": 10.5,
    "golem.runtime.name": "wasmtime",
    "golem.com.pricing.model": "linear",
    "golem.com.pricing.model.linear.coeffs": [0.0, 0.0, 0.0],
    "golem.com.usage.vector": ["golem.usage.duration_sec", "golem.usage.cpu_sec"],
    "golem.com.payment.platform.erc20-holesky-tglm.address": "0xaaaa",
}
OFFER_CONSTRAINTS = "(golem.node.debug.subnet=s3)"
DEMAND = {
    "golem": {"node": {"debug": {"subnet": "s3"}}},
    "golem.com.payment.chosen-platform": "erc20-holesky-tglm",
    "golem.com.payment.platform.erc20-holesky-tglm.address": "0xbbbb",
}
DEMAND_CONSTRAINTS = "(&(golem.node.debug.subnet=s3)(golem.inf.mem.gib>=0.5))"
POLL_S = 5.0


@dataclass
class Side:
    """One node: its market, and short words for what a program does with it."""

    market: MarketService
    store: Store
    bus: Bus
    outbox: Outbox
    node_id: NodeId
    world: World
    net: MemoryNet

    @property
    def who(self) -> Caller:
        return Caller(self.node_id, Assurance.LOCAL)

    async def publish(self, properties: Any = None, constraints: str = OFFER_CONSTRAINTS) -> Any:
        return await self.market.subscribe(
            self.who, "offer", OFFER if properties is None else properties, constraints
        )

    async def seek(self, properties: Any = None, constraints: str = DEMAND_CONSTRAINTS) -> Any:
        return await self.market.subscribe(
            self.who, "demand", DEMAND if properties is None else properties, constraints
        )

    async def events(
        self, kind: str, subscription: Any, timeout_s: float = POLL_S, most: int = 20
    ) -> list[Any]:
        return await self.market.collect(
            self.who, kind, subscription, timeout_s=timeout_s, most=most
        )

    async def counter(self, role: Role, subscription: Any, proposal: Any, **terms: Any) -> Any:
        is_offer = role is Role.PROVIDER
        return await self.market.counter(
            self.who,
            role,
            subscription,
            proposal,
            properties=terms.get("properties", OFFER if is_offer else DEMAND),
            constraints=terms.get(
                "constraints", OFFER_CONSTRAINTS if is_offer else DEMAND_CONSTRAINTS
            ),
        )

    async def row(self, agreement: Any) -> AgreementRow:
        found = await self.market.agreement(agreement)
        assert found is not None
        return found

    async def log(self, session: str | None = None, timeout_s: float = 0.0) -> list[str]:
        events = await self.market.agreement_events(
            self.who, after_ns=0, session=session, timeout_s=timeout_s, most=100
        )
        return [str(event.kind) for event in events]

    async def until_log(self, *kinds: str) -> None:
        """Wait until the identity's agreement events are exactly these."""
        topic = f"market.agreements:{self.node_id}"
        for _ in range(20):
            version = self.store.topics.version(topic)
            if await self.log() == list(kinds):
                return
            assert await self.store.topics.changed(topic, version, POLL_S), await self.log()
        raise AssertionError(await self.log())


@asynccontextmanager
async def running(
    fabric: MemoryFabric,
    folder: Path,
    secret: str,
    world: World | None = None,
    database: str | None = None,
    *,
    exact_failures: bool = False,
    features: frozenset[str] = agreement_states.FEATURES,
    committer: Committer | None = None,
) -> AsyncIterator[Side]:
    """Start a node on the fabric; its store (in `folder`, if not named) outlives the block."""
    world = world or World()
    async with AsyncExitStack() as stack:
        store = await open_store(
            database or folder / f"{secret[:4]}.db", world=world, committer=committer
        )
        stack.push_async_callback(store.close)
        config = NodeConfig(datadir=folder, autoconf_id_secret=secret)
        identity = IdentityService(store, world, config)
        await identity.start()
        node_id = identity.default.node_id
        net = fabric.node(node_id)
        bus = Bus()
        remote = RemoteBus(bus, net, [node_id], rng=world.rng)
        broadcast = Broadcast(remote, net, node_id)
        outbox = Outbox(store, world)
        net.on_peer_up(outbox.peer_alive)
        known = Features(bus, net, features, clock=world.clock)
        market = MarketService(
            store,
            bus,
            broadcast,
            outbox,
            identity,
            world,
            net,
            features=known.features,
            exact_failures=exact_failures,
        )
        for part in (net, remote, broadcast, known, market):
            await stack.enter_async_context(part)
        scope = await stack.enter_async_context(TaskScope())
        scope.spawn(outbox.run(), "outbox")
        yield Side(market, store, bus, outbox, node_id, world, net)


@dataclass
class Negotiated:
    """Both sides' ids of one negotiation that is ripe for an agreement."""

    offer: Any
    demand: Any
    initial: Any
    first_counter: Any
    provider_draft: Any


async def negotiate(requestor: Side, provider: Side) -> Negotiated:
    """Publish, match and counter once each way."""
    demand = await requestor.seek()
    offer = await provider.publish()
    [initial] = await requestor.events("demand", demand)
    assert initial["proposal"]["state"] == "Initial"
    return await answer(requestor, provider, offer, demand, initial["proposal"]["proposalId"])


async def answer(
    requestor: Side, provider: Side, offer: Any, demand: Any, initial: Any
) -> Negotiated:
    first = await requestor.counter(Role.REQUESTOR, demand, initial)
    [seen] = await provider.events("offer", offer)
    assert seen["proposal"]["proposalId"] == f"P{first[1:]}"
    draft = await provider.counter(Role.PROVIDER, offer, f"P{first[1:]}")
    [answer_] = await requestor.events("demand", demand)
    assert answer_["proposal"]["proposalId"] == f"R{draft[1:]}"
    return Negotiated(offer, demand, initial, first, f"R{draft[1:]}")


async def propose(requestor: Side, ids: Negotiated, valid_s: float = 3600.0) -> Any:
    """Create an agreement on the provider's draft."""
    valid_to_ns = requestor.world.clock.wall_ns() + int(valid_s * NS_PER_S)
    return await requestor.market.create_agreement(requestor.who, ids.provider_draft, valid_to_ns)


async def agree(requestor: Side, provider: Side, ids: Negotiated | None = None) -> Any:
    """Bring an agreement into force and return its id."""
    ids = ids or await negotiate(requestor, provider)
    agreement = await propose(requestor, ids)
    await requestor.market.confirm(requestor.who, agreement, "req-session")
    [event] = await provider.events("offer", ids.offer)
    assert event["agreement"]["agreementId"] == agreement
    await provider.market.approve(provider.who, agreement, "prov-session", POLL_S)
    await requestor.market.wait(requestor.who, agreement, POLL_S)
    return agreement
