"""A requestor's node, a provider's node and its agent, each on its host; the program is the test.

    async with rental(net, directory) as site:
        async with site.golem() as golem, golem.rent(site.package) as activity:
            ...

Either daemon may be a real yagna; agent and ExeUnit are ours. What the payload was made to do it
writes to a ledger of its own, which counts executions.
"""

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

import shem
from shem.devnet.internet import Internet
from shem.devnet.processes import MARK_VARIABLE, sweep
from shem.kernel.world import World
from tests.interop.daemon import PASSED_ON, environment
from tests.interop.our_node import SHEM
from tests.netns.slow_payload import SCENE, write_slow_package
from tests.netns.stations import Region, Station, region

SUBNET = "netns"
PATIENCE_S = 90.0
SHELL_S = 60.0
BOTH_OURS = pytest.param("ours", "ours", id="both ours")
YAGNA_PROVIDES = pytest.param("ours", "yagna", id="provider at a real yagna")
YAGNA_ASKS = pytest.param("yagna", "ours", id="requestor at a real yagna")
PAIRS = [BOTH_OURS, YAGNA_PROVIDES]
"""Daemons of requestor and provider."""


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

    async def attach_from_shell(self, ticket: shem.Ticket, *options: str) -> "Told":
        """Run `shem activity attach` on the requestor's host, and read what it tells."""
        path = self.region.directory / "mine.ticket"
        ticket.save(path)
        daemon = self.requestor.daemon
        process = await asyncio.create_subprocess_exec(
            *self.requestor.host.space.enter,
            SHEM,
            *("activity", "attach", str(path), "--json", *options),
            env=environment(PASSED_ON)
            | {"YAGNA_API_URL": daemon.api_url, "YAGNA_APPKEY": daemon.app_key},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(SHELL_S):
            output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return Told([json.loads(line) for line in output.decode().splitlines()])

    async def new_machine(self) -> None:
        """Lose the requestor's machine; put a new one in its place that has nothing but the key."""
        lost = self.requestor
        await lost.daemon.kill()
        self.region.net.cut(lost.host)
        self.requestor = await self.region.station("ours", "new", key=lost.daemon.key)


@dataclass
class Told:
    """What `shem activity attach --json` told."""

    events: list[dict[str, Any]]

    @property
    def report(self) -> dict[str, Any]:
        (found,) = [event for event in self.events if event["event"] == "report"]
        return found

    def indices(self, batch_id: str) -> list[int]:
        """Return the indices of a batch's results, those it found and those it waited for."""
        (batch,) = [row for row in self.report["batches"] if row["batchId"] == batch_id]
        found = [result["index"] for result in batch["results"]]
        waited_for = [event for event in self.events if event["event"] == "result"]
        return found + [event["index"] for event in waited_for if event["batchId"] == batch_id]


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
    return count_frames(ledger, tag, count)


def count_frames(ledger: str, tag: str, count: int) -> list[int]:
    lines = Counter(ledger.splitlines())
    return [
        lines[f"{edge} frame {n} of {count} {tag}"]
        for n in range(1, count + 1)
        for edge in ("begin", "end")
    ]


class Indexed(Protocol):
    """A result of a command, as SDK or REST have it."""

    @property
    def index(self) -> int: ...


class Poller:
    """A program's loop that waits for the results of a batch, whatever happens meanwhile."""

    def __init__(self, results: AsyncIterable[Indexed]) -> None:
        self.indices: list[int] = []
        self._moved = asyncio.Event()
        self._task = asyncio.create_task(self._poll(results))

    async def _poll(self, results: AsyncIterable[Indexed]) -> None:
        async for result in results:
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
    net: Internet, directory: Path, requestor_kind: str = "ours", provider_kind: str = "ours"
) -> AsyncIterator[Site]:
    package = await asyncio.to_thread(write_slow_package, directory)
    async with region(net, directory) as made:
        requestor, provider = await asyncio.gather(
            made.station(requestor_kind, "requestor"), made.station(provider_kind, "provider")
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
