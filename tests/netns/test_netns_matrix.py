"""Every pair of nodes, ours and a real yagna, over our relay, by every route.

Ping on all channels, 2 MB both ways, restart of either side. `direct`: both are public. `reverse`:
the caller is, and the other, behind a router, is asked to dial it. `relayed`: both are behind
routers, which let nobody in who was not spoken to.
"""

import asyncio
import itertools

import pytest

from tests.netns.stations import CHANNELS, region

pytestmark = pytest.mark.timeout(240)

BEHIND_NAT = {"direct": (False, False), "reverse": (False, True), "relayed": (True, True)}
KINDS = ("ours", "yagna")
BACK_S = 30.0
"""How soon everybody is reached again after a restart; two yagnas need their own time-outs."""
BACK_TO_US_S = 8.0
"""The same where at least one side is ours, on a busy machine."""


@pytest.mark.parametrize("route", BEHIND_NAT)
@pytest.mark.parametrize(("kind", "other"), list(itertools.product(KINDS, KINDS)), ids=str)
async def test_pair(net, tmp_path, kind, other, route):
    async with region(net, tmp_path) as made:
        nats = BEHIND_NAT[route]
        one, two = await asyncio.gather(
            made.station(kind, "one", behind_nat=nats[0]),
            made.station(other, "two", behind_nat=nats[1]),
        )
        first_s = await one.reaches(two, within_s=30)
        for channel in CHANNELS:
            await one.reaches(two, channel, within_s=10)
            await two.reaches(one, channel, within_s=10)
        if route == "relayed":
            assert await one.routes() == await two.routes() == {"relay"}
        elif "ours" in (kind, other):  # two yagnas that dial each other at once give up
            assert await one.routes() == await two.routes() == {"relay", "p2p"}

        down_s = await one.download(two)
        up_s = await two.download(one)

        limit_s = BACK_TO_US_S if "ours" in (kind, other) else BACK_S
        back = []
        for restarted, friend in ((one, two), (two, one)):
            await restarted.daemon.kill()
            await restarted.daemon.start()
            back.append(await friend.reaches(restarted, within_s=limit_s))
            back.append(await restarted.reaches(friend, within_s=limit_s))
        for channel in CHANNELS:
            await one.reaches(two, channel, within_s=10)
            await two.reaches(one, channel, within_s=10)

    figures = (
        f"first contact {first_s:.2f} s; 2 MB in {down_s:.2f} s and {up_s:.2f} s; "
        f"after restarts {', '.join(f'{s:.2f}' for s in back)} s"
    )
    print(f"{kind:5} {other:5} {route:7} {figures}")  # noqa: T201
