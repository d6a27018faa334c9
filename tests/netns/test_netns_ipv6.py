"""The net over IPv6 alone: nodes, relay, a move and a restart; ours and a real yagna."""

import asyncio

import pytest

from tests.netns.stations import CHANNELS, region

pytestmark = pytest.mark.timeout(240)

BACK_S = 8.0


@pytest.mark.parametrize("kind", ["ours", "yagna"])
async def test_a_pair_with_nothing_but_ipv6(net, tmp_path, kind):
    async with region(net, tmp_path, ipv6=True) as made:
        one, two = await asyncio.gather(made.station("ours", "one"), made.station(kind, "two"))
        for channel in CHANNELS:
            await one.reaches(two, channel, within_s=30)
            await two.reaches(one, channel, within_s=10)
        assert await one.routes() == {"relay", "p2p"}
        down_s = await one.download(two)

        one.host.move()
        moved_s = await two.reaches(one, within_s=BACK_S)
        await one.daemon.kill()
        await one.daemon.start()
        restarted_s = await two.reaches(one, within_s=BACK_S)

    figures = f"2 MB in {down_s:.2f} s; after a move {moved_s:.2f} s, a restart {restarted_s:.2f} s"
    print(f"ours with {kind} over IPv6: {figures}")  # noqa: T201
