"""The market at scale: matching by index, many negotiations at once, the start of a node.

`python -m tests.bench market`. Two nodes in this process on the in-memory net, with real stores;
starts are those of real processes. A stall is the processor time that the event loop's thread spent
between two turns of a task that only wants to run: what everybody else has waited for, whatever
else this machine was doing.
"""

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import psutil

from shem.devnet.daemons import free_port
from shem.kernel.ids import NodeId, SubscriptionId
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.market import subscriptions
from shem.market.agreement_rows import save_agreement
from shem.market.ids import Role
from shem.market.matching import match_sides
from shem.market.properties import flat_text
from shem.market.records import ACTIVE, OFFER, AgreementRow, Subscription
from shem.market.states import AgreementState
from shem.market.subscription_rows import page_of_active, save_subscription
from shem.net.memory import MemoryFabric
from shem.store.datadir import DATABASE_FILE
from shem.store.open import open_store
from shem.store.unit import Store
from tests.sim import market_pair
from tests.sim.market_pair import PROVIDER_SECRET, REQUESTOR_SECRET, Side, running

OFFERS = 10_000
DEMANDS = 1_000
SUBNETS = 1_000
ARRIVALS = 200
NAIVE_ROUNDS = 5
NEGOTIATIONS = 1_000
AGREEMENTS = 10_000
IN_FORCE = 100
STARTS = 3
ROWS_AT_ONCE = 500
PATIENCE_S = 120.0
KEY = "bench0app0key"

Figures = dict[str, float]


class Stalls:
    """While its block lasts, the longest processor time between two turns is kept."""

    longest_s = 0.0

    async def __aenter__(self) -> "Stalls":
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0.0005)
            now = time.thread_time()
            self.longest_s = max(self.longest_s, now - before)
            before = now


def measure_market_at_scale() -> Figures:
    with tempfile.TemporaryDirectory(prefix="shem-bench-") as directory:
        folders = [Path(directory) / name for name in ("matching", "deals", "starts")]
        for folder in folders:
            folder.mkdir()
        figures = asyncio.run(_matching(folders[0]))
        figures |= asyncio.run(_negotiations(folders[1]))
        figures |= _starts(folders[2])
    return figures


# --- matching


def an_offer(number: int, now_ns: int) -> Subscription:
    properties = market_pair.OFFER | {
        "golem.node.debug.subnet": f"subnet{number % SUBNETS}",
        "golem.node.id.name": f"provider-{number}",
        "golem.inf.cpu.cores": 1 + number % 16,
        "golem.inf.cpu.threads": 1 + number % 32,
        "golem.inf.storage.gib": 10.0 + number % 90,
        "golem.runtime.capabilities": ["inet", "vpn", "manifest-support"],
        "golem.node.net.is-public": number % 2 == 0,
        "golem.activity.caps.transfer.protocol": ["gftp", "https", "http"],
    }
    return Subscription(
        subscription_id=SubscriptionId(f"{number:032x}-{number:064x}"),
        kind=OFFER,
        own=False,
        identity=NodeId(f"0x{number:040x}"),
        properties=flat_text(properties),
        constraints=f"(golem.node.debug.subnet=subnet{number % SUBNETS})",
        state=ACTIVE,
        created_ns=now_ns,
        inserted_ns=now_ns + number,
        expires_ns=now_ns + 3600 * NS_PER_S,
    )


async def _seed_offers(store: Store, now_ns: int) -> None:
    for first in range(0, OFFERS, ROWS_AT_ONCE):
        async with store.unit("seed") as unit:
            for number in range(first, first + ROWS_AT_ONCE):
                save_subscription(unit, an_offer(number + 1, now_ns))


def _demand(number: int) -> tuple[dict[str, object], str]:
    subnet = f"subnet{number % SUBNETS}"
    properties = market_pair.DEMAND | {"golem": {}, "golem.node.debug.subnet": subnet}
    wants = f"(&(golem.node.debug.subnet={subnet})(golem.runtime.name=wasmtime)"
    return properties, f"{wants}(golem.inf.mem.gib>=0.5))"


async def _matching(folder: Path) -> Figures:
    fabric, figures = MemoryFabric(), Figures()
    async with running(fabric, folder, REQUESTOR_SECRET) as node:
        await _seed_offers(node.store, node.world.clock.wall_ns())
        figures[
            "matching without an index: a Demand among 5,000 Offers, one stall [ms]"
        ] = await _naive_ms(node)
        async with Stalls() as stalls:
            begun = time.thread_time()
            await node.seek(*_demand(0))
            first_s = time.thread_time() - begun
            await asyncio.sleep(0.01)
        figures["matching: first Demand, 10,000 Offers read and compiled [ms CPU]"] = first_s * 1e3
        figures["matching: longest stall of that [ms]"] = stalls.longest_s * 1e3
        async with Stalls() as stalls:
            begun = time.thread_time()
            for number in range(1, DEMANDS):
                await node.seek(*_demand(number))
            each_s = (time.thread_time() - begun) / DEMANDS
        figures["matching: a Demand among 10,000 Offers, ten matches [ms CPU]"] = each_s * 1e3
        figures["matching: longest stall while 1,000 Demands come [ms]"] = stalls.longest_s * 1e3
        figures |= await _arrivals(node)
    return figures


async def _naive_ms(node: Side) -> float:
    """What it took before: all rows read, and each compared."""
    taken = []
    demand = await subscriptions.list_own(node.market._context, node.node_id, "demand")
    assert not demand
    properties, wants = _demand(0)
    wanted = replace(an_offer(0, 0), properties=flat_text(properties), constraints=wants)
    for _ in range(NAIVE_ROUNDS):
        begun = time.thread_time()
        now_ns = node.world.clock.wall_ns()
        for offer in await page_of_active(node.store.fetch, OFFER, ("", 0), now_ns, 5_000):
            match_sides(wanted, offer)
        taken.append((time.thread_time() - begun) * 1e3)
    return statistics.median(taken)


async def _arrivals(node: Side) -> Figures:
    """Offers of others arrive, as discovery takes them in."""
    discovery = node.market._discovery
    rows = [an_offer(OFFERS + 1 + n, node.world.clock.wall_ns()) for n in range(ARRIVALS)]
    discovery._flaw = _no_flaw  # type: ignore[method-assign] - ids of the bench are no hashes
    async with Stalls() as stalls:
        begun = time.thread_time()
        for row in rows:
            offers = [row.as_offer_row()]
            await discovery._store(row.identity, {row.subscription_id}, offers)
        each_s = (time.thread_time() - begun) / ARRIVALS
    return {
        "matching: an Offer among 1,000 Demands, one match [ms CPU]": each_s * 1e3,
        "matching: longest stall while 200 Offers come [ms]": stalls.longest_s * 1e3,
    }


async def _no_flaw(*_: object) -> None:
    return None


# --- negotiations


async def _negotiations(folder: Path) -> Figures:
    fabric = MemoryFabric()
    market_pair.POLL_S = PATIENCE_S
    async with (
        running(fabric, folder, REQUESTOR_SECRET) as requestor,
        running(fabric, folder, PROVIDER_SECRET) as provider,
        Stalls() as stalls,
    ):
        begun, cpu = time.perf_counter(), time.process_time()
        deals = await asyncio.gather(
            *(_one_deal(requestor, provider, number) for number in range(NEGOTIATIONS))
        )
        took_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu
    return {
        "1,000 negotiations at once, publishing to Approved [s]": took_s,
        "… processor time of both nodes, each [ms]": cpu_s / NEGOTIATIONS * 1e3,
        "… slowest of them, first counter to Approved [s]": max(deals),
        "… longest stall [ms]": stalls.longest_s * 1e3,
    }


async def _one_deal(requestor: Side, provider: Side, number: int) -> float:
    subnet = f"deal{number}"
    sells = market_pair.OFFER | {"golem.node.debug.subnet": subnet}
    buys = market_pair.DEMAND | {"golem": {}, "golem.node.debug.subnet": subnet}
    asks, wants = (f"(golem.node.debug.subnet={subnet})",) * 2
    demand = await requestor.seek(buys, wants)
    offer = await provider.publish(sells, asks)
    [initial] = await requestor.events("demand", demand, PATIENCE_S)
    begun = time.perf_counter()
    proposal = initial["proposal"]["proposalId"]
    first = await requestor.counter(
        Role.REQUESTOR, demand, proposal, properties=buys, constraints=wants
    )
    await provider.events("offer", offer, PATIENCE_S)
    seen = f"P{first[1:]}"
    draft = await provider.counter(Role.PROVIDER, offer, seen, properties=sells, constraints=asks)
    await requestor.events("demand", demand, PATIENCE_S)
    ids = market_pair.Negotiated(offer, demand, proposal, first, f"R{draft[1:]}")
    await market_pair.agree(requestor, provider, ids)
    return time.perf_counter() - begun


# --- starts


def _starts(folder: Path) -> Figures:
    full = folder / "full"
    full.mkdir(mode=0o700)
    asyncio.run(_seed_agreements(full))
    figures = Figures()
    for what, seeded in (("empty store", None), (f"{AGREEMENTS:,} agreements", full)):
        walls, processors = [], []
        for number in range(STARTS):
            datadir = folder / f"{what[:5]}{number}"
            if seeded is None:
                datadir.mkdir(mode=0o700)
            else:
                shutil.copytree(seeded, datadir)
            wall_s, cpu_s = _start(datadir)
            walls.append(wall_s)
            processors.append(cpu_s)
        figures[f"node start to REST answering, {what} [s]"] = statistics.median(walls)
        figures[f"… its processor time, {what} [s]"] = statistics.median(processors)
    return figures


async def _seed_agreements(datadir: Path) -> None:
    world = World()
    store = await open_store(datadir / DATABASE_FILE, world=world)
    now_ns = world.clock.wall_ns()
    for first in range(0, AGREEMENTS, ROWS_AT_ONCE):
        async with store.unit("seed") as unit:
            for number in range(first, first + ROWS_AT_ONCE):
                save_agreement(unit, _an_agreement(number, now_ns))
    await store.close()


def _an_agreement(number: int, now_ns: int) -> AgreementRow:
    us, them = NodeId("0x" + "a" * 40), NodeId(f"0x{number % 50 + 1:040x}")
    offer, demand = an_offer(number, now_ns), flat_text(market_pair.DEMAND)
    row = AgreementRow(
        agreement_id=f"{number:064x}",  # type: ignore[arg-type]
        role=Role.REQUESTOR,
        identity=us,
        requestor=us,
        provider=them,
        recipient=us,
        acceptor=us,
        payer=us,
        state=AgreementState.TERMINATED,
        is_sent=True,
        proposal_id=f"R-{number:064x}",  # type: ignore[arg-type]
        offer_id=offer.subscription_id,
        demand_id=offer.subscription_id,
        offer_properties=offer.properties,
        offer_constraints=offer.constraints,
        demand_properties=demand,
        demand_constraints=market_pair.DEMAND_CONSTRAINTS,
        created_ns=now_ns,
        valid_to_ns=now_ns + 3600 * NS_PER_S,
        approved_ns=now_ns,
        app_session_id=None,
        proposed_signature=None,
        approved_signature=None,
        committed_signature=None,
        platform=None,
        payee_address=None,
        payer_address=None,
        pricing_model=None,
        pricing_coeffs=None,
        usage_vector=None,
        expires_ns=now_ns + 3600 * NS_PER_S,
    )
    return replace(row, state=AgreementState.APPROVED) if number < IN_FORCE else row


def _start(datadir: Path) -> tuple[float, float]:
    """Start a node process; return the seconds until REST answers, and its processor time."""
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("YA")} | {
        "YAGNA_DATADIR": str(datadir),
        "YAGNA_API_URL": f"http://127.0.0.1:{port}",
        "GSB_URL": f"unix:{datadir}/gsb.sock",
        "YA_NET_BIND_URL": "udp://127.0.0.1:0",
        "YA_NET_RELAY_HOST": "127.0.0.1:9",
        "YAGNA_AUTOCONF_APPKEY": KEY,
    }
    command = [str(Path(sys.executable).with_name("shem")), "node", "run"]
    begun = time.perf_counter()
    node = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _answers(f"http://127.0.0.1:{port}/me")
        wall_s = time.perf_counter() - begun
        times = psutil.Process(node.pid).cpu_times()
        return wall_s, times.user + times.system
    finally:
        node.kill()
        node.wait()


def _answers(url: str) -> None:
    opener = build_opener(ProxyHandler({}))
    request = Request(url, headers={"Authorization": f"Bearer {KEY}"})
    give_up = time.perf_counter() + PATIENCE_S
    while time.perf_counter() < give_up:
        try:
            opener.open(request, timeout=1).read()
            return
        except (URLError, OSError):
            time.sleep(0.005)
    raise TimeoutError(f"no answer from {url}")
