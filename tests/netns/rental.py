"""A requestor's node, a provider's node and its agent, each on its host; the program is the test.

    async with rental(net, directory) as site:
        async with site.golem() as golem, golem.rent(site.package) as activity:
            ...

The provider's daemon may be a real yagna; agent and ExeUnit are ours. What the payload was made to
do it writes to a ledger of its own, which counts executions.
"""

import asyncio
import os
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import shem
from shem.devnet import payload
from shem.devnet.processes import MARK_VARIABLE, sweep
from shem.devnet.program import SCENE
from shem.kernel.world import World
from tests.netns.internet import Internet
from tests.netns.stations import Region, Station, region

SUBNET = "netns"
PATIENCE_S = 90.0


@dataclass
class Site:
    """The daemons, and how a program uses the requestor's."""

    region: Region
    requestor: Station
    provider: Station
    package: shem.WasmPackage

    def golem(self) -> shem.Golem:
        daemon = self.requestor.daemon
        return shem.Golem(
            "netns",
            api_url=daemon.api_url,
            app_key=daemon.app_key,
            subnet=SUBNET,
            network="holesky",
            patience=PATIENCE_S,
        )


def frames(tag: str, count: int) -> list[shem.Run]:
    return [shem.Run("mandel", "zoom", str(n), str(count), tag) for n in range(1, count + 1)]


async def prepare(activity: shem.Activity) -> None:
    """The scenarios' third step: a simple batch, to see that the payload can be talked to."""
    picture = await activity.run("mandel", "render", "40", "12", check=True)
    assert picture.stdout.count("\n") == 12
    await activity.run("mandel", "scene", SCENE, check=True)


async def run_again(activity: shem.Activity) -> float:
    """The scenarios' last step: another simple batch; return the seconds it took."""
    started = time.monotonic()
    picture = await activity.run("mandel", "render", "30", "10", check=True)
    assert picture.stdout.count("\n") == 10
    return time.monotonic() - started


async def executions(activity: shem.Activity, tag: str, count: int) -> list[int]:
    """Return how often each frame was begun, and how often ended, by the payload's own ledger."""
    ledger = (await activity.run("mandel", "ledger", check=True)).stdout
    lines = Counter(ledger.splitlines())
    return [
        lines[f"{edge} frame {n} of {count} {tag}"]
        for n in range(1, count + 1)
        for edge in ("begin", "end")
    ]


class Poller:
    """A program's loop that waits for the results of a batch, whatever happens meanwhile."""

    def __init__(self, batch: shem.Batch) -> None:
        self.indices: list[int] = []
        self._moved = asyncio.Event()
        self._task = asyncio.create_task(self._poll(batch))

    async def _poll(self, batch: shem.Batch) -> None:
        async for result in batch.results():
            assert result.ok, result
            self.indices.append(result.index)
            self._moved.set()

    async def has_read(self, count: int) -> float:
        """Wait for so many results; return the seconds that took."""
        started = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            while len(self.indices) < count:
                self._moved.clear()
                await self._moved.wait()
        return time.monotonic() - started

    async def goes_on(self) -> float:
        """Wait for the next result; return the seconds that took."""
        return await self.has_read(len(self.indices) + 1)

    async def stop(self) -> None:
        """Leave, as a program that goes."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def end(self) -> list[int]:
        """Wait for the last result; return the indices in the order they came."""
        async with asyncio.timeout(PATIENCE_S):
            await self._task
        return self.indices


@asynccontextmanager
async def rental(
    net: Internet, directory: Path, provider_kind: str = "ours"
) -> AsyncIterator[Site]:
    packed = payload.write_package(directory)
    package = shem.WasmPackage.of_file(packed.path, url=packed.path.as_uri())
    async with region(net, directory) as made:
        requestor, provider = await asyncio.gather(
            made.station("ours", "requestor"), made.station(provider_kind, "provider")
        )
        async with agent_at(provider, directory):
            yield Site(made, requestor, provider, package)


@asynccontextmanager
async def agent_at(provider: Station, directory: Path) -> AsyncIterator[None]:
    """Run our agent beside the provider's daemon; nothing of it is left afterwards."""
    mark = secrets.token_hex(8)
    home = directory / "agent"
    env = {
        **os.environ,
        "YAGNA_API_URL": provider.daemon.api_url,
        "YAGNA_APPKEY": provider.daemon.app_key,
        "GSB_URL": provider.daemon.gsb_url,
        "DATA_DIR": str(home),
        "NODE_NAME": "netns-provider",
        "SUBNET": SUBNET,
        "SHEM_IMAGE_DIRS": str(directory),
        MARK_VARIABLE: mark,
    }
    log_path = directory / "agent.log"
    with log_path.open("ab") as log:
        agent = await asyncio.create_subprocess_exec(
            *provider.host.space.enter,
            Path(sys.executable).with_name("shem"),
            *("provider", "run"),
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    except BaseException:
        print(f"--- agent\n{log_path.read_text()[-6000:]}")  # noqa: T201
        raise
    finally:
        if agent.returncode is None:
            agent.send_signal(signal.SIGTERM)
        await agent.wait()
        await sweep(mark, home, World())
