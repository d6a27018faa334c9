"""A whole deal through a troubled network: the cells of the fault matrix that only a network has.

As GAP-17 1.3 and 1.4, with what those leave out: cuts one way, and phases in which no batch runs.
"""

import asyncio
import shutil

import pytest

from tests.crash.matrix_deal import Deal, begun, signed
from tests.netns.rental import Poller, executions, prepare, rental, run_again
from tests.netns.slow_payload import slowly

pytestmark = pytest.mark.timeout(240)

ONE_WAY_S = 20
"""Longer than a session lives without a sign of life (17.4 s)."""
BACK_S = 8.0
SHORT_S = 4
"""For what is over before a session is."""
FRAMES = 8


@pytest.mark.long
@pytest.mark.parametrize("way", ["is_deaf", "is_mute"])
async def test_a_batch_runs_while_the_requestor_only_sends_or_only_hears(net, tmp_path, way):
    frames = ONE_WAY_S + 6
    async with (
        rental(net, tmp_path) as site,
        site.golem() as golem,
        golem.rent(site.package, timeout=60) as activity,
    ):
        await prepare(activity)
        poller = Poller((await activity.submit(slowly(way, frames))).results())
        await poller.has_read(2)

        setattr(site.requestor.host, way, True)
        await asyncio.sleep(ONE_WAY_S)
        read = len(poller.indices)
        setattr(site.requestor.host, way, False)
        back_s = await poller.goes_on()

        assert await poller.end() == list(range(2 * frames))
        await run_again(activity)
        assert set(await executions(activity, way, frames)) == {1}
        assert read < 2 * frames, "it came too late to matter"

    print(f"{way} for {ONE_WAY_S} s, the next result {back_s:.2f} s after it")  # noqa: T201
    assert back_s < BACK_S


async def test_relay_and_addresses_change_in_every_phase_of_a_deal(net, tmp_path):
    async with rental(net, tmp_path) as site, site.golem() as golem:
        relay, host = site.region.relay, site.requestor.host

        await relay.kill()
        negotiating = asyncio.create_task(signed(golem, site.package))
        await asyncio.sleep(SHORT_S)
        assert not negotiating.done()
        await relay.start()
        deal = Deal("deal", await negotiating)

        host.move()
        activity = await begun(golem, deal)
        await prepare(activity)

        batch = await activity.submit(slowly("deal", FRAMES))
        poller = Poller(batch.results())
        await poller.has_read(2)
        await relay.kill()
        shutil.rmtree(relay.directory)
        await asyncio.sleep(SHORT_S)
        await relay.start()
        await poller.stop()
        await batch.wait(60.0)
        ticket = await activity.detach()

        net.cut(host)
        await asyncio.sleep(SHORT_S)
        host.move()
        net.heal(host)
        async with golem.attach(ticket.activity_id) as again:
            assert again.report.alive
            results = await again.batch(batch.id).wait(60.0)
            assert [result.index for result in results] == list(range(2 * FRAMES))
            await run_again(again)
            assert set(await executions(again, "deal", FRAMES)) == {1}
            await again.end("done")
