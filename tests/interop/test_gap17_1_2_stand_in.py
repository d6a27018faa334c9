"""GAP-17 scenario 1.2 with a provider at a yagna: the hard cases.

A yagna keeps no results: what its requestor did not fetch in time is in the agent's work directory,
and our agent speaks for its ExeUnits after their end. Reboots and old backups are as between shem
nodes.
"""

import os
import shutil
import signal

import pytest
import pytest_asyncio

from shem.bus.client import BusClient
from shem.bus.types import RemoteError
from shem.devnet.program import FIRST_TAG, FRAMES, frames
from shem.kernel.config import parse_gsb_url
from tests.interop.chain import ENDED_S, site_at
from tests.interop.deal import until
from tests.interop.town import SHEM, YAGNA

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

CHAIN = (SHEM, YAGNA)
DONE_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_site(shared_town, tmp_path_factory):
    async with site_at(shared_town, tmp_path_factory) as site:
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def site(town, shared_site):
    await shared_site.open()
    return shared_site


async def ended_unread(site):
    """Rent, let a batch end while the requestor's daemon is down, and its ExeUnit as well."""
    requestor = site.town.parties[SHEM]
    async with site.golem(CHAIN) as golem:
        activity = await golem.rent(site.package)
        batch = await activity.submit(frames(FIRST_TAG))
        ticket = await activity.detach()
    await requestor.kill()
    journal = site.agents[YAGNA].directory / "data" / "exe-unit" / "work"
    journal = journal / ticket.agreement_id / ticket.activity_id / "journal"
    await until(lambda: holds(journal, FRAMES), DONE_S)
    for unit in site.agents[YAGNA].exe_units():
        os.kill(unit, signal.SIGTERM)
    await until(lambda: no_exe_units(site), ENDED_S)
    await until(lambda: stands_in(site, ticket.activity_id), ENDED_S)
    return ticket, batch.id


async def holds(journal, frames_done):
    text = journal.read_text(errors="replace")
    return text.count('"kind":"result"') >= frames_done + 2  # deploy, start


async def no_exe_units(site):
    return site.agents[YAGNA].exe_units() == []


async def stands_in(site, activity_id):
    log = (site.agents[YAGNA].directory / "agent.log").read_text(errors="replace")
    return any("standin.up" in line and activity_id in line for line in log.splitlines())


async def test_gap17_1_2_results_are_read_after_the_end(site):
    ticket, batch_id = await ended_unread(site)

    await site.town.parties[SHEM].back()

    async with site.golem(CHAIN) as golem:
        attached = await golem.attach(ticket)
        results = await attached.batch(batch_id).wait()
        assert (await golem.attach(ticket)).report.liveness == "ended"
    assert [result.ok for result in results] == [True] * FRAMES


async def test_gap17_1_2_after_a_reboot_of_the_providers_host(site):
    """A yagna that hears nothing of an activity for ten seconds ends it: it may have ended."""
    agent, yagna = site.agents[YAGNA], site.town.parties[YAGNA]
    async with site.golem(CHAIN) as golem:
        activity = await golem.rent(site.package)
        noted = await activity.run("mandel", "note", "before", check=True)
        batch = await activity.submit(frames(FIRST_TAG))
        async for _ in batch.results():
            break
        units = agent.exe_units()
        await agent.kill()
        await yagna.kill()
        for unit in units:
            os.kill(unit, signal.SIGKILL)

        await yagna.back()
        await agent.start()

        results = await batch.wait()
        again = await activity.batch(noted.batch_id).wait()
        assert results[0].ok and not results[-1].ok
        assert (results[-1].message or "").startswith("interrupted, outcome unknown")
        assert again == [noted]
        await activity.end("done")
    await until(lambda: no_exe_units(site), ENDED_S)


async def test_gap17_1_2_the_requestor_comes_back_with_an_old_backup(site):
    requestor = site.town.parties[SHEM]
    async with site.golem(CHAIN) as golem:
        activity = await golem.rent(site.package)
        ticket = await activity.detach()
    await requestor.kill()
    copy = requestor.daemon.datadir.with_name("backup")
    shutil.copytree(requestor.daemon.datadir, copy)
    await requestor.back()
    async with site.golem(CHAIN) as golem:
        activity = await golem.attach(ticket)
        noted = await activity.run("mandel", "note", "later", check=True)

    await requestor.kill()
    shutil.rmtree(requestor.daemon.datadir)
    copy.rename(requestor.daemon.datadir)
    await requestor.back()

    async with site.golem(CHAIN) as golem:
        activity = await golem.attach(ticket)
        await until(lambda: lists(activity, noted.batch_id), DONE_S)
        assert await activity.batch(noted.batch_id).wait() == [noted]
        assert (await activity.run("mandel", "ledger", check=True)).stdout == "later\n"
        await activity.end("done")
    await until(lambda: no_exe_units(site), ENDED_S)


async def lists(activity, batch_id):
    return batch_id in [info.batch.id for info in await activity.batches()]


async def test_a_caller_that_names_itself_is_told_nothing_of_anothers(site):
    ticket, batch_id = await ended_unread(site)
    await site.town.parties[SHEM].back()
    yagna = site.town.parties[YAGNA].daemon

    async with BusClient(parse_gsb_url(yagna.gsb_url)) as client:
        body = {"activityId": ticket.activity_id, "batchId": batch_id, "timeout": 1.0}
        address = f"/public/exeunit/{ticket.activity_id}/GetExecBatchResults"
        with pytest.raises(RemoteError, match="forbidden"):
            await client.request(address, body, timeout_s=5)
