"""The daemon: what is started in which order, and stopped in reverse.

store → identity → net → bus (remote, broadcasts, features) → outbox, market, activity → the bus
socket → REST. Each is ready before the next is started, so that no message meets half a node; REST
comes last, and its answering means that the node is up. A locked default identity is waited for
before there is a net, with the bus socket open already. A service loop that fails ends the daemon.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from starlette.types import ASGIApp

from shem.activity import messages as activity_messages
from shem.activity.service import ActivityService
from shem.api import activity as activity_api
from shem.api import identity as identity_api
from shem.api import market as market_api
from shem.api import net as net_api
from shem.api import openapi
from shem.api import payment as payment_api
from shem.api.app import build_app
from shem.api.sessions import ClientSessions
from shem.bus.broadcast import Broadcast
from shem.bus.features import Features
from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.bus.socket_server import SocketServer
from shem.identity.keys import PrivateKey
from shem.identity.service import IdentityService
from shem.kernel.caller import Assurance, Caller
from shem.kernel.config import NodeConfig, parse_gsb_url
from shem.kernel.tasks import TaskScope
from shem.kernel.version import shem_version
from shem.kernel.world import World
from shem.market import agreement_states
from shem.market.service import MarketService
from shem.net.acquaintances import Acquaintances
from shem.net.secure.pin_store import PinStore
from shem.net.secure.pins import Pins
from shem.net.service import Net
from shem.node import ready
from shem.node.http import serving
from shem.node.local import LocalServices
from shem.node.presence import Presence
from shem.node.unlocking import StoppedWhileLocked, default_unlocked
from shem.store.datadir import DATABASE_FILE, hold_datadir
from shem.store.open import open_store
from shem.store.outbox import Outbox
from shem.store.unit import Store

log = structlog.get_logger()


def _net(config: NodeConfig, world: World, keys: Sequence[PrivateKey], pins: Pins) -> Net:
    return Net(
        world,
        keys,
        config.bind_address,
        config.relay_address,
        encryption=config.net_encryption,
        pins=pins,
    )


async def _store(place: str | Path, world: World) -> Store:
    return await open_store(place, world=world)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a node is put into; a simulation has a net, a disk and clients of its own."""

    net: Callable[[NodeConfig, World, Sequence[PrivateKey], Pins], Net] = _net
    store: Callable[[str | Path, World], Awaitable[Store]] = _store
    serve: Callable[
        [ASGIApp, tuple[str, int], ClientSessions], AbstractAsyncContextManager[tuple[str, int]]
    ] = serving


REAL: Final = Surroundings()


@dataclass(frozen=True, slots=True)
class Node:
    """A running node, for tests and for `run_node`."""

    api_address: tuple[str, int]
    store: Store
    identity: IdentityService
    net: Net
    bus: Bus
    market: MarketService
    activity: ActivityService


async def run_node(config: NodeConfig, stop: asyncio.Event) -> None:
    """Run a node until `stop` is set, or the bus asks for a shutdown."""
    with hold_datadir(config.datadir), suppress(StoppedWhileLocked):
        async with running_node(config, World(), stop) as node:
            ready.tell()
            host, port = node.api_address
            log.info("node.ready", node=node.identity.default.node_id, rest=f"{host}:{port}")
            await stop.wait()
            log.info("node.stopping")
    log.info("node.stopped")


@asynccontextmanager
async def running_node(
    config: NodeConfig, world: World, stop: asyncio.Event, surroundings: Surroundings = REAL
) -> AsyncIterator[Node]:
    """Start every part of a node; stop them in reverse when the block ends."""
    async with AsyncExitStack() as stack:
        store = await surroundings.store(
            config.database_url or config.datadir / DATABASE_FILE, world
        )
        stack.push_async_callback(store.close)
        identity = IdentityService(store, world, config)
        await identity.start()
        bus = Bus()
        local_caller = Caller(identity.default_id, Assurance.LOCAL)
        socket_server = SocketServer(
            bus, parse_gsb_url(config.gsb_url), world=world, caller=local_caller
        )
        listens_early = identity.waits_for_password
        if listens_early:
            await stack.enter_async_context(socket_server)
            await default_unlocked(bus, identity, stop)

        keys = identity.keys()
        pinned = await stack.enter_async_context(PinStore(store, world))
        net = surroundings.net(config, world, keys, pinned.pins)
        node_ids = [key.node_id for key in keys]
        remote = RemoteBus(bus, net, node_ids, rng=world.rng)
        broadcast = Broadcast(remote, net, node_ids[0])
        own_features = activity_messages.FEATURES | agreement_states.FEATURES
        features = Features(bus, net, own_features, clock=world.clock)
        outbox = Outbox(store, world)
        net.on_peer_up(outbox.peer_alive)
        market = MarketService(
            store,
            bus,
            broadcast,
            outbox,
            identity,
            world,
            net,
            features=features.features,
            exact_failures=config.market_exact_failures,
        )
        activity = ActivityService(
            store=store,
            bus=bus,
            outbox=outbox,
            market=market,
            features=features.features,
            world=world,
        )
        net.on_peer_up(activity.peer_alive)
        net.on_lost(lambda peer, _channel: activity.peer_lost(peer))
        local = LocalServices(bus, net, identity, stop=stop.set, world=world)
        presence = Presence(identity, net, remote, market, present=node_ids)
        acquaintances = Acquaintances(net, store, world)
        services = (net, remote, broadcast, features, market, activity)
        for part in (*services, presence, local, acquaintances):
            await stack.enter_async_context(part)
        scope = await stack.enter_async_context(TaskScope())
        scope.spawn(outbox.run(), "outbox")
        if not listens_early:
            await stack.enter_async_context(socket_server)
        app, sessions = _rest(identity, net, market, activity, local)
        address = await stack.enter_async_context(
            surroundings.serve(app, config.api_address, sessions)
        )
        yield Node(address, store, identity, net, bus, market, activity)


def _rest(
    identity: IdentityService,
    net: Net,
    market: MarketService,
    activity: ActivityService,
    local: LocalServices,
) -> tuple[ASGIApp, ClientSessions]:
    """Return the application of all REST APIs, and who its clients are."""
    routes = [
        *identity_api.routes(local.version_info()),
        *net_api.routes(net.status),
        *market_api.routes(market),
        *activity_api.routes(activity),
        *payment_api.routes(),
    ]
    routes += openapi.routes(routes, shem_version())
    sessions = ClientSessions()
    sessions.on_gone(market.collector_gone)
    return build_app(routes, identity.principal, sessions), sessions
