"""Measure our nodes and real yagnas in the same run, and print medians and ratios.

`python -m tests.bench [codec|node|relay|net|deals …]`; all take three to four minutes. In `deals`
both pairs register at the same relay of ours and run our provider agent and ExeUnit, so that what
differs is the node. The run happens in a network namespace with only loopback when it can (root);
otherwise our own figures come alone.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import psutil

import shem
from shem.devnet.compose import SUBNET, Devnet, Program
from shem.rest.client import RestClient
from tests.bench.codec_figures import measure_codec
from tests.bench.isolation import enter_loopback_namespace
from tests.bench.net_figures import measure_net
from tests.bench.node_figures import measure_node
from tests.bench.pair import Figures, Pair, show, show_one
from tests.bench.relay_figures import measure_relay
from tests.dialogue import Agents
from tests.interop.real_yagna import RealYagna

NEGOTIATIONS = 15
CREATES = 5
EXECS = 60
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
        for _ in range(EXECS):
            started = time.perf_counter()
            await requestor.identity.me()
            pair.note("GET /me [ms]", (time.perf_counter() - started) * 1e3)


async def measure_activity(pair: Pair, package: shem.WasmPackage) -> None:
    url, key = pair.requestor
    async with shem.Golem(app="bench", api_url=url, app_key=key, subnet=SUBNET) as golem:
        started = time.perf_counter()
        activity = await golem.rent(package)
        pair.note("rent: demand to a running payload [s]", time.perf_counter() - started)
        async with RestClient(url, key) as rest:
            for _ in range(EXECS):
                await _one_exec(pair, rest, activity.id)
            await rest.activity.destroy(activity.id)
            for _ in range(CREATES):
                await _one_life(pair, rest, activity.agreement.id)
        await activity.agreement.terminate("measured")


async def _one_life(pair: Pair, rest: RestClient, agreement_id: str) -> None:
    started = time.perf_counter()
    activity_id = await rest.activity.create(agreement_id, timeout_s=60)
    created = time.perf_counter()
    await rest.activity.destroy(activity_id, timeout_s=60)
    pair.note("create activity, ExeUnit start included [s]", created - started)
    pair.note("destroy activity [s]", time.perf_counter() - created)


async def _one_exec(pair: Pair, rest: RestClient, activity_id: str) -> None:
    """The smallest batch there is: what it costs is the way there and back."""
    started = time.perf_counter()
    batch = await rest.activity.exec(activity_id, "[]")
    accepted = time.perf_counter()
    await rest.activity.results(activity_id, batch, timeout_s=5)
    pair.note("exec accepted [ms]", (accepted - started) * 1e3)
    pair.note("exec and results [ms]", (time.perf_counter() - started) * 1e3)


def resident_mib(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / (1 << 20)


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
    await measure_activity(ours, net.package)
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
    provider = nodes[1]
    agent = _agent_on(net, provider)
    stack.push_async_callback(agent.stop)
    await agent.start()
    await measure_activity(theirs, net.package)
    return theirs


def _agent_on(net: Devnet, node: RealYagna) -> Program:
    directory = net.directory / "yagna-agent"
    env = {
        **net.agent.env,
        "YAGNA_API_URL": node.api_url,
        "YAGNA_APPKEY": node.app_key,
        "GSB_URL": node.gsb_url,
        "DATA_DIR": str(directory / "data"),
    }

    async def ready() -> bool:
        async with RestClient(node.api_url, node.app_key) as rest:
            return bool(await rest.market.offers.mine())

    return Program("yagna-agent", ("provider", "run"), directory, env, net.world, ready)


async def exe_unit_figures(net: Devnet, pair: Pair) -> None:
    """What one activity costs in processes: start and memory."""
    url, key = pair.requestor
    golem = shem.Golem(app="bench", api_url=url, app_key=key, subnet=SUBNET)
    async with golem, golem.rent(net.package) as activity:
        await activity.run("mandel", "render", "--rows", "4", "--cols", "8")
        for pid in net.exe_units():
            pair.note("resident memory, ExeUnit [MiB]", resident_mib(pid))
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("shem")),
        "exe-unit",
        "offer-template",
        stdout=asyncio.subprocess.DEVNULL,
    )
    await process.wait()
    pair.note("ExeUnit process start, to its template [s]", time.perf_counter() - started)


async def measure_deals(*, with_yagna: bool) -> tuple[Figures, Figures | None]:
    with tempfile.TemporaryDirectory(prefix="shem-bench-") as directory:
        async with Devnet(Path(directory)) as net, AsyncExitStack() as stack:
            ours = await bench_ours(net)
            await exe_unit_figures(net, ours)
            theirs = await bench_yagna(net, stack) if with_yagna else None
            return ours.figures, theirs.figures if theirs else None


def main() -> None:
    sections = sys.argv[1:] or list(SECTIONS)
    if unknown := set(sections) - set(SECTIONS):
        sys.exit(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
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
    "deals": lambda with_yagna: show(*asyncio.run(measure_deals(with_yagna=with_yagna))),
}

main()
