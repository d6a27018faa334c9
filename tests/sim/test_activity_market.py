"""Activities on the real market: an agreement's approval and end are those of a negotiation."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shem.activity.eventlog import events_topic
from shem.activity.messages import FEATURES
from shem.activity.service import ActivityService
from shem.bus.types import LOCAL_CALLER
from shem.kernel.errors import NotFound, UsageError
from shem.kernel.ids import NodeId
from shem.net.memory import MemoryFabric
from tests.sim.market_pair import PROVIDER_SECRET, REQUESTOR_SECRET, Side, agree, running


async def all_features(_peer: NodeId) -> frozenset[str]:
    return FEATURES


def activities(side: Side) -> ActivityService:
    return ActivityService(
        store=side.store,
        bus=side.bus,
        outbox=side.outbox,
        market=side.market,
        features=all_features,
        world=side.world,
    )


async def next_event(side: Side, service: ActivityService, after_ns: int) -> Any:
    topic = events_topic(side.node_id)
    for _ in range(10):
        version = side.store.topics.version(topic)
        if events := await service.events(side.who, after_ns, "prov-session", 1):
            return events[0]
        assert await side.store.topics.changed(topic, version, 5)
    raise AssertionError("no event")


async def test_create_under_a_negotiated_agreement_and_destroy_at_its_end(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with (
        running(fabric, tmp_path, REQUESTOR_SECRET) as requestor,
        running(fabric, tmp_path, PROVIDER_SECRET) as provider,
        activities(requestor) as buyer,
        activities(provider) as seller,
    ):
        agreement = await agree(requestor, provider)
        creating = asyncio.create_task(buyer.create(requestor.who, agreement, timeout_s=10))
        created = await next_event(provider, seller, 0)
        report = {"activityId": created.activity_id, "state": {"state": ["Initialized", None]}}
        await provider.bus.request(
            LOCAL_CALLER, "/local/activity/SetActivityState", report, timeout_s=5
        )
        activity = await creating
        assert (created.kind, created.agreement_id) == ("CreateActivity", agreement)
        assert activity == created.activity_id
        assert await seller.activities_of(provider.who, agreement) == [activity]

        await requestor.market.terminate(requestor.who, agreement, None)
        ended = await next_event(provider, seller, created.event_ns)

        assert (ended.kind, ended.activity_id) == ("DestroyActivity", activity)
        with pytest.raises(UsageError, match="is not Approved"):
            await buyer.create(requestor.who, agreement, timeout_s=5)
        with pytest.raises(NotFound):
            await buyer.create(provider.who, agreement, timeout_s=5)
