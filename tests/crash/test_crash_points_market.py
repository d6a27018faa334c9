"""Killed at any durable system call of a negotiation, a node loses nothing it acknowledged.

Two nodes are real processes. One is killed at its nth call of a kind (`points`), starts again, and
both programs go on until the end; `SHEM_CRASH_POINTS=all` runs every point.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from shem.devnet.compose import Devnet, Node
from tests.crash import points, syscalls
from tests.crash.points import Point
from tests.crash.points_market import Deal, Side, last_event

SAMPLE = 20
ENDINGS_SAMPLE = 12
WHOLE = "terminated"
"""The ending of the story that is watched from its beginning."""
OTHER_ENDS = ("quit", "cancelled", "rejected", "declined")
REASON = syscalls.why_not()

pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
    pytest.mark.timeout(14_400 if points.WISH else 600),
]


class Bench:
    """Both nodes, and their programs."""

    def __init__(self, net: Devnet, sides: tuple[Side, Side]) -> None:
        self.net = net
        self.sides = sides
        self.nodes: dict[str, Node] = {"requestor": net.requestor, "provider": net.provider}

    def deal(self, ends: str) -> Deal:
        ours, theirs = (
            Side(side.name, side.rest, side.subscriptions, cursor=side.cursor)
            for side in self.sides
        )
        return Deal(ours, theirs, ends)

    async def count(self, ends: str) -> dict[tuple[str, str], Counter[str]]:
        """Go through the story once and count what each node's writer does."""
        deal = self.deal(ends)
        await self._before(deal)
        async with (
            syscalls.counting(*self._hold("requestor")) as ours,
            syscalls.counting(*self._hold("provider")) as theirs,
        ):
            await self._watched(deal)
        assert await deal.judge() == []
        await self.finish(deal)
        return {("requestor", ends): ours.calls(), ("provider", ends): theirs.calls()}

    async def run(self, point: Point) -> tuple[str | None, list[str]]:
        """Go through the story with one death; returns the step it came in, and what was wrong."""
        deal = self.deal(point.flow)
        await self._before(deal)
        fate: list[str] = []
        lost: list[str] = []
        watcher = asyncio.create_task(self._revive(point.victim, deal, fate, lost))
        try:
            hold = self._hold(point.victim)
            async with syscalls.killing(*hold, point.call, point.nth) as watch:
                await self._watched(deal)
            if watch.calls()[point.call] >= point.nth:
                await watcher
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        wrong = await deal.judge()
        await self.finish(deal)
        return (fate[0] if fate else None), lost + wrong

    async def _before(self, deal: Deal) -> None:
        """Of all endings but one, only the ending itself is watched."""
        if deal.ends != WHOLE:
            await deal.begin()
            await deal.agree()

    async def _watched(self, deal: Deal) -> None:
        if deal.ends == WHOLE:
            await deal.begin()
            await deal.agree()
        await deal.end()

    async def _revive(self, victim: str, deal: Deal, fate: list[str], lost: list[str]) -> None:
        """Start the victim again as soon as it is dead, and look what it has forgotten."""
        child = self.nodes[victim].program.child
        assert child is not None
        await child.ended()
        fate.append(deal.step)
        deal.deaths += 1
        await self.nodes[victim].start()
        lost += await deal.acknowledged(deal.requestor if victim == "requestor" else deal.provider)

    def _hold(self, name: str) -> tuple[syscalls.Hold, Path]:
        child = self.nodes[name].program.child
        assert child is not None
        return syscalls.writer_of(child.pid), self.net.directory / f"{name}.calls"

    async def mend(self) -> None:
        """Bring back who is dead after a point that went wrong."""
        for node in self.nodes.values():
            assert node.program.child is not None
            if not node.program.child.alive:
                await node.start()

    async def finish(self, deal: Deal) -> None:
        await deal.tidy()
        for side in self.sides:
            side.cursor = await last_event(side.rest)


@asynccontextmanager
async def benched(folder: Path) -> AsyncIterator[Bench]:
    async with Devnet(folder) as net, net.requestor.rest() as ours, net.provider.rest() as theirs:
        await net.agent.stop()
        sides = (
            Side("requestor", ours, ours.market.demands),
            Side("provider", theirs, theirs.market.offers),
        )
        for side in sides:
            side.cursor = await last_event(side.rest)
        yield Bench(net, sides)


async def test_a_negotiation_survives_a_kill_at_any_durable_system_call(
    short_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with benched(short_dir) as bench:
        chosen = points.chosen(await bench.count(WHOLE), SAMPLE)
        endings: dict[tuple[str, str], Counter[str]] = {}
        for ends in OTHER_ENDS:
            endings |= await bench.count(ends)
        chosen += points.chosen(endings, ENDINGS_SAMPLE)
        report = await points.run(chosen, bench.run, bench.mend)

    with capsys.disabled():
        print(f"\n{report}")  # noqa: T201 - a sample says what it was
    report.require_unbroken()
