"""A crowd of activities on one provider's node, a batch a minute each.

The ExeUnits are real processes, forked by a nursery (`unit_park`), which run the devnet's program
and report their usage every second. Measured are the provider's node (processor, memory for each
activity, what another caller waits) and the ExeUnits: processor, and the memory that is their own
(USS) or their share of what they have in common (PSS).
"""

import asyncio
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from shem.devnet.processes import sweep
from shem.kernel.errors import ShemError
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.rest.client import RestClient
from tests.bench.net_figures import relay
from tests.bench.pair import Figures, Pair, note_memory
from tests.dialogue import Agents
from tests.interop.daemon import Daemon
from tests.interop.our_node import OurNode
from tests.interop.real_yagna import RealYagna

SETUP = '[{"deploy":{}},{"start":{}}]'
BATCH = (
    '[{"run":{"entry_point":"mandel","args":["note","crowd"],"capture":{"stdout":{"stream":{}}}}}]'
)
PERIOD_S = 60.0
AT_ONCE = 16
PROGRAMS = 16
LOOK_S = 0.02
CREATE_TIMEOUT_S = 60.0
NO_MARK = "none"
"""The ExeUnits are found by their work directories."""


@dataclass(frozen=True)
class Crowd:
    """How many, and for how long."""

    activities: int
    seconds: float


SMALL = Crowd(150, 15)
FULL = Crowd(1_000, 60)


async def measure_crowd(crowd: Crowd, *, with_yagna: bool) -> tuple[Figures, Figures | None]:
    kinds: list[type[Daemon]] = [OurNode, RealYagna] if with_yagna else [OurNode]
    found = [await _measure(kind, crowd) for kind in kinds]
    return found[0], found[1] if with_yagna else None


async def _measure(kind: type[Daemon], crowd: Crowd) -> Figures:
    with tempfile.TemporaryDirectory(prefix="shem-crowd-", dir="/tmp") as name:
        directory = Path(name)
        async with relay("direct") as address, _two(kind, directory, address) as nodes:
            requestor, provider = nodes
            urls = [(node.api_url, node.app_key) for node in nodes]
            pair = Pair(kind.__name__, urls[0], urls[1])
            async with AsyncExitStack() as stack:
                clients = [RestClient(*urls[0]) for _ in range(PROGRAMS)]
                ours = [await stack.enter_async_context(client) for client in clients]
                theirs = await stack.enter_async_context(RestClient(*urls[1]))
                agreement_id = (await Agents(ours[0], theirs, "crowd").negotiate()).agreement_id
                parked = _parked(provider, agreement_id, directory)
                units = await stack.enter_async_context(parked)
                run = _Run(pair, crowd, ours, theirs, agreement_id, units)
                await run.measure(requestor, provider)
    return pair.figures


@asynccontextmanager
async def _two(
    kind: type[Daemon], directory: Path, address: tuple[str, int]
) -> AsyncIterator[list[Daemon]]:
    nodes = [kind(directory / name, address) for name in ("requestor", "provider")]
    try:
        for node in nodes:
            await node.start()
        yield nodes
    finally:
        for node in nodes:
            await node.stop()


@asynccontextmanager
async def _parked(
    provider: Daemon, agreement_id: str, directory: Path
) -> AsyncIterator[psutil.Process]:
    """Run the agent's stand-in; its nursery and all ExeUnits are below that process."""
    units = directory / "units"
    units.mkdir()
    with (directory / "park.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.bench.unit_park",
            agreement_id,
            str(units),
            env={**os.environ, **provider.env, "YAGNA_APPKEY": provider.app_key},
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n", (directory / "park.log").read_text()
        async with TaskScope() as scope:
            scope.spawn(_lives(process, directory / "park.log"), "park")
            yield psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await sweep(NO_MARK, units, World())


async def _lives(process: asyncio.subprocess.Process, log: Path) -> None:
    code = await process.wait()
    said = await asyncio.to_thread(log.read_text)
    raise AssertionError(f"the ExeUnits ended with {code}: {said[-3000:]}")


@dataclass
class _Run:
    """One measurement at one pair of nodes."""

    pair: Pair
    crowd: Crowd
    requestors: list[RestClient]
    provider: RestClient
    agreement_id: str
    park: psutil.Process
    activities: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    failed: int = 0
    _turn: int = 0

    async def measure(self, requestor: Daemon, provider: Daemon) -> None:
        processes = {"requestor": _process(requestor), "provider": _process(provider)}
        empty = {name: process.memory_info().rss for name, process in processes.items()}
        begun = time.perf_counter()
        await self._each(self._create)
        took = time.perf_counter() - begun
        note, count = self.pair.note, self.crowd.activities
        note(f"crowd: {count} creates and starts, {AT_ONCE} at once [a second]", count / took)
        all_of = {name: [process] for name, process in processes.items()}
        all_of["all ExeUnits"] = self.park.children(recursive=True)
        cpu = {name: _cpu_s(found) for name, found in all_of.items()}
        begun = time.perf_counter()
        async with TaskScope() as scope:
            scope.spawn(self._look(), "looks")
            await self._batches()
        took = time.perf_counter() - begun
        for name, found in all_of.items():
            busy = (_cpu_s(found) - cpu[name]) / took * 100
            note(f"crowd: processor of {name}, % of a core", busy)
        for name, process in processes.items():
            each = (process.memory_info().rss - empty[name]) / count / 1024
            note(f"crowd: {name}'s memory for each activity [KiB]", each)
        note_memory(self.pair, all_of["all ExeUnits"], "crowd: ExeUnit")
        note("crowd: calls without an answer in time", self.failed)
        note("crowd: a batch to its results, median [ms]", statistics.median(self.late) * 1e3)
        note("crowd: a batch to its results, longest [ms]", max(self.late) * 1e3)
        note("crowd: another caller waits at the provider, median [ms]", _median_ms(self.looks))
        note("crowd: another caller waits at the provider, longest [ms]", max(self.looks) * 1e3)

    async def _each(self, work: Callable[[], Awaitable[None]]) -> None:
        numbers = iter(range(self.crowd.activities))

        async def worker() -> None:
            for _ in numbers:
                await self._or_failed(work())

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(worker())

    async def _or_failed(self, work: Awaitable[None]) -> None:
        """On a machine that is too busy some calls get no answer: they are counted."""
        try:
            await work
        except ShemError:
            self.failed += 1

    async def _create(self) -> None:
        activity = self._requestor().activity
        intent_id = secrets.token_hex(16)  # without one, creates at the same time are one create
        name = await activity.create(
            self.agreement_id, intent_id=intent_id, timeout_s=CREATE_TIMEOUT_S
        )
        batch = await activity.exec(name, SETUP, timeout_s=CREATE_TIMEOUT_S)
        await self._finished(name, batch)
        self.activities.append(name)

    async def _batches(self) -> None:
        """Send every activity its batch when it is due, and await the results."""
        gap_s = PERIOD_S / self.crowd.activities
        due = time.perf_counter()
        end = due + self.crowd.seconds
        number = 0
        async with asyncio.TaskGroup() as group:
            while due < end:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due_one = self._batch(self.activities[number % len(self.activities)])
                group.create_task(self._or_failed(due_one))
                number, due = number + 1, due + gap_s

    async def _batch(self, activity_id: str) -> None:
        begun = time.perf_counter()
        batch = await self._requestor().activity.exec(
            activity_id, BATCH, timeout_s=CREATE_TIMEOUT_S
        )
        await self._finished(activity_id, batch)
        self.late.append(time.perf_counter() - begun)

    async def _finished(self, activity_id: str, batch: str) -> None:
        while True:
            results = await self._requestor().activity.results(activity_id, batch, timeout_s=10)
            if results and results[-1].is_batch_finished:
                assert results[-1].result == "Ok", results[-1].message
                return

    def _requestor(self) -> RestClient:
        """Return one of the requestor's programs, each of which makes few calls at a time."""
        self._turn += 1
        return self.requestors[self._turn % len(self.requestors)]

    async def _look(self) -> None:
        while True:
            begun = time.perf_counter()
            await self.provider.identity.me()
            self.looks.append(time.perf_counter() - begun)
            await asyncio.sleep(LOOK_S)


def _process(daemon: Daemon) -> psutil.Process:
    assert daemon.process is not None
    return psutil.Process(daemon.process.pid)


def _cpu_s(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return float(sum(each.user + each.system for each in times))


def _median_ms(values: list[float]) -> float:
    return statistics.median(values) * 1e3
