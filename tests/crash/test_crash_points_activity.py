"""Killed at any durable system call from create to destroy: nothing lost, no batch run twice.

Both daemons, the agent and the ExeUnit are real processes; one is killed at its nth call of a kind
(`points`), comes back, and the program goes on. `SHEM_CRASH_POINTS=all` runs every point.
"""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from shem.devnet.daemons import Program
from shem.provider.exeunits import adopt
from tests.crash import points, syscalls
from tests.crash.points import Point
from tests.crash.points_activity import Work
from tests.crash.slice_siege import Siege, rent, siege, start_up
from tests.crash.slice_trader import Deal

SAMPLE = 14
FLOW = "activity"
PROGRAMS = ("requestor", "provider", "agent")
UNIT = "exe-unit"
REASON = syscalls.why_not()

pytestmark = [
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
    pytest.mark.timeout(14_400 if points.WISH else 600),
]


class Bench:
    """A devnet with an agreement, under which one activity is made after the other."""

    def __init__(self, under: Siege, agreement_id: str) -> None:
        self.under = under
        self.agreement_id = agreement_id
        self._made = 0

    async def count(self) -> dict[tuple[str, str], Counter[str]]:
        """Go through the story once and count what each process does."""
        work = self._work("count")
        watches: dict[tuple[str, str], syscalls.Watch] = {}
        async with AsyncExitStack() as stack:
            for name in PROGRAMS:
                hold = syscalls.writer_of(_pid(self.under.program(name)))
                watch = syscalls.counting(hold, self._log(name))
                watches[name, FLOW] = await stack.enter_async_context(watch)
            hold = self._unit(await work.create())
            watch = syscalls.counting(hold, self._log(UNIT))
            watches[UNIT, FLOW] = await stack.enter_async_context(watch)
            await work.use()
            await work.destroy()
        await work.judge()
        return {name: watch.calls() for name, watch in watches.items()}

    async def run(self, point: Point) -> tuple[str | None, list[str]]:
        """Go through the story with one death; returns the step it came in, and what was wrong."""
        before = len(self.under.load.history.broken)
        work = self._work(str(point))
        if point.victim == UNIT:
            step = await self._kill_unit(work, point)
        else:
            step = await self._kill_program(work, point)
        await work.judge()
        return step, self.under.load.history.broken[before:]

    async def mend(self) -> None:
        """Bring back who is dead after a point that went wrong."""
        for name in PROGRAMS:
            program = self.under.program(name)
            if program.child is not None and not program.child.alive:
                await start_up(program)

    async def _kill_unit(self, work: Work, point: Point) -> str | None:
        """The agent starts it again."""
        hold = self._unit(await work.create())
        steps: list[str] = []
        async with syscalls.killing(hold, self._log(UNIT), point.call, point.nth) as watch:
            await work.use()
            if watch.calls()[point.call] >= point.nth:
                steps.append("exec or results")
            await work.destroy()
        if watch.calls()[point.call] >= point.nth:
            steps.append("destroy")
        return steps[0] if steps else None

    async def _kill_program(self, work: Work, point: Point) -> str | None:
        program = self.under.program(point.victim)
        steps: list[str] = []

        async def revive() -> None:
            assert program.child is not None
            await program.child.ended()
            steps.append(work.step)
            await start_up(program)

        hold = syscalls.writer_of(_pid(program))
        watcher = asyncio.create_task(revive())
        try:
            async with syscalls.killing(
                hold, self._log(point.victim), point.call, point.nth
            ) as watch:
                await work.create()
                await work.use()
                await work.destroy()
            if watch.calls()[point.call] >= point.nth:
                await watcher
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        return steps[0] if steps else None

    def _work(self, tag: str) -> Work:
        self._made += 1
        deal = Deal(self.agreement_id, self.under.load.rng.randbytes(16).hex())
        return Work(self.under, deal, f"{self._made}:{tag}")

    def _log(self, name: str) -> Path:
        return self.under.net.directory / f"{name}.calls"

    @staticmethod
    def _unit(activity_id: str) -> syscalls.Hold:
        unit = adopt(None, None, activity_id)
        assert unit is not None
        return syscalls.whole(unit.pid)


def _pid(program: Program) -> int:
    assert program.child is not None
    return program.child.pid


@pytest.mark.long
async def test_an_activity_survives_a_kill_at_any_durable_system_call(
    short_dir: Path, pytestconfig: pytest.Config
) -> None:
    async with siege(short_dir, loaded=False) as under:
        activity_id = await rent(under.net)
        agreement_id = await under.load.rest.activity.agreement(activity_id)
        await under.load.rest.activity.destroy(activity_id)
        bench = Bench(under, agreement_id)
        chosen = points.chosen(await bench.count(), SAMPLE)
        report = await points.run(chosen, bench.run, bench.mend)
        await under.settle()

    pytestconfig.get_terminal_writer().line(f"\n{report}")
    report.require_unbroken()
    assert under.load.history.broken == []
