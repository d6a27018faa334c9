"""Measure our nodes and real yagnas in the same run, and print medians and ratios.

`python -m tests.bench [codec|node|relay|net|deals|activities|crowd …]`; all take about six minutes.
By hand, since they take long: `transfer` (a gigabyte there and back) and `crowd-full` (1,000
activities for a minute). In `deals`, `activities` and `transfer` both pairs register at the same
relay of ours and run our provider agent and ExeUnit, so that what differs is the node. The run
happens in a network namespace with only loopback when it can (root); otherwise our own figures come
alone.
"""

import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

import shem
from shem.devnet.compose import Devnet
from shem.rest.client import RestClient
from tests.bench.activity_figures import measure_activities, measure_large, resident_mib
from tests.bench.codec_figures import measure_codec
from tests.bench.crowd_figures import FULL, SMALL, measure_crowd
from tests.bench.isolation import enter_loopback_namespace
from tests.bench.market_figures import measure_market_at_scale
from tests.bench.net_figures import measure_net
from tests.bench.node_figures import measure_node
from tests.bench.pair import Figures, Pair, show, show_one
from tests.bench.relay_figures import measure_relay
from tests.dialogue import Agents
from tests.interop.real_yagna import RealYagna

NEGOTIATIONS = 15
ASKS = 60
IDLE_S = 2.0


async def measure_market(pair: Pair) -> None:
    async with RestClient(*pair.requestor) as requestor, RestClient(*pair.provider) as provider:
        for round_ in range(NEGOTIATIONS):
            agents = Agents(requestor, provider, f"bench-{pair.name}-{round_}")
            done = await agents.negotiate()
            pair.note("offer visible to a remote demand [ms]", done.offer_visible_s * 1e3)
            pair.note("negotiation, first counter to approved [ms]", done.negotiation_s * 1e3)
            await requestor.market.agreements.terminate(done.agreement_id)
            await requestor.market.demands.withdraw(done.demand_id)
            await provider.market.offers.withdraw(done.offer_id)
            if round_ == 2 and done.offer_visible_s > 3:
                break
        for _ in range(ASKS):
            started = time.perf_counter()
            await requestor.identity.me()
            pair.note("GET /me [ms]", (time.perf_counter() - started) * 1e3)


async def rest_answers(url: str, key: str) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                async with RestClient(url, key) as rest:
                    await rest.identity.me()
                    return
            except shem.GolemError:
                await asyncio.sleep(0.02)
            except Exception:
                await asyncio.sleep(0.02)


async def bench_ours(net: Devnet) -> Pair:
    ours = Pair(
        "shem",
        (net.requestor.api_url, net.requestor.app_key),
        (net.provider.api_url, net.provider.app_key),
    )
    for name, child in net.processes().items():
        ours.note(f"resident memory, {name} [MiB]", resident_mib(child.pid))
    await net.requestor.kill()
    begun = time.perf_counter()
    starting = asyncio.create_task(net.requestor.start())
    await rest_answers(*ours.requestor)
    ours.note("daemon start to REST answering [s]", time.perf_counter() - begun)
    await starting
    await measure_market(ours)
    return ours


async def bench_yagna(net: Devnet, stack: AsyncExitStack) -> Pair:
    relay_port = int(net.relay.arguments[3].rpartition(":")[2])
    nodes = [
        RealYagna(net.directory / f"yagna-{name}", ("127.0.0.1", relay_port))
        for name in ("requestor", "provider")
    ]
    theirs = Pair("yagna", *((node.api_url, node.app_key) for node in nodes))
    for node in nodes:
        stack.push_async_callback(node.stop)
        begun = time.perf_counter()
        starting = asyncio.create_task(node.start())
        await rest_answers(node.api_url, node.app_key)
        theirs.note("daemon start to REST answering [s]", time.perf_counter() - begun)
        await starting
    await asyncio.sleep(IDLE_S)
    for name, node in zip(("requestor", "provider"), nodes, strict=True):
        assert node.process is not None
        theirs.note(f"resident memory, {name} [MiB]", resident_mib(node.process.pid))
    await measure_market(theirs)
    return theirs


async def measure_deals(*, with_yagna: bool) -> tuple[Figures, Figures | None]:
    with tempfile.TemporaryDirectory(prefix="shem-bench-") as directory:
        async with Devnet(Path(directory)) as net, AsyncExitStack() as stack:
            ours = await bench_ours(net)
            theirs = await bench_yagna(net, stack) if with_yagna else None
            return ours.figures, theirs.figures if theirs else None


def main() -> None:
    sections = sys.argv[1:] or [name for name in SECTIONS if name not in BY_HAND]
    if unknown := set(sections) - set(SECTIONS):
        sys.exit(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with_yagna = enter_loopback_namespace()
    if not with_yagna:
        print("not root: the real yagna is left out, since it needs a namespace of its own")  # noqa: T201
    for section in sections:
        begun = time.perf_counter()
        SECTIONS[section](with_yagna)
        print(f"({section}: {time.perf_counter() - begun:.0f} s)", flush=True)  # noqa: T201


SECTIONS: dict[str, Callable[[bool], None]] = {
    "codec": lambda _: show(measure_codec(), None),
    "node": lambda _: show_one(measure_node()),
    "relay": lambda _: show_one(measure_relay()),
    "net": lambda with_yagna: show(*asyncio.run(measure_net(with_yagna=with_yagna))),
    "market": lambda _: show_one(measure_market_at_scale()),
    "deals": lambda with_yagna: show(*asyncio.run(measure_deals(with_yagna=with_yagna))),
    "activities": lambda with_yagna: show(*asyncio.run(measure_activities(with_yagna=with_yagna))),
    "transfer": lambda with_yagna: show(*asyncio.run(measure_large(with_yagna=with_yagna))),
    "crowd": lambda with_yagna: show(*asyncio.run(measure_crowd(SMALL, with_yagna=with_yagna))),
    "crowd-full": lambda with_yagna: show(*asyncio.run(measure_crowd(FULL, with_yagna=with_yagna))),
}
BY_HAND = {"transfer", "crowd-full"}

main()
