"""The outbox against a model: at least once, in order per lane, nothing lost by a restart."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from shem.kernel.errors import Unreachable
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng, World
from shem.store.committer import InlineCommitter
from shem.store.lane import BACKOFF_MAX_S, JITTER
from shem.store.outbox import DONE, Outbox, OutboxRow, Outcome, Retry
from shem.store.sqlite import SqliteStore
from tests.sim.virtual_time import VirtualClock, run_virtually

US = NodeId("0x" + "0" * 40)
PEERS = [NodeId("0x" + digit * 40) for digit in "12"]
LANES = ["agreement", "acl"]
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
# All waits that may lie between a healed world and an empty outbox.
DRAINED_S = 4 * BACKOFF_MAX_S * (1 + JITTER)


@dataclass
class Harness:
    """One node with its outbox, and peers that fail as they are told to."""

    folder: Path
    rng: SeededRng
    down: set[NodeId] = field(default_factory=set)
    lossy: set[NodeId] = field(default_factory=set)
    posted: dict[tuple[NodeId, str], list[int]] = field(default_factory=dict)
    received: dict[tuple[NodeId, str], list[int]] = field(default_factory=dict)
    count: int = 0

    async def start(self) -> None:
        self.world = World(clock=VirtualClock(), rng=self.rng)
        committer = InlineCommitter(lambda: self.rng.unit() / 100)
        self.store = SqliteStore(self.folder / "shem.db", self.world, committer=committer)
        await self.store.open()
        self.outbox = Outbox(self.store, self.world)
        self.outbox.register("test", self.deliver)
        self.task = asyncio.create_task(self.outbox.run())

    async def stop(self) -> None:
        """Stop at once, whatever is under way: what is in flight is never recorded."""
        self.task.cancel()
        await asyncio.wait((self.task,))
        await self.store.close()

    async def deliver(self, row: OutboxRow) -> Outcome:
        await asyncio.sleep(self.rng.unit())
        if row.peer in self.down:
            raise Unreachable("no way there")
        self.received.setdefault((row.peer, row.lane), []).append(row.payload["number"])
        await asyncio.sleep(self.rng.unit())
        if row.peer in self.lossy and self.rng.below(2):
            return Retry("the answer was lost")
        if row.peer in self.lossy and self.rng.below(4) == 0:
            raise ZeroDivisionError
        return DONE

    async def post(self, peer: NodeId, lane: str) -> None:
        self.count += 1
        async with self.store.unit(lane) as unit:
            for _ in range(2):
                unit.post(
                    identity=US,
                    peer=peer,
                    lane=lane,
                    kind="test",
                    key=str(self.count),
                    payload={"number": self.count},
                )
        self.posted.setdefault((peer, lane), []).append(self.count)


Step = Callable[[Harness], Awaitable[None]]


def post(peer: NodeId, lane: str) -> Step:
    return lambda harness: harness.post(peer, lane)


def pass_time(seconds: float) -> Step:
    return lambda _: asyncio.sleep(seconds)


def mark(which: str, peer: NodeId, on: bool) -> Step:
    async def step(harness: Harness) -> None:
        peers: set[NodeId] = getattr(harness, which)
        (peers.add if on else peers.discard)(peer)

    return step


def sign_of_life(peer: NodeId) -> Step:
    async def step(harness: Harness) -> None:
        harness.outbox.peer_alive(peer)

    return step


async def restart(harness: Harness) -> None:
    await harness.stop()
    await harness.start()


peers = st.sampled_from(PEERS)
steps = st.one_of(
    st.builds(post, peers, st.sampled_from(LANES)),
    st.builds(post, peers, st.sampled_from(LANES)),
    st.builds(pass_time, st.floats(0, 100)),
    st.builds(pass_time, st.floats(0, 2)),
    st.builds(mark, st.sampled_from(["down", "lossy"]), peers, st.booleans()),
    st.builds(sign_of_life, peers),
    st.just(restart),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=30), st.integers(0, 2**32))
def test_everything_arrives_in_the_order_of_its_lane(plan: list[Step], seed: int) -> None:
    async def scenario(folder: Path) -> None:
        harness = Harness(folder, SeededRng(seed))
        await harness.start()
        for step in plan:
            await step(harness)

        harness.down.clear()
        harness.lossy.clear()
        await asyncio.sleep(DRAINED_S)
        left = await harness.outbox.pending()
        await harness.stop()

        assert left == []
        assert harness.received.keys() == harness.posted.keys()
        for lane, numbers in harness.posted.items():
            arrived = harness.received[lane]
            assert arrived == sorted(arrived), f"{lane} went back: {arrived}"
            assert sorted(set(arrived)) == numbers

    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        run_virtually(scenario(Path(folder)))
