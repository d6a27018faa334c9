"""GAP-17 scenario 1.4: the requestor's daemon goes down and comes back with another IP address.

Each node is a process on a host of its own, and so is the relay. A second story has the address
change under a daemon that runs on, as when a laptop changes its network.
"""

import pytest

from tests.netns.rental import Poller, executions, frames, prepare, rental, run_again

pytestmark = pytest.mark.timeout(240)

FRAMES = 24
BACK_S = {"ours": 3.0, "yagna": 20.0}
"""How soon after the change results flow again. A frame of the batch alone may take a second."""
PROVIDERS = [
    pytest.param("ours", id="our provider"),
    pytest.param("yagna", id="provider at a real yagna"),
]


@pytest.mark.parametrize("provider_kind", PROVIDERS)
async def test_the_daemon_comes_back_from_another_address(net, tmp_path, provider_kind):
    async with rental(net, tmp_path, provider_kind) as site:
        requestor = site.requestor
        async with site.golem() as golem:
            activity = await golem.rent(site.package, timeout=60)
            await prepare(activity)
            batch = await activity.submit(frames("away", FRAMES))
            poller = Poller(batch)
            await poller.has_read(2)
            await poller.stop()
            ticket = await activity.detach()
        before = requestor.host.address

        await requestor.daemon.stop()
        after = requestor.host.move()
        await requestor.daemon.start()

        async with site.golem() as golem, golem.attach(ticket) as attached:
            poller = Poller(attached.batch(batch.id))
            back_s = await poller.has_read(3)
            assert await poller.end() == list(range(FRAMES))
            await run_again(attached)
            assert set(await executions(attached, "away", FRAMES)) == {1}
            await attached.end("done")

    assert before != after
    print(f"{provider_kind}: results {back_s:.2f} s after attaching")  # noqa: T201
    assert back_s < BACK_S[provider_kind]


@pytest.mark.parametrize("provider_kind", PROVIDERS)
async def test_the_address_changes_under_a_running_daemon(net, tmp_path, provider_kind):
    async with (
        rental(net, tmp_path, provider_kind) as site,
        site.golem() as golem,
        golem.rent(site.package, timeout=60) as activity,
    ):
        await prepare(activity)
        poller = Poller(await activity.submit(frames("roam", FRAMES)))
        await poller.has_read(2)

        site.requestor.host.move()
        back_s = await poller.goes_on()
        read = len(poller.indices)

        assert await poller.end() == list(range(FRAMES))
        assert read < FRAMES, "the move came too late to matter"
        site.requestor.host.move()
        again_s = await run_again(activity)
        assert set(await executions(activity, "roam", FRAMES)) == {1}

    figures = f"the next result {back_s:.2f} s, a new command {again_s:.2f} s after a move"
    print(f"{provider_kind}: {figures}")  # noqa: T201
    assert max(back_s, again_s) < BACK_S[provider_kind]
