"""Our whole chain with a real yagna in it: SDK, requestor daemon, provider daemon, agent, ExeUnit.

Either daemon is a yagna, the other ours; SDK, agent and ExeUnit are always ours, and real. What a
yagna in the chain cannot give:

* as the requestor's daemon it chooses batch ids and has no list of them: a program that comes back
  by the activity id alone must have kept the ids of its batches; an exec that got no answer stays
  unknown (`BatchUnknown`);
* as the provider's daemon it answers no `ResolveBatch`: what our node knows of a batch is what it
  was answered.
"""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from shem.devnet.program import FIRST_TAG, FRAMES, frames
from tests.interop.chain import ENDED_S, site_at
from tests.interop.deal import until
from tests.interop.town import OTHER, SHEM, YAGNA

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

YAGNA_ASKS = pytest.param((YAGNA, OTHER), id="a yagna rents for the SDK")
YAGNA_SELLS = pytest.param((SHEM, YAGNA), id="a yagna sells for the agent")
chains = pytest.mark.parametrize("chain", [YAGNA_ASKS, YAGNA_SELLS])
STEP_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_site(shared_town, tmp_path_factory):
    async with site_at(shared_town, tmp_path_factory) as site:
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def site(town, shared_site):
    await shared_site.open()
    return shared_site


@chains
async def test_rent_run_destroy_terminate(site, chain):
    async with site.golem(chain) as golem:
        activity = await golem.rent(site.package)
        picture = await activity.run("mandel", "render", "40", "12", check=True)
        failed = await activity.run("mandel", "bogus")

        assert picture.stdout.count("\n") == 12
        assert failed.message == "ExeScript command exited with code 2"
        assert await site.states(chain, activity) == ["Ready", "Ready"]
        assert len(site.agents[chain[1]].exe_units()) == 1
        await until(lambda: counts(activity), ENDED_S)

        await activity.destroy()
        await activity.agreement.terminate("done", code="Success")

        assert await site.states(chain, activity) == ["Terminated", "Terminated"]
        ended = await activity.agreement.ended()
        assert (ended.by, ended.why, ended.code) == ("Requestor", "done", "Success")
        await until(lambda: no_exe_units(site, chain), ENDED_S)


async def counts(activity):
    """Tell whether the usage has been reported: the ExeUnit does that once a second."""
    return sum((await activity.usage()).current_usage or ()) > 0


async def no_exe_units(site, chain):
    return site.agents[chain[1]].exe_units() == []


@asynccontextmanager
async def running_program(site, chain):
    """Run a program that rents and follows a long batch; it is killed when the block ends."""
    command, env = site.program(chain)
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def event(process, name):
    """Read the program's words up to an event."""
    async with asyncio.timeout(STEP_S):
        while line := await process.stdout.readline():
            said = json.loads(line)
            assert said["event"] != "finished", "the batch was too short"
            if said["event"] == name:
                return said
    raise AssertionError(f"the program ended before {name}")


@chains
async def test_gap17_1_1_a_killed_program_is_replaced_by_one_that_knows_the_ids(site, chain):
    async with running_program(site, chain) as program:
        activity_id = (await event(program, "rented"))["activity"]
        batch_id = (await event(program, "submitted"))["batch"]
        await event(program, "result")
        program.kill()
        await program.wait()

    async with site.golem(chain) as golem:
        activity = await golem.attach(activity_id)

        assert activity.report.alive
        assert activity.report.batches_listed is (chain[0] != YAGNA)
        listed = [batch.batch_id for batch in activity.report.batches]
        assert (batch_id in listed) is (chain[0] != YAGNA)
        results = [result async for result in activity.batch(batch_id).results()]
        assert [result.index for result in results] == list(range(FRAMES))
        assert all(result.ok for result in results)
        again = await activity.run("mandel", "render", "20", "5", check=True)
        assert again.stdout.count("\n") == 5
        await each_frame_ran_once(activity)
        await activity.end("attached and done")
        assert (await activity.agreement.ended()).why == "attached and done"
    await until(lambda: no_exe_units(site, chain), ENDED_S)


async def each_frame_ran_once(activity):
    """Count in the payload's own ledger."""
    ledger = (await activity.run("mandel", "ledger", check=True)).stdout.splitlines()
    marks = [line for line in ledger if FIRST_TAG in line]
    assert len(marks) == len(set(marks)) == 2 * FRAMES


@chains
@pytest.mark.parametrize("victim", ["requestor", "provider"])
async def test_gap17_1_2_a_killed_daemon_comes_back_while_a_batch_runs(site, chain, victim):
    party = site.town.parties[chain[victim == "provider"]]
    async with site.golem(chain) as golem:
        activity = await golem.rent(site.package)
        batch = await activity.submit(frames(FIRST_TAG))
        seen = []
        async for result in batch.results():
            seen.append(result.index)
            if len(seen) == 1:
                await party.restart()

        assert seen == list(range(FRAMES))
        await each_frame_ran_once(activity)
        await activity.end("done")
    await until(lambda: no_exe_units(site, chain), ENDED_S)
