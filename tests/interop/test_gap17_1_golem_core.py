"""GAP-17 scenarios 1.1 and 1.2 with golem-core at a real yagna that rents from our provider.

The program is golem-core as published and the requestor's daemon a yagna: nothing of ours is on
that side. What it has to know, since a yagna does not: the ids of its activity and its batches.
"""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from shem.rest.errors import ApiError, Disconnected
from tests.interop.chain import ENDED_S, site_at
from tests.interop.deal import until
from tests.interop.town import OTHER, YAGNA
from tests.sdks.published import sdk_python

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

PROGRAM = Path(__file__).parents[1] / "sdks" / "renting_with_golem_core.py"
CHAIN = (YAGNA, OTHER)
FRAMES = 12
STEP_S = 100.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_site(shared_town, tmp_path_factory):
    async with site_at(shared_town, tmp_path_factory) as site:
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def site(town, shared_site):
    await shared_site.open()
    return shared_site


class Running:
    """One program of golem-core."""

    def __init__(self, process):
        self._process = process
        self.lines = []

    async def until(self, word):
        """Read up to the line that begins with a word; return the rest of it."""
        async with asyncio.timeout(STEP_S):
            while line := (await self._process.stdout.readline()).decode():
                self.lines.append(line)
                first, _, rest = line.strip().partition(" ")
                if first == word:
                    return rest.split(" ")
        raise AssertionError("".join(self.lines))

    async def kill(self):
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def running(site, *arguments):
    process = await asyncio.create_subprocess_exec(
        str(sdk_python()),
        str(PROGRAM),
        *arguments,
        env=site.environment(CHAIN),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    program = Running(process)
    try:
        yield program
    finally:
        await program.kill()


async def rented(site):
    """Rent with a program, and kill it when its batch has begun to give results."""
    package = site.package
    async with running(site, "rent", package.url, package.hash, str(FRAMES)) as program:
        activity, agreement = await program.until("rented")
        (batch,) = await program.until("submitted")
        assert await program.until("result") == ["Ok"]
    return activity, agreement, batch


async def attached_and_ended(site, activity, agreement, batch):
    """Come back with another program; return what the payload had noted."""
    async with running(site, "attach", activity, batch) as program:
        results = [await program.until("result") for _ in range(FRAMES)]
        ledger = await program.until("ledger")
    assert results == [[str(index), "Ok"] for index in range(FRAMES)]
    async with running(site, "end", activity, agreement) as program:
        await program.until("ended")
    await until(lambda: no_exe_units(site), ENDED_S)
    return ledger


async def no_exe_units(site):
    return site.agents[OTHER].exe_units() == []


async def test_gap17_1_1_another_program_of_golem_core_takes_over(site):
    activity, agreement, batch = await rented(site)

    ledger = await attached_and_ended(site, activity, agreement, batch)

    assert "first" in ledger and ledger[-1] == "again"
    assert len(ledger) == len(set(ledger))


async def test_gap17_1_2_the_yagna_is_killed_while_the_batch_runs(site):
    activity, agreement, batch = await rented(site)
    await site.town.parties[YAGNA].restart()

    ledger = await attached_and_ended(site, activity, agreement, batch)

    assert ledger[-1] == "again"
    assert len(ledger) == len(set(ledger))


async def test_results_are_read_through_a_yagna_after_the_end_of_their_exe_unit(site):
    """What a yagna forgets, it can ask our provider's node for."""
    activity, agreement, batch = await rented(site)
    provider = site.town.parties[OTHER]
    await until(lambda: finished(site, activity, batch), STEP_S)
    await site.town.parties[YAGNA].kill()
    await provider.market.agreements.terminate(agreement, {"message": "the machine is needed"})
    await until(lambda: no_exe_units(site), ENDED_S)
    await site.town.parties[YAGNA].back()

    found = await until_read(site, activity, batch)

    assert [result.result for result in found] == ["Ok"] * FRAMES


async def finished(site, activity, batch):
    rest = site.town.parties[YAGNA].rest.activity
    return len(await rest.results(activity, batch, timeout_s=5)) == FRAMES


async def until_read(site, activity, batch):
    found = []

    async def read():
        nonlocal found
        try:
            found = await site.town.parties[YAGNA].rest.activity.results(activity, batch)
        except (ApiError, Disconnected):
            return False
        return len(found) == FRAMES

    await until(read, STEP_S)
    return found
