"""Measure our nodes and real yagnas in the same run, and print medians and ratios.

Both pairs register at the same relay of ours and run our provider agent and ExeUnit, so that what
differs is the node. The run happens in a network namespace with only loopback when it can (root);
otherwise our own figures come alone.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import shem
from shem.devnet.compose import SUBNET, Devnet, Program
from shem.rest.client import RestClient
from tests.bench.isolation import enter_loopback_namespace
from tests.dialogue import Agents
from tests.interop.real_yagna import RealYagna

NEGOTIATIONS = 15
CREATES = 5
EXECS = 60
IDLE_S = 2.0

Figures = dict[str, list[float]]


@dataclass
class Pair:
    """A requestor node, a provider node with our agent, and what was measured."""

    name: str
    requestor: tuple[str, str]
    provider: tuple[str, str]
    figures: Figures = field(default_factory=dict)

    def note(self, what: str, value: float) -> None:
        self.figures.setdefault(what, []).append(value)


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


def show(ours: Pair, theirs: Pair | None) -> None:
    width = max(map(len, ours.figures))
    print(f"\n{'median of n':<{width}}  {'shem':>9}  {'yagna':>9}  {'ratio':>6}   n")  # noqa: T201
    for what, values in sorted(ours.figures.items()):
        mine = statistics.median(values)
        other = theirs.figures.get(what) if theirs else None
        line = f"{what:<{width}}  {mine:9.2f}"
        if other:
            median = statistics.median(other)
            line += f"  {median:9.2f}  {mine / median:6.2f}"
        else:
            line += f"  {'':>9}  {'':>6}"
        print(f"{line}   {len(values)}")  # noqa: T201


async def run(isolated: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="shem-bench-") as directory:
        async with Devnet(Path(directory)) as net, AsyncExitStack() as stack:
            ours = await bench_ours(net)
            await exe_unit_figures(net, ours)
            theirs = await bench_yagna(net, stack) if isolated else None
            show(ours, theirs)


def main() -> None:
    isolated = enter_loopback_namespace()
    if not isolated:
        print("not root: the real yagna is left out, since it needs a namespace of its own")  # noqa: T201
    asyncio.run(run(isolated))


main()
