"""Our node is killed after every step of a negotiation, and is back on the same address."""

import pytest

from tests.interop.deal import told
from tests.interop.town import OTHER, SHEM, YAGNA

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(100)]

KILLS = [
    pytest.param((YAGNA, SHEM), (SHEM,), id="our provider, yagna requests"),
    pytest.param((SHEM, YAGNA), (SHEM,), id="our requestor, yagna provides"),
    pytest.param((SHEM, OTHER), (SHEM, OTHER), id="both, and both are ours"),
]
BACK_MAX_S = 5.0
"""How long after its return a node may be out of reach of those who talked to it before."""


@pytest.mark.parametrize(("pair", "victims"), KILLS)
async def test_our_node_is_killed_after_every_step(town, pair, victims):
    deal = await town.deal(pair)
    parties = [town.parties[name] for name in victims]
    took = {}
    for step in deal.steps():
        await step()
        if step == deal.counter and pair[0] == YAGNA:
            continue  # a yagna sends its first counter after it has said that it did, and once
        for party in parties:
            await party.kill()
        for party in parties:
            await party.back()
        other = deal.provider if parties[0] is deal.requestor else deal.requestor
        took[step.__name__] = await town.meet_again(parties[0], other)

    print("from the victim and to it [s]:", took)  # noqa: T201
    assert await deal.states() == ("Approved", "Approved")
    await deal.provider.market.agreements.terminate(deal.agreement_id, {"message": "done"})
    await deal.both("Terminated")
    asker, giver = ([told(event) for event in log] for log in await deal.logs())
    assert asker == giver
    assert max(map(max, took.values())) < BACK_MAX_S
