"""Each named point of docs/failpoints.md: killed there in the middle of a deal, nothing breaks.

A deal is negotiation, agreement, activity, batch, destroy, terminate (`slice_trader`). The victim
is armed, dies at its point while the deal is under way, and comes back without it; the deal goes
on, and in the end everything is judged as after the random kills.
"""

import asyncio
import os
import re
from pathlib import Path

import pytest

from shem.devnet.compose import Program
from shem.devnet.processes import DevnetError
from tests.crash.slice_siege import Siege, siege, start_up
from tests.crash.slice_verdict import log_count

ROOT = Path(__file__).parents[2]
FAILPOINTS = "SHEM_FAILPOINTS"
COMMITS = ("store.before_commit", "store.committed")
COMMITS_MAX = {"requestor": 24, "provider": 34, "agent": 10}
"""About as many commits as each makes in a deal (usage reports included at the provider)."""
SAMPLE = int(os.environ.get("SHEM_CRASH_COMMITS", "4"))
"""How many commits of each process are tried; a large number tries them all."""
POINTS: dict[str, tuple[str, ...]] = {
    "requestor": (
        "market.confirmed_before_saved",
        "create.intent_committed",
        "create.answered",
        "exec.intent_committed",
        "exec.answered",
        "destroy.posted",
        "destroy.answered",
        "outbox.delivered_before_settled",
    ),
    "provider": ("create.committed", "outbox.delivered_before_settled"),
    "agent": ("agent.activity_recorded", "agent.exeunit_started", "agent.stop_recorded"),
    "exe-unit": (
        "exeunit.batch_accepted",
        "exeunit.command_done",
        "exeunit.command_done@4",
        "exeunit.result_durable@4",
    ),
}
DIES_WITHIN_S = 30.0
ENDS_WITHIN_S = 60.0


def in_source() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        found |= set(re.findall(r'\bpassing\("([^"]+)"\)', path.read_text()))
    return found


def driven() -> set[str]:
    named = {point.partition("@")[0] for points in POINTS.values() for point in points}
    return named | set(COMMITS)


def test_every_point_in_the_source_is_driven_and_documented() -> None:
    documented = re.findall(r"^\| `([a-z_.]+)`", (ROOT / "docs/failpoints.md").read_text(), re.M)

    assert in_source() == driven() == set(documented)
    assert len(documented) == len(set(documented))


@pytest.mark.timeout(300)
async def test_killed_at_each_named_point_a_deal_goes_on(short_dir: Path) -> None:
    async with siege(short_dir, loaded=False) as under:
        under.trader.destroys = 1.0
        for victim, points in POINTS.items():
            for point in points:
                passed = await deal_with(under, victim, point)
                if not passed:
                    under.load.history.wrong(f"{victim} did not pass {point}")
        await under.settle()

    under.require_unbroken(sum(map(len, POINTS.values())))


@pytest.mark.timeout(1_800 if SAMPLE > 10 else 300)
async def test_killed_around_any_commit_a_deal_goes_on(short_dir: Path) -> None:
    async with siege(short_dir, loaded=False) as under:
        cases = [
            (victim, f"{point}@{number}")
            for victim, most in COMMITS_MAX.items()
            for point, number in chosen_commits(under, most)
        ]
        for victim, point in cases:
            await deal_with(under, victim, point)
        await under.settle()

    under.require_unbroken(len(cases))


def chosen_commits(under: Siege, most: int) -> list[tuple[str, int]]:
    every = [(point, number) for number in range(1, most + 1) for point in COMMITS]
    return sorted(under.rng.sample(every, min(SAMPLE, len(every))), key=lambda case: case[1])


async def deal_with(under: Siege, victim: str, point: str) -> bool:
    """Make a deal in which `victim` dies at `point`; says whether it did."""
    program = under.program("agent" if victim == "exe-unit" else victim)
    died_before = units_died(under)

    def dead() -> bool:
        if victim == "exe-unit":
            return units_died(under) > died_before
        return program.child is None or not program.child.alive

    await restart(program, point)
    deal = asyncio.create_task(under.trader.deal())
    try:
        async with asyncio.timeout(DIES_WITHIN_S):
            while not dead() and not deal.done():  # noqa: ASYNC110 - another process dies
                await asyncio.sleep(0.02)
        passed = dead()
        await restart(program, None)
        async with asyncio.timeout(ENDS_WITHIN_S):
            await deal
    finally:
        deal.cancel()
    under.rounds_done += 1
    return passed


async def restart(program: Program, point: str | None) -> None:
    """Start the program anew, armed with a point or clean; one that dies at once stays dead."""
    await program.kill()
    env = {name: value for name, value in program.env.items() if name != FAILPOINTS}
    if point is not None:
        name, _, number = point.partition("@")
        env[FAILPOINTS] = f"{name}=kill@{number or 1}"
    program.env = env
    try:
        await start_up(program)
    except DevnetError:
        if point is None:
            raise


def units_died(under: Siege) -> int:
    return log_count(under.net.agent.log, "exeunit.died")
