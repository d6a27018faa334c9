"""Activities: create, exec, destroy, transfers and a daemon's return, beside two real yagnas.

Both pairs register at the same relay of ours, and both providers run our agent and ExeUnit, so that
what differs is the nodes. Files go by our `gftp` at the requestor's bus.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET, Program
from shem.kernel.errors import ShemError
from shem.rest.client import RestClient
from tests.bench.pair import Figures, Pair, note_memory
from tests.interop.real_yagna import RealYagna

CREATES = 6
EXECS = 100
FILES = 3
RESTARTS = 3
SMALL = 1_000_000
LARGE = 1_000_000_000
RETRY_S = 0.01
LIMIT_S = 60.0
LARGE_LIMIT_S = 1_800.0


@dataclass
class Side:
    """The requestor's node of a pair, which can be killed and started again."""

    pair: Pair
    agent: Program
    gsb_url: str
    kill: Callable[[], Awaitable[object]]
    start: Callable[[], Awaitable[object]]

    def golem(self) -> shem.Golem:
        url, key = self.pair.requestor
        return shem.Golem("bench", api_url=url, app_key=key, gsb_url=self.gsb_url, subnet=SUBNET)

    def rest(self) -> RestClient:
        return RestClient(*self.pair.requestor)


@asynccontextmanager
async def sides(*, with_yagna: bool) -> AsyncIterator[list[tuple[Side, Devnet]]]:
    """Run a devnet, and two yagnas with an agent at its relay."""
    with tempfile.TemporaryDirectory(prefix="shem-bench-", dir="/tmp") as directory:
        async with Devnet(Path(directory)) as net, AsyncExitStack() as stack:
            found = [(our_side(net), net)]
            if with_yagna:
                found.append((await yagna_side(net, stack), net))
            yield found


def our_side(net: Devnet) -> Side:
    node, provider = net.requestor, net.provider
    pair = Pair("shem", (node.api_url, node.app_key), (provider.api_url, provider.app_key))
    return Side(pair, net.agent, node.gsb_url, node.kill, node.start)


async def yagna_side(net: Devnet, stack: AsyncExitStack) -> Side:
    nodes = [
        RealYagna(net.directory / f"yagna-{name}", net.relay_address)
        for name in ("requestor", "provider")
    ]
    for node in nodes:
        stack.push_async_callback(node.stop)
        await node.start()
    agent = agent_on(net, nodes[1])
    stack.push_async_callback(agent.stop)
    await agent.start()
    pair = Pair("yagna", *((node.api_url, node.app_key) for node in nodes))
    return Side(pair, agent, nodes[0].gsb_url, nodes[0].kill, nodes[0].start)


def agent_on(net: Devnet, node: RealYagna) -> Program:
    """Return our provider agent at a yagna; its runtimes are those of the devnet."""
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

    arguments = ("provider", "run")
    return Program("yagna-agent", arguments, directory, env, net.world, net.agent.place, ready)


async def measure_activities(*, with_yagna: bool) -> tuple[Figures, Figures | None]:
    async with sides(with_yagna=with_yagna) as found:
        for side, net in found:
            await _measure(side, net)
        figures = [side.pair.figures for side, _ in found]
    return figures[0], figures[1] if with_yagna else None


async def measure_large(*, with_yagna: bool) -> tuple[Figures, Figures | None]:
    """Move a gigabyte there and back; by hand, since it takes minutes."""
    async with sides(with_yagna=with_yagna) as found:
        for side, net in found:
            async with side.golem() as golem, golem.rent(net.package) as activity:
                await _transfer(side, activity, net.directory, LARGE, "1 GB")
        figures = [side.pair.figures for side, _ in found]
    return figures[0], figures[1] if with_yagna else None


async def _measure(side: Side, net: Devnet) -> None:
    pair = side.pair
    async with side.golem() as golem:
        begun = time.perf_counter()
        activity = await golem.rent(net.package)
        pair.note("rent: demand to a running payload [s]", time.perf_counter() - begun)
        async with side.rest() as rest:
            for _ in range(EXECS):
                await _one_exec(pair, rest, activity.id)
        note_memory(pair, [psutil.Process(pid) for pid in net.exe_units()], "ExeUnit")
        for _ in range(FILES):
            await _transfer(side, activity, net.directory, SMALL, "1 MB")
        for _ in range(RESTARTS):
            await _restart(side, activity.id)
        async with side.rest() as rest:
            await rest.activity.destroy(activity.id, timeout_s=60)
            agreement_id = activity.agreement.id
            for _ in range(CREATES):
                await _one_life(pair, rest, agreement_id, "one after another")
            for _ in range(RESTARTS):
                await side.agent.stop()
                await side.agent.start()
                await _one_life(pair, rest, agreement_id, "right after the agent's start")
            await _without_nursery(side.agent)
            for _ in range(CREATES):
                await _one_life(pair, rest, agreement_id, "without a nursery")
        await activity.agreement.terminate("measured")


async def _one_exec(pair: Pair, rest: RestClient, activity_id: str) -> None:
    """The smallest batch there is: what it costs is the way there and back."""
    begun = time.perf_counter()
    batch = await rest.activity.exec(activity_id, "[]")
    accepted = time.perf_counter()
    await rest.activity.results(activity_id, batch, timeout_s=5)
    pair.note("exec accepted [ms]", (accepted - begun) * 1e3)
    pair.note("exec and results [ms]", (time.perf_counter() - begun) * 1e3)


async def _without_nursery(agent: Program) -> None:
    await agent.stop()
    agent.env = {**agent.env, "SHEM_EXE_UNIT_NURSERY": "0"}
    await agent.start()


async def _one_life(pair: Pair, rest: RestClient, agreement_id: str, kind: str) -> None:
    begun = time.perf_counter()
    activity_id = await rest.activity.create(agreement_id, timeout_s=60)
    created = time.perf_counter()
    await rest.activity.destroy(activity_id, timeout_s=60)
    pair.note(f"create activity, {kind} [s]", created - begun)
    pair.note("destroy activity [s]", time.perf_counter() - created)


async def _transfer(
    side: Side, activity: shem.Activity, directory: Path, size: int, what: str
) -> None:
    there, back = directory / "there", directory / "back"
    await asyncio.to_thread(_write, there, size)
    async with asyncio.timeout(LARGE_LIMIT_S):
        begun = time.perf_counter()
        await activity.upload(there, "/work/file")
        uploaded = time.perf_counter()
        await activity.download("/work/file", back)
        downloaded = time.perf_counter()
    assert await asyncio.to_thread(lambda: there.read_bytes() == back.read_bytes())
    side.pair.note(f"upload of {what} [MB/s]", size / 1e6 / (uploaded - begun))
    side.pair.note(f"download of {what} [MB/s]", size / 1e6 / (downloaded - uploaded))


def _write(path: Path, size: int) -> None:
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for offset in range(0, size, len(block)):
            file.write(block[: size - offset])


async def _restart(side: Side, activity_id: str) -> None:
    """Kill the requestor's daemon, start it, and exec at the activity as soon as it can be."""
    await side.kill()
    begun = time.perf_counter()
    starting = asyncio.create_task(_started(side))
    async with asyncio.timeout(LIMIT_S):
        while not await _exec_works(side, activity_id):  # noqa: ASYNC110 - another process starts
            await asyncio.sleep(RETRY_S)
    name = "daemon killed: its start to the first exec's results [s]"
    side.pair.note(name, time.perf_counter() - begun)
    await starting


async def _started(side: Side) -> None:
    await side.start()


async def _exec_works(side: Side, activity_id: str) -> bool:
    try:
        async with side.rest() as rest:
            batch = await rest.activity.exec(activity_id, "[]", timeout_s=2)
            await rest.activity.results(activity_id, batch, timeout_s=2)
            return True
    except ShemError:
        return False


def resident_mib(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / (1 << 20)
