"""A requestor's node comes back after a day: how soon does it know what it missed?

`python -m tests.bench.resync_figures [ACTIVITIES [RESULTS]]` (1,000 and 100,000), one process on
the in-memory net: the requestor's activity part with its real store, ten providers that answer from
prepared bytes. Told: seconds from the mended link to the last result and state, the longest stall
of the event loop, what interactive calls took meanwhile, memory, and the order of the questions.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from shem.activity.batches import BatchState
from shem.activity.ledger import Batch, save_batch
from shem.activity.messages import FEATURES
from shem.activity.records import Activity, Role, save_activity
from shem.activity.service import ActivityService
from shem.activity.states import ActivityState, State
from shem.bus.features import Features
from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.bus.types import Call
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import NotFound
from shem.kernel.ids import ActivityId, AgreementId, BatchId, NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.net.memory import MemoryFabric
from shem.store.open import open_store
from shem.store.outbox import Outbox
from shem.store.unit import Store
from shem.wire.flexbuffers import dumps_reply_ok

REQUESTOR = NodeId("0x" + "a" * 40)
PROVIDERS = [NodeId(f"0x{number:040x}") for number in range(1, 11)]
LIMIT_S = 120.0
STALL_STEP_S = 0.005
INTERACTIVE_STEP_S = 0.05


@dataclass(frozen=True)
class Row:
    agreement_id: str
    identity: NodeId
    requestor: NodeId
    provider: NodeId
    state: str = "Approved"
    app_session_id: str | None = None
    demand_properties: str = "{}"
    offer_properties: str = "{}"


class Market:
    """Every agreement is in force."""

    async def agreement(self, agreement_id: str, role: str | None = None) -> Row:
        del role
        return Row(agreement_id, REQUESTOR, REQUESTOR, provider_of(int(agreement_id, 16)))

    async def ending_of(self, agreement_id: str, role: str) -> None:
        del agreement_id, role

    async def take_up(self, who: Any, agreement_id: str, provider: NodeId) -> Row:
        raise NotFound(agreement_id)

    def on_agreement_end(self, fn: Any) -> None:
        del fn


def provider_of(number: int) -> NodeId:
    return PROVIDERS[number % len(PROVIDERS)]


@dataclass
class Provider:
    """Answers from prepared bytes, and notes in which order it is asked for results."""

    results: bytes
    order: list[int]
    state: bytes = field(
        default_factory=lambda: dumps_reply_ok({"state": ["Ready", None], "reason": "seen"})
    )
    nothing_more: bytes = field(default_factory=lambda: dumps_reply_ok({"batches": [], "total": 1}))
    usage: bytes = field(
        default_factory=lambda: dumps_reply_ok({"currentUsage": [1.0, 2.0], "timestamp": 1})
    )

    async def exe_unit(self, call: Call) -> bytes:
        _, _, _, activity_id, message = call.address.split("/")
        if message == "ListBatches":  # it asks for those after the one that it knows
            return self.nothing_more
        self.order.append(int(activity_id, 16))
        return self.results

    async def states(self, _call: Call) -> bytes:
        return self.state

    async def usages(self, _call: Call) -> bytes:
        return self.usage


def a_result(index: int, last: int) -> dict[str, object]:
    return {
        "index": index,
        "eventDate": "2026-11-23T20:09:01.990004Z",
        "result": "Ok",
        "stdout": f"frame {index:3} of {last + 1} width 0.0153044 crc32 50bbaf24\n",
        "stderr": None,
        "message": None,
        "isBatchFinished": index == last,
    }


async def seed(store: Store, activities: int, commands: int, born_ns: int) -> None:
    """Write the records of activities that were left running a day ago, a batch each."""
    script = "[" + ",".join(['{"run":{"entry_point":"x"}}'] * commands) + "]"
    for number in range(activities):
        name, agreement = ActivityId(f"{number:032x}"), AgreementId(f"{number:064x}")
        async with store.unit(name) as unit:
            activity = Activity(
                activity_id=name,
                role=Role.REQUESTOR,
                identity=REQUESTOR,
                agreement_id=agreement,
                requestor=REQUESTOR,
                provider=provider_of(number),
                app_session_id=None,
                intent_id=name,
                state=ActivityState(State.READY),
                before=None,
                usage=None,
                usage_ns=born_ns,
                destroy_ns=None,
                created_ns=born_ns + number,
            )
            save_activity(unit, activity)
            batch = Batch(
                activity_id=name,
                batch_id=BatchId(name),
                identity=REQUESTOR,
                agreement_id=agreement,
                state=BatchState.ACCEPTED,
                digest="d",
                commands=commands,
                stored=0,
                failed=False,
                finished=False,
                message=None,
                created_ns=born_ns + number,
            )
            save_batch(unit, batch, script)


async def providers(
    stack: AsyncExitStack, fabric: MemoryFabric, world: World, commands: int
) -> list[int]:
    order: list[int] = []
    reply = dumps_reply_ok([a_result(index, commands - 1) for index in range(commands)])
    for node_id in PROVIDERS:
        provider, bus = Provider(reply, order), Bus()
        net = fabric.node(node_id)
        remote = RemoteBus(bus, net, (node_id,), rng=world.rng)
        Features(bus, net, FEATURES, clock=world.clock)
        bus.bind("/public/exeunit", provider.exe_unit)
        bus.bind("/public/activity/GetActivityState", provider.states)
        bus.bind("/public/activity/GetActivityUsage", provider.usages)
        await stack.enter_async_context(remote)
        await stack.enter_async_context(net)
    return order


async def watch_stalls(stalls: list[float]) -> None:
    while True:
        started = time.perf_counter()
        await asyncio.sleep(STALL_STEP_S)
        stalls.append(time.perf_counter() - started - STALL_STEP_S)


async def interact(service: ActivityService, taken: list[float], activities: int) -> None:
    """Be a program that polls results and state of the youngest activity, which is last in line."""
    caller = Caller(REQUESTOR, Assurance.LOCAL)
    youngest = f"{activities - 1:032x}"
    while True:
        started = time.perf_counter()
        await service.results(caller, youngest, youngest, timeout_s=0, command_index=None)
        await service.state(caller, youngest, 5)
        taken.append(time.perf_counter() - started)
        await asyncio.sleep(INTERACTIVE_STEP_S)


async def until_known(store: Store) -> None:
    """Wait until every batch is finished and every state was heard."""
    while True:
        (batches,) = await store.fetch(
            "SELECT count(*) AS many FROM activity_batch WHERE finished = 0 LIMIT 1"
        )
        (states,) = await store.fetch(
            "SELECT count(*) AS many FROM activity WHERE reason IS NULL OR usage_vector IS NULL"
            " LIMIT 1"
        )
        if batches["many"] == states["many"] == 0:
            return
        await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    results: int
    seconds: float
    cpu_s: float
    stalls: list[float]
    taken: list[float]
    waiting_bytes: int
    working_bytes: int
    late: int


async def measure(directory: Path, activities: int, results: int) -> Figures:
    """Catch up with so many results of so many activities."""
    world, fabric = World(), MemoryFabric()
    commands = results // activities
    async with AsyncExitStack() as stack:
        store = await open_store(directory / "node.db", world=world)
        stack.push_async_callback(store.close)
        day_ns = 24 * 3600 * 10**9
        await seed(store, activities, commands, world.clock.wall_ns() - day_ns)
        order = await providers(stack, fabric, world, commands)
        for node_id in PROVIDERS:
            fabric.cut(REQUESTOR, node_id)

        bus, net = Bus(), fabric.node(REQUESTOR)
        remote = RemoteBus(bus, net, (REQUESTOR,), rng=world.rng)
        features = Features(bus, net, FEATURES, clock=world.clock)
        outbox = Outbox(store, world)
        service = ActivityService(
            store=store,
            bus=bus,
            outbox=outbox,
            market=Market(),
            features=features.features,
            world=world,
        )
        net.on_peer_up(service.peer_alive)
        net.on_lost(lambda peer, _channel: service.peer_lost(peer))
        process = psutil.Process()
        before = process.memory_info().rss
        for part in (net, remote, service):
            await stack.enter_async_context(part)
        await asyncio.sleep(3)
        waiting = process.memory_info().rss

        scope = await stack.enter_async_context(TaskScope())
        stalls: list[float] = []
        taken: list[float] = []
        scope.spawn(watch_stalls(stalls), "stalls")
        started, cpu = time.perf_counter(), sum(process.cpu_times()[:2])
        for node_id in PROVIDERS:
            fabric.join(REQUESTOR, node_id)
        scope.spawn(interact(service, taken, activities), "interactive")
        async with asyncio.timeout(LIMIT_S):
            await until_known(store)
        seconds = time.perf_counter() - started
        cpu_s = sum(process.cpu_times()[:2]) - cpu
        peak = process.memory_info().rss

    late = max(
        lateness([number for number in order if provider_of(number) == node_id])
        for node_id in PROVIDERS
    )
    return Figures(
        activities * commands,
        seconds,
        cpu_s,
        stalls,
        taken,
        waiting - before,
        peak - waiting,
        late,
    )


def tell(found: Figures, activities: int) -> None:
    seconds, taken = found.seconds, found.taken
    show("activities, missed results", f"{activities:,}, {found.results:,}")
    show("consistent after the link was mended", f"{seconds:.1f} s ({found.cpu_s:.1f} s of CPU)")
    show("results a second", f"{found.results / seconds:,.0f}")
    show("longest stall of the event loop", f"{max(found.stalls) * 1e3:.0f} ms")
    show(
        "an interactive poll of results and state meanwhile",
        f"median {statistics.median(taken) * 1e3:.0f} ms, longest {max(taken) * 1e3:.0f} ms",
    )
    waits, works = (size >> 20 for size in (found.waiting_bytes, found.working_bytes))
    show("memory while away, and more while catching up", f"{waits} MiB, {works} MiB")
    late = f"at most {found.late} places after its turn"
    show("oldest first: a provider is asked for a batch", late)


def lateness(order: list[int]) -> int:
    """Return by how many places a provider was asked too late for a batch, at most."""
    asked = list(dict.fromkeys(order))
    place_by_age = {number: place for place, number in enumerate(sorted(asked))}
    return max(place - place_by_age[number] for place, number in enumerate(asked))


def show(what: str, figure: str) -> None:
    print(f"{what:52} {figure}", flush=True)  # noqa: T201


def main() -> None:
    activities = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    results = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    with tempfile.TemporaryDirectory() as directory:
        tell(asyncio.run(measure(Path(directory), activities, results)), activities)


if __name__ == "__main__":
    main()
