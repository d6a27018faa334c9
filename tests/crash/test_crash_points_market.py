"""Killed at any durable system call of a negotiation, a node loses nothing it acknowledged.

Two nodes are real processes. One is killed at its nth call of a kind (`points`), starts again, and
both programs go on until the end; `SHEM_CRASH_POINTS=all` runs every point.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.crash import points, syscalls
from tests.crash.points import Point
from tests.crash.points_market import Deal
from tests.crash.points_pair import Pair, paired

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
    """Goes through stories, counts calls, kills."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair

    async def count(self, ends: str) -> dict[tuple[str, str], Counter[str]]:
        """Go through the story once and count what each node's writer does."""
        deal = self.pair.deal(ends)
        await self._before(deal)
        async with (
            syscalls.counting(*self._hold("requestor")) as ours,
            syscalls.counting(*self._hold("provider")) as theirs,
        ):
            await self._watched(deal)
        assert await deal.judge() == []
        await self.pair.finish(deal)
        return {("requestor", ends): ours.calls(), ("provider", ends): theirs.calls()}

    async def run(self, point: Point) -> tuple[str | None, list[str]]:
        """Go through the story with one death; returns the step it came in, and what was wrong."""
        deal = self.pair.deal(point.flow)
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
        await self.pair.finish(deal)
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
        child = self.pair.nodes[victim].program.child
        assert child is not None
        await child.ended()
        fate.append(deal.step)
        deal.deaths += 1
        await self.pair.nodes[victim].start()
        lost += await deal.acknowledged(deal.requestor if victim == "requestor" else deal.provider)

    def _hold(self, name: str) -> tuple[syscalls.Hold, Path]:
        log = self.pair.net.directory / f"{name}.calls"
        return syscalls.writer_of(self.pair.pid(name)), log


@pytest.mark.long
async def test_a_negotiation_survives_a_kill_at_any_durable_system_call(
    short_dir: Path, pytestconfig: pytest.Config
) -> None:
    async with paired(short_dir) as pair:
        bench = Bench(pair)
        chosen = points.chosen(await bench.count(WHOLE), SAMPLE)
        endings: dict[tuple[str, str], Counter[str]] = {}
        for ends in OTHER_ENDS:
            endings |= await bench.count(ends)
        chosen += points.chosen(endings, ENDINGS_SAMPLE)
        report = await points.run(chosen, bench.run, pair.mend)

    pytestconfig.get_terminal_writer().line(f"\n{report}")
    report.require_unbroken()
