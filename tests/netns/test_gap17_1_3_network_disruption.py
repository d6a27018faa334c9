"""GAP-17 scenario 1.3: the requestor's machine is disconnected from the network, and comes back.

Each node is a process on a host of its own, and so is the relay.
"""

import asyncio
import time

import pytest

from tests.netns.rental import Poller, executions, frames, prepare, rental, run_again

pytestmark = pytest.mark.timeout(240)

FRAMES = 24
BACK_S = {"ours": 3.0, "yagna": 20.0}
"""How soon after the return results flow again; a real yagna has a 17.4 s rule."""


@pytest.mark.parametrize(
    ("provider_kind", "cut_s"),
    [
        pytest.param("ours", 60, id="our provider, a minute"),
        pytest.param("yagna", 20, id="provider at a real yagna, 20 s"),
    ],
)
async def test_a_program_that_waits_for_results_sits_a_cut_out(net, tmp_path, provider_kind, cut_s):
    async with (
        rental(net, tmp_path, provider_kind) as site,
        site.golem() as golem,
        golem.rent(site.package, timeout=60) as activity,
    ):
        await prepare(activity)
        poller = Poller(await activity.submit(frames("cut", FRAMES)))
        await poller.has_read(2)

        net.cut(site.requestor.host)
        await asyncio.sleep(cut_s)
        read = len(poller.indices)
        net.heal(site.requestor.host)
        back_s = await poller.goes_on()

        assert await poller.end() == list(range(FRAMES))
        await run_again(activity)
        assert set(await executions(activity, "cut", FRAMES)) == {1}
        assert read < FRAMES, "the cut came too late to matter"

    print(f"{provider_kind}: cut for {cut_s} s, the next result {back_s:.2f} s after it")  # noqa: T201
    assert back_s < BACK_S[provider_kind]


async def test_a_plug_is_pulled_and_put_back(net, tmp_path):
    async with (
        rental(net, tmp_path) as site,
        site.golem() as golem,
        golem.rent(site.package, timeout=60) as activity,
    ):
        await prepare(activity)

        site.requestor.host.link_down()
        asking = asyncio.create_task(activity.run("mandel", "note", "asked while disconnected"))
        await asyncio.sleep(5)
        assert not asking.done()
        site.requestor.host.link_up()
        started = time.monotonic()

        assert (await asking).ok
        back_s = time.monotonic() - started
        await run_again(activity)
        ledger = await activity.run("mandel", "ledger", check=True)
        assert ledger.stdout == "asked while disconnected\n"

    print(f"plug pulled for 5 s, what was asked is done {back_s:.2f} s after it")  # noqa: T201
    assert back_s < BACK_S["ours"]
