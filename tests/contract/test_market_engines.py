"""The market's statements on both engines: the same life of an agreement, on either side."""

from pathlib import Path

import pytest

from shem.kernel.errors import Gone, NotFound
from shem.kernel.world import World
from shem.market.cleanup import clean_up
from shem.market.context import Context
from shem.market.ids import Role
from shem.net.memory import MemoryFabric
from tests.sim.market_pair import (
    PROVIDER_SECRET,
    REQUESTOR_SECRET,
    Side,
    agree,
    answer,
    negotiate,
    propose,
    running,
)

YEAR_NS = 366 * 24 * 3600 * 10**9


@pytest.mark.parametrize("tested", [Role.REQUESTOR, Role.PROVIDER])
async def test_life_of_an_agreement(store_url: str, tmp_path: Path, tested: Role) -> None:
    fabric = MemoryFabric()
    database = {tested: store_url}
    async with (
        running(
            fabric, tmp_path, REQUESTOR_SECRET, database=database.get(Role.REQUESTOR)
        ) as requestor,
        running(
            fabric, tmp_path, PROVIDER_SECRET, database=database.get(Role.PROVIDER)
        ) as provider,
    ):
        ids = await negotiate(requestor, provider)
        first = await agree(requestor, provider, ids)
        await requestor.market.terminate(requestor.who, first, {"message": "once more"})
        [event] = await requestor.events("demand", ids.demand)
        again = await answer(
            requestor, provider, ids.offer, ids.demand, event["proposal"]["proposalId"]
        )
        second = await propose(requestor, again)
        await requestor.market.confirm(requestor.who, second, None)
        await provider.market.reject(provider.who, second, None)

        for side in (requestor, provider):
            assert await side.log() == ["Approved", "Terminated", "Rejected"]
            events = await side.market.agreement_events(
                side.who, after_ns=0, session=None, timeout_s=0.0, most=10
            )
            dates = [event.event_ns for event in events]
            assert dates == sorted(set(dates))
        with pytest.raises(Gone, match="Rejected"):
            await requestor.market.wait(requestor.who, second, 0.0)
        await _withdraw_everything(requestor, provider, ids.offer, ids.demand)
        for side in (requestor, provider):
            await _is_forgotten_after_a_year(side)


async def _withdraw_everything(requestor: Side, provider: Side, offer: str, demand: str) -> None:
    await provider.market.unsubscribe(provider.who, "offer", offer)  # type: ignore[arg-type]
    await requestor.market.unsubscribe(requestor.who, "demand", demand)  # type: ignore[arg-type]
    assert await provider.market.subscriptions(provider.who, "offer") == []
    with pytest.raises(NotFound):
        await requestor.events("demand", demand, timeout_s=0.0)


async def _is_forgotten_after_a_year(side: Side) -> None:
    class LaterClock:
        def wall_ns(self) -> int:
            return World().clock.wall_ns() + YEAR_NS

    later = World(clock=LaterClock())  # type: ignore[arg-type]
    context = Context(side.store, side.bus, side.outbox, side, later)  # type: ignore[arg-type]

    await clean_up(context)

    for table in ("subscription", "proposal", "negotiation_event", "agreement", "agreement_event"):
        rows = await side.store.fetch(f"SELECT COUNT(*) AS kept FROM {table} LIMIT 1")
        assert rows[0]["kept"] == 0, table
