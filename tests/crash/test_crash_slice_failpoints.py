"""Each named point of docs/failpoints.md: killed there in the middle of a deal, nothing breaks.

A deal is negotiation, agreement, activity, batch, destroy, terminate (`slice_trader`). The victim
is armed, dies at its point while the deal is under way, and comes back without it; the deal goes
on, and in the end everything is judged as after the random kills.
"""

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from shem.devnet.daemons import Program
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


@dataclass(frozen=True, slots=True)
class Case:
    """Who dies where; how often the client asks and does not repeat; what its batch comes to."""

    victim: str
    point: str
    asks: float = 0.5
    told: str | None = "accepted"


CASES = (
    Case("requestor", "market.confirmed_before_saved"),
    Case("requestor", "create.intent_committed"),
    Case("requestor", "create.answered"),
    Case("requestor", "exec.intent_committed", asks=1.0, told="never"),
    Case("requestor", "exec.intent_committed", asks=0.0),
    Case("requestor", "exec.answered"),
    Case("requestor", "destroy.posted"),
    Case("requestor", "destroy.answered"),
    Case("requestor", "outbox.delivered_before_settled"),
    Case("provider", "create.committed"),
    Case("provider", "outbox.delivered_before_settled"),
    Case("agent", "agent.activity_recorded"),
    Case("agent", "agent.exeunit_started"),
    Case("agent", "agent.stop_recorded"),
    Case("agent", "agent.batch_handed_over"),
    Case("provider", "kept.batch"),
    Case("provider", "kept.all"),
    Case("exe-unit", "exeunit.batch_accepted"),
    Case("exe-unit", "exeunit.command_done"),
    Case("exe-unit", "exeunit.command_done@4"),
    Case("exe-unit", "exeunit.result_durable@4"),
)
ELSEWHERE = {
    "agent.silence_recorded": "tests/e2e/test_provider_end_of_work.py",
    "agent.work_over": "tests/e2e/test_provider_end_of_work.py",
    "exeunit.end_due": "tests/crash/test_exeunit_ending_process.py",
    "exeunit.end_quiet": "tests/crash/test_exeunit_ending_process.py",
    "exeunit.part_delivered": "tests/crash/test_exeunit_ending_process.py",
    "nursery.forked": "tests/contract/test_provider_nursery.py",
}
"""Points that are not passed in a deal, and where they are driven."""
DIES_WITHIN_S = 30.0
DIES_LATE_S = 5.0
"""After the deal: results are handed over when it may be done."""
ENDS_WITHIN_S = 60.0


def in_source() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        found |= set(re.findall(r'\bpassing\("([^"]+)"\)', path.read_text()))
    return found


def driven() -> set[str]:
    elsewhere = {point for point, file in ELSEWHERE.items() if point in (ROOT / file).read_text()}
    return {case.point.partition("@")[0] for case in CASES} | set(COMMITS) | elsewhere


def test_every_point_in_the_source_is_driven_and_documented() -> None:
    documented = re.findall(r"^\| `([a-z_.]+)`", (ROOT / "docs/failpoints.md").read_text(), re.M)

    assert in_source() == driven() == set(documented)
    assert len(documented) == len(set(documented))


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_killed_at_each_named_point_a_deal_goes_on(short_dir: Path) -> None:
    async with siege(short_dir, loaded=False) as under:
        under.trader.destroys = 1.0
        for case in CASES:
            if not await deal_with(under, case):
                under.load.history.wrong(f"{case.victim} did not pass {case.point}")
        await under.settle()

    under.require_unbroken(len(CASES))


@pytest.mark.long
@pytest.mark.timeout(1_800 if SAMPLE > 10 else 600)
async def test_killed_around_any_commit_a_deal_goes_on(short_dir: Path) -> None:
    async with siege(short_dir, loaded=False) as under:
        cases = [case for victim in COMMITS_MAX for case in chosen_commits(under, victim)]
        for case in cases:
            await deal_with(under, case)
        await under.settle()

    under.require_unbroken(len(cases))


def chosen_commits(under: Siege, victim: str) -> list[Case]:
    """Draw some of a victim's commits, and whether it dies before or after them."""
    numbers = range(1, COMMITS_MAX[victim] + 1)
    every = [Case(victim, f"{p}@{n}", told=None) for n in numbers for p in COMMITS]
    return under.rng.sample(every, min(SAMPLE, len(every)))


async def deal_with(under: Siege, case: Case) -> bool:
    """Make a deal in which the victim dies at its point; says whether it did."""
    program = under.program("agent" if case.victim == "exe-unit" else case.victim)
    under.load.asks = case.asks
    died_before = units_died(under)

    def dead() -> bool:
        if case.victim == "exe-unit":
            return units_died(under) > died_before
        return program.child is None or not program.child.alive

    await restart(program, case.point)
    deal = asyncio.create_task(under.trader.deal())
    try:
        async with asyncio.timeout(DIES_WITHIN_S):
            while not dead() and not deal.done():  # noqa: ASYNC110 - another process dies
                await asyncio.sleep(0.02)
        if case.told is not None:
            await late(dead)
        passed = dead()
        await restart(program, None)
        async with asyncio.timeout(ENDS_WITHIN_S):
            made = await deal
    finally:
        deal.cancel()
    told = None if made is None or made.batch is None else made.batch.told
    if case.told is not None and told != case.told:
        under.load.history.wrong(f"{case.victim} at {case.point}: its batch was told {told}")
    under.rounds_done += 1
    return passed


async def late(dead: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(DIES_LATE_S):
            while not dead():  # noqa: ASYNC110 - another process dies
                await asyncio.sleep(0.02)
    except TimeoutError:
        return


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
