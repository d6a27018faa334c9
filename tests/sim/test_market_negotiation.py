"""Negotiation between two whole markets: from a broadcast to an agreement in force."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shem.kernel.errors import Conflict, Gone, NotFound, PeerError, UsageError
from shem.kernel.world import SystemClock, World
from shem.market import matching
from shem.market.ids import Role
from shem.market.messages import DISCOVERY
from shem.market.subscriptions import TTL_NS
from shem.net.memory import MemoryFabric
from tests.sim.market_pair import (
    OFFER_CONSTRAINTS,
    PROVIDER_SECRET,
    REQUESTOR_SECRET,
    Side,
    agree,
    negotiate,
    propose,
    running,
)

Pair = tuple[Side, Side]


class JumpingClock(SystemClock):
    """A clock that may be ahead."""

    ahead_ns = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.ahead_ns


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    fabric = MemoryFabric()
    async with (
        running(fabric, tmp_path, REQUESTOR_SECRET) as requestor,
        running(fabric, tmp_path, PROVIDER_SECRET) as provider,
    ):
        yield requestor, provider


async def test_agreement_comes_into_force_on_both_sides(pair: Pair) -> None:
    requestor, provider = pair

    agreement = await agree(requestor, provider)

    ours, theirs = await requestor.row(agreement), await provider.row(agreement)
    assert (ours.state, theirs.state) == ("Approved", "Approved")
    assert (ours.role, theirs.role) == (Role.REQUESTOR, Role.PROVIDER)
    assert ours.requestor == theirs.requestor == requestor.node_id
    assert ours.provider == theirs.provider == provider.node_id
    assert ours.approved_ns == theirs.approved_ns
    assert ours.offer_properties == theirs.offer_properties
    assert ours.demand_properties == theirs.demand_properties
    assert (ours.app_session_id, theirs.app_session_id) == ("req-session", "prov-session")
    assert await requestor.log() == await provider.log() == ["Approved"]


async def test_agreement_keeps_what_payment_will_ask_for(pair: Pair) -> None:
    row = await pair[1].row(await agree(*pair))

    assert row.platform == "erc20-holesky-tglm"
    assert (row.payee_address, row.payer_address) == ("0xaaaa", "0xbbbb")
    assert (row.pricing_model, row.pricing_coeffs) == ("linear", "[0.0,0.0,0.0]")
    assert row.usage_vector == '["golem.usage.duration_sec","golem.usage.cpu_sec"]'
    assert {row.recipient, row.acceptor, row.payer} == {row.requestor}


async def test_offer_reaches_a_waiting_demand_at_once(pair: Pair) -> None:
    requestor, provider = pair
    demand = await requestor.seek()

    await provider.publish()
    events = await requestor.events("demand", demand, timeout_s=0.6)

    assert [event["eventType"] for event in events] == ["ProposalEvent"]


async def test_late_demand_matches_known_offer_exactly_once(pair: Pair) -> None:
    requestor, provider = pair
    early = await requestor.seek()
    await provider.publish()
    assert len(await requestor.events("demand", early)) == 1

    late = await requestor.seek()

    assert len(await requestor.events("demand", late)) == 1
    assert await requestor.events("demand", late, timeout_s=0.0) == []


async def test_what_does_not_match_is_not_proposed(pair: Pair) -> None:
    requestor, provider = pair
    await provider.publish()
    picky = await requestor.seek(constraints="(golem.inf.mem.gib>100)")
    blind = await requestor.seek(constraints="((((")
    foreign = await requestor.seek(properties={"golem.node.debug.subnet": "other"})
    fitting = await requestor.seek()

    assert await requestor.events("demand", fitting)
    for demand in (picky, blind, foreign):
        assert await requestor.events("demand", demand, timeout_s=0.0) == []


async def test_own_offer_does_not_match_own_demand(pair: Pair) -> None:
    requestor, _ = pair
    await requestor.publish()

    demand = await requestor.seek()

    assert await requestor.events("demand", demand, timeout_s=0.0) == []


async def test_withdrawn_offer_is_forgotten_by_others(pair: Pair) -> None:
    requestor, provider = pair
    demand = await requestor.seek()
    offer = await provider.publish()
    [event] = await requestor.events("demand", demand)

    await provider.market.unsubscribe(provider.who, "offer", offer)
    await _until_gone(requestor, offer)

    with pytest.raises(UsageError, match="was already unsubscribed"):
        await requestor.counter(Role.REQUESTOR, demand, event["proposal"]["proposalId"])
    with pytest.raises(Gone, match="already unsubscribed"):
        await provider.market.unsubscribe(provider.who, "offer", offer)


async def test_an_expired_offer_that_is_withdrawn_is_not_revived_by_a_clock_that_is_set_back(
    tmp_path: Path,
) -> None:
    clock = JumpingClock()
    world = World(clock=clock)
    async with running(MemoryFabric(), tmp_path, PROVIDER_SECRET, world) as provider:
        offer = await provider.publish()
        clock.ahead_ns = 2 * TTL_NS
        with pytest.raises(Gone, match="expired"):
            await provider.market.unsubscribe(provider.who, "offer", offer)

        clock.ahead_ns = 0

        with pytest.raises(Gone, match="already unsubscribed"):
            await provider.market.unsubscribe(provider.who, "offer", offer)


async def test_an_offer_that_only_a_wrong_clock_took_for_expired_is_matched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "SWEEP_INTERVAL_S", 0.02)
    fabric, clock = MemoryFabric(), JumpingClock()
    async with (
        running(fabric, tmp_path, REQUESTOR_SECRET, World(clock=clock)) as requestor,
        running(fabric, tmp_path, PROVIDER_SECRET) as provider,
    ):
        demand = await requestor.seek()
        await provider.publish()
        assert await requestor.events("demand", demand)
        index = requestor.market._context.index
        clock.ahead_ns = 2 * TTL_NS
        await _until(lambda: index.size("offer") == 0)

        clock.ahead_ns = 0

        assert await requestor.events("demand", await requestor.seek())


async def test_offers_that_were_read_while_the_clock_was_wrong_are_read_again(
    tmp_path: Path,
) -> None:
    fabric, clock = MemoryFabric(), JumpingClock()
    async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
        async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
            demand = await requestor.seek()
            await provider.publish()
            assert await requestor.events("demand", demand)

        world = World(clock=clock)
        async with running(fabric, tmp_path, REQUESTOR_SECRET, world) as requestor:
            clock.ahead_ns = 2 * TTL_NS
            assert await requestor.events("demand", await requestor.seek(), timeout_s=0.0) == []

            clock.ahead_ns = 0

            assert await requestor.events("demand", await requestor.seek())


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - an index tells nobody
            await asyncio.sleep(0.01)


async def test_an_offer_is_given_to_others_but_not_to_its_own_node(pair: Pair) -> None:
    requestor, provider = pair
    demand = await requestor.seek()
    offer = await provider.publish()
    [_] = await requestor.events("demand", demand)

    async def asked(side: Side, other: Side) -> Any:
        address = f"/from/{side.node_id}/to/{other.node_id}{DISCOVERY}/Get"
        return await side.bus.request(side.who, address, {"offerIds": [offer]}, timeout_s=5)

    assert [row["id"] for row in await asked(requestor, provider)] == [offer]
    assert await asked(provider, requestor) == []


async def _until_gone(side: Side, offer: str) -> None:
    for _ in range(200):
        rows = await side.store.fetch(
            "SELECT state FROM subscription WHERE subscription_id = :id LIMIT 1", id=offer
        )
        if rows[0]["state"] == "unsubscribed":
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the offer is still known")


async def test_unsubscribing_ends_a_waiting_collector_at_once(pair: Pair) -> None:
    requestor, _ = pair
    demand = await requestor.seek()
    waiting = asyncio.create_task(requestor.events("demand", demand, timeout_s=60))
    await asyncio.sleep(0)

    await requestor.market.unsubscribe(requestor.who, "demand", demand)

    with pytest.raises(NotFound, match=r"not found\. Could be unsubscribed"):
        await asyncio.wait_for(waiting, 2)
    with pytest.raises(NotFound, match=r"Demand .* not found"):
        await requestor.market.unsubscribe(requestor.who, "demand", demand)


async def test_second_counter_is_refused(pair: Pair) -> None:
    requestor, provider = pair
    ids = await negotiate(requestor, provider)

    with pytest.raises(Gone, match="already has counter proposal"):
        await requestor.counter(Role.REQUESTOR, ids.demand, ids.initial)
    with pytest.raises(UsageError, match="Can't react to own Proposal"):
        await requestor.counter(Role.REQUESTOR, ids.demand, ids.first_counter)


async def test_counter_that_does_not_match_is_refused_before_it_is_sent(pair: Pair) -> None:
    requestor, provider = pair
    demand = await requestor.seek()
    await provider.publish()
    [event] = await requestor.events("demand", demand)
    proposal = event["proposal"]["proposalId"]

    with pytest.raises(UsageError, match=r'Offer: \["nosuch"\], Demand: \[\]'):
        await requestor.counter(Role.REQUESTOR, demand, proposal, constraints="(nosuch=1)")
    with pytest.raises(UsageError, match="Prepare error: Error parsing Offer constraints"):
        await requestor.counter(Role.REQUESTOR, demand, proposal, constraints="(a")

    assert await requestor.counter(Role.REQUESTOR, demand, proposal)


async def test_counter_refused_by_the_peer_frees_the_proposal(pair: Pair) -> None:
    requestor, provider = pair
    demand = await requestor.seek()
    offer = await provider.publish()
    [event] = await requestor.events("demand", demand)
    first = await requestor.counter(Role.REQUESTOR, demand, event["proposal"]["proposalId"])
    await provider.events("offer", offer)
    await requestor.market.unsubscribe(requestor.who, "demand", demand)

    for _ in range(2):
        with pytest.raises(PeerError, match=r"Failed to send response .* wasn't found") as caught:
            await provider.counter(Role.PROVIDER, offer, f"P{first[1:]}")
        assert caught.value.status == 500


async def test_rejection_reaches_the_peer_with_its_reason(pair: Pair) -> None:
    requestor, provider = pair
    demand = await requestor.seek()
    offer = await provider.publish()
    [event] = await requestor.events("demand", demand)
    first = await requestor.counter(Role.REQUESTOR, demand, event["proposal"]["proposalId"])
    await provider.events("offer", offer)
    reason = {"message": "busy", "golem.proposal.rejection.is-final": False}

    await provider.market.reject_proposal(
        provider.who, Role.PROVIDER, offer, f"P{first[1:]}", reason=reason
    )
    [rejected] = await requestor.events("demand", demand)

    assert rejected["eventType"] == "ProposalRejectedEvent"
    assert (rejected["proposalId"], rejected["reason"]) == (first, reason)


async def test_rejected_proposal_may_still_be_countered(pair: Pair) -> None:
    requestor, provider = pair
    demand = await requestor.seek()
    offer = await provider.publish()
    [event] = await requestor.events("demand", demand)
    first = await requestor.counter(Role.REQUESTOR, demand, event["proposal"]["proposalId"])
    await provider.events("offer", offer)
    await provider.market.reject_proposal(
        provider.who, Role.PROVIDER, offer, f"P{first[1:]}", reason=None
    )
    await requestor.events("demand", demand)

    draft = await provider.counter(Role.PROVIDER, offer, f"P{first[1:]}")

    [again] = await requestor.events("demand", demand)
    assert again["proposal"]["proposalId"] == f"R{draft[1:]}"


async def test_events_come_again_until_the_next_collection(pair: Pair) -> None:
    requestor, provider = pair
    demand = await requestor.seek()
    for _ in range(3):
        await provider.publish()
    seen: list[str] = []

    while len(seen) < 3:
        events = await requestor.events("demand", demand, most=2)
        seen += [event["proposal"]["proposalId"] for event in events]

    assert len(set(seen)) == 3
    assert await requestor.events("demand", demand, timeout_s=0.0) == []
    left = await requestor.store.fetch("SELECT COUNT(*) AS n FROM negotiation_event LIMIT 1")
    assert left[0]["n"] == 0


async def test_an_event_goes_to_one_collector(pair: Pair) -> None:
    requestor, provider = pair
    demand = await requestor.seek()
    waiting = [
        asyncio.create_task(requestor.events("demand", demand, timeout_s=1.0)) for _ in range(3)
    ]
    await asyncio.sleep(0)

    await provider.publish()

    assert sorted(len(events) for events in await asyncio.gather(*waiting)) == [0, 0, 1]


@pytest.mark.parametrize("most", [0, -1, 101])
async def test_event_counts_out_of_range_are_refused(pair: Pair, most: int) -> None:
    from shem.market.queues import check_max_events

    del pair
    with pytest.raises(UsageError, match=f"Invalid maxEvents '{most}'"):
        check_max_events(most)


async def test_agreement_cannot_be_made_of_what_was_not_negotiated(pair: Pair) -> None:
    requestor, provider = pair
    ids = await negotiate(requestor, provider)
    market, who = requestor.market, requestor.who

    for proposal, words in (
        (ids.initial, "No negotiation with Provider took place"),
        (ids.first_counter, "own Proposal"),
        (f"R-{'0' * 64}", "not found"),
    ):
        with pytest.raises(UsageError, match=words):
            await market.create_agreement(who, proposal, 1)
    await propose(requestor, ids)
    with pytest.raises(Conflict, match="Can't create second Agreement"):
        await propose(requestor, ids)


async def test_agreement_of_a_rejected_proposal_is_refused(pair: Pair) -> None:
    requestor, provider = pair
    ids = await negotiate(requestor, provider)
    await requestor.market.reject_proposal(
        requestor.who, Role.REQUESTOR, ids.demand, ids.provider_draft, reason=None
    )

    with pytest.raises(UsageError, match="rejected Proposal"):
        await propose(requestor, ids)


async def test_offers_are_listed_for_their_owner_only(pair: Pair) -> None:
    requestor, provider = pair
    offer = await provider.publish(constraints=OFFER_CONSTRAINTS)

    mine = await provider.market.subscriptions(provider.who, "offer")

    assert [item.subscription_id for item in mine] == [offer]
    assert await requestor.market.subscriptions(requestor.who, "offer") == []
    with pytest.raises(NotFound):
        await provider.market.unsubscribe(requestor.who, "offer", offer)
