"""Random losses, outages, restarts: nothing runs twice, is lied about, or is lost."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from shem.kernel.errors import ShemError
from shem.kernel.ids import BatchId
from shem.wire.gsb import CallReply, CallRequest
from tests.sim.activity_town import THREE, Town
from tests.sim.virtual_time import run_virtually

STEPS = 25
BATCHES = [BatchId(f"{number:032x}") for number in range(1, 7)]


class Storm:
    """Does random things to a town, and remembers what was promised."""

    def __init__(self, town: Town, seed: int) -> None:
        self.town = town
        self.rng = random.Random(seed)
        self.accepted: set[str] = set()
        self.told_never: set[str] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    def lossy(self, packet: CallRequest | CallReply, name: str) -> bool:
        return name not in {"CreateActivity", "Hello"} and self.rng.random() < self.loss

    async def run(self) -> None:
        self.loss = 0.0
        self.activity = await self.town.create()
        self.unit = self.town.agent.unit
        self.unit.auto = False
        often = (self.execute, self.execute, self.finish, self.finish, self.ask)
        deeds = (*often, self.outage, self.restart_requestor, self.restart_provider)
        for _ in range(STEPS):
            self.loss = self.rng.choice([0.0, 0.3, 0.9])
            for node in (self.town.requestor, self.town.provider):
                node.net.drops = self.lossy
            await self.rng.choice(deeds)()
            await asyncio.sleep(self.rng.choice([0.0, 0.3, 2.5, 7.0]))
        await self.calm()

    async def execute(self) -> None:
        task = asyncio.create_task(self._execute(self.rng.choice(BATCHES)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _execute(self, batch_id: BatchId) -> None:
        try:
            accepted = await self.town.exec(
                self.activity, THREE, batch_id=batch_id, timeout_s=self.rng.choice([1, 4])
            )
        except ShemError:
            return
        self.accepted.add(accepted)

    async def finish(self) -> None:
        running = [
            batch_id
            for batch_id, batch in self.unit.batches.items()
            if len(batch.results) < len(batch.script)
        ]
        if running:
            self.unit.finish(self.rng.choice(running))

    async def ask(self) -> None:
        try:
            rows = await self.town.batches(self.activity)
        except ShemError:
            return
        self.told_never |= {batch for batch, row in rows.items() if row["state"] == "never"}
        self.accepted |= {batch for batch, row in rows.items() if row["state"] == "accepted"}

    async def outage(self) -> None:
        self.town.cut()
        asyncio.get_running_loop().call_later(self.rng.choice([1, 10]), self.town.join)

    async def restart_requestor(self) -> None:
        await self._abandon()
        await self.town.requestor.restart()

    async def restart_provider(self) -> None:
        await self.town.provider.stop()
        await asyncio.sleep(self.rng.choice([0, 3]))
        await self.town.provider.start()
        asyncio.get_running_loop().call_later(self.rng.choice([0, 2]), self._rebind)

    def _rebind(self) -> None:
        if not self.town.provider.bus.is_bound(f"/public/exeunit/{self.activity}"):
            self.unit.bind()

    async def _abandon(self) -> None:
        """What was under way when a node dies is never answered."""
        tasks = tuple(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def calm(self) -> None:
        self.loss = 0.0
        await asyncio.sleep(15)
        for batch_id, batch in self.unit.batches.items():
            while len(batch.results) < len(batch.script):
                self.unit.finish(batch_id)
        await asyncio.sleep(60)


@pytest.mark.parametrize("seed", range(16))
def test_whatever_happens_a_batch_runs_at_most_once_and_is_told_of_truly(
    tmp_path: Path, seed: int
) -> None:
    async def story() -> None:
        async with Town(tmp_path) as town:
            storm = Storm(town, seed)
            await storm.run()

            rows = await town.batches(storm.activity)
            unit = storm.unit

            assert all(times == 1 for times in Counter(unit.ran).values())
            assert storm.accepted <= unit.batches.keys()
            assert not storm.told_never & unit.batches.keys()
            assert set(unit.batches) <= rows.keys()
            for batch_id, row in rows.items():
                expected = {"accepted"} if batch_id in unit.batches else {"never", "refused"}
                assert row["state"] in expected
                if batch_id in unit.batches:
                    results = await town.results(storm.activity, batch_id)
                    assert [entry["stdout"] for entry in results] == ["out0\n", "out1\n", "out2\n"]

    run_virtually(story())
