"""Behind a router with a port for every receiver: dialled where possible, else relayed."""

import asyncio

import pytest

from tests.netns.stations import CHANNELS, region

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize(
    ("kind", "both", "routes"),
    [
        pytest.param("ours", False, {"relay", "p2p"}, id="ours, which is public"),
        pytest.param("ours", True, {"relay"}, id="ours, behind another such router"),
        pytest.param("yagna", False, {"relay", "p2p"}, id="a yagna, which is public"),
        pytest.param("yagna", True, {"relay"}, id="a yagna behind another such router"),
    ],
)
async def test_our_node_behind_a_strict_router_meets(net, tmp_path, kind, both, routes):
    async with region(net, tmp_path) as made:
        one, two = await asyncio.gather(
            made.station("ours", "one", strict_nat=True),
            made.station(kind, "two", strict_nat=both),
        )
        for channel in CHANNELS:
            await two.reaches(one, channel, within_s=30)
            await one.reaches(two, channel, within_s=10)
        assert await one.routes() == await two.routes() == routes
        up_s, down_s = await two.download(one), await one.download(two)

        one.host.nat.rebind()
        one.host.move()
        moved_s = await two.reaches(one, within_s=8)

    print(f"{kind}, {sorted(routes)}: {up_s:.2f} s, {down_s:.2f} s; moved {moved_s:.2f} s")  # noqa: T201
