"""Nodes that stop in the middle of a negotiation and come back with the same store."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shem.kernel.errors import Gone, ShemError
from shem.market import endings
from shem.market.agreement_rows import load_agreement, move_agreement
from shem.market.ids import Role
from shem.market.states import AgreementInput
from shem.net.memory import MemoryFabric
from tests.sim.market_pair import (
    POLL_S,
    PROVIDER_SECRET,
    REQUESTOR_SECRET,
    Side,
    agree,
    negotiate,
    propose,
    running,
)


def requestor_on(fabric: MemoryFabric, folder: Path) -> Any:
    return running(fabric, folder, REQUESTOR_SECRET)


def provider_on(fabric: MemoryFabric, folder: Path) -> Any:
    return running(fabric, folder, PROVIDER_SECRET)


async def test_offer_demand_and_uncollected_events_survive(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with requestor_on(fabric, tmp_path) as requestor:
        async with provider_on(fabric, tmp_path) as provider:
            demand = await requestor.seek()
            offer = await provider.publish()
            [event] = await requestor.events("demand", demand)
            first = await requestor.counter(Role.REQUESTOR, demand, event["proposal"]["proposalId"])
            await _pending_event(provider, offer)
        async with provider_on(fabric, tmp_path) as provider:
            [seen] = await provider.events("offer", offer)
            assert seen["proposal"]["proposalId"] == f"P{first[1:]}"
            draft = await provider.counter(Role.PROVIDER, offer, f"P{first[1:]}")
    async with requestor_on(fabric, tmp_path) as requestor:
        mine = await requestor.market.subscriptions(requestor.who, "demand")
        assert [item.subscription_id for item in mine] == [demand]
        events = await requestor.events("demand", demand)
        assert f"R{draft[1:]}" in {item["proposal"]["proposalId"] for item in events}


async def _pending_event(side: Side, subscription: str) -> None:
    for _ in range(200):
        rows = await side.store.fetch(
            "SELECT event_id FROM negotiation_event WHERE subscription_id = :id LIMIT 1",
            id=subscription,
        )
        if rows:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("no event came")


async def test_collected_but_unacknowledged_events_are_told_again(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with provider_on(fabric, tmp_path) as provider:
        async with requestor_on(fabric, tmp_path) as requestor:
            demand = await requestor.seek()
            await provider.publish()
            told = await requestor.events("demand", demand)
        async with requestor_on(fabric, tmp_path) as requestor:
            assert await requestor.events("demand", demand) == told
            assert await requestor.events("demand", demand, timeout_s=0.0) == []


async def test_counter_to_an_absent_provider_arrives_after_its_return(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with requestor_on(fabric, tmp_path) as requestor:
        async with provider_on(fabric, tmp_path) as provider:
            demand = await requestor.seek()
            offer = await provider.publish()
            [event] = await requestor.events("demand", demand)
        first = await requestor.counter(Role.REQUESTOR, demand, event["proposal"]["proposalId"])
    async with requestor_on(fabric, tmp_path), provider_on(fabric, tmp_path) as provider:
        [seen] = await provider.events("offer", offer)
        assert seen["proposal"]["proposalId"] == f"P{first[1:]}"


async def test_agreement_in_force_survives_both_nodes(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with (
        requestor_on(fabric, tmp_path) as requestor,
        provider_on(fabric, tmp_path) as provider,
    ):
        agreement = await agree(requestor, provider)
    async with (
        requestor_on(fabric, tmp_path) as requestor,
        provider_on(fabric, tmp_path) as provider,
    ):
        assert (await requestor.row(agreement)).state == "Approved"
        await provider.market.terminate(provider.who, agreement, {"message": "bye"})
        await requestor.until_log("Approved", "Terminated")


async def test_termination_is_delivered_by_a_later_life_of_the_node(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with requestor_on(fabric, tmp_path) as requestor:
        async with provider_on(fabric, tmp_path) as provider:
            agreement = await agree(requestor, provider)
        await requestor.market.terminate(requestor.who, agreement, {"message": "bye"})
    async with provider_on(fabric, tmp_path) as provider:
        assert (await provider.row(agreement)).state == "Approved"
        async with requestor_on(fabric, tmp_path):
            await provider.until_log("Approved", "Terminated")


async def test_provider_that_died_while_approving_may_approve_again(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with requestor_on(fabric, tmp_path) as requestor:
        async with provider_on(fabric, tmp_path) as provider:
            agreement = await propose(requestor, await negotiate(requestor, provider))
            await requestor.market.confirm(requestor.who, agreement, None)
            async with provider.store.unit(agreement) as unit:
                row = await load_agreement(unit.fetch, agreement, Role.PROVIDER)
                assert row is not None
                move_agreement(unit, row, AgreementInput.APPROVE, approved_ns=1)
        async with provider_on(fabric, tmp_path) as provider:
            assert (await provider.row(agreement)).state == "Pending"
            await provider.market.approve(provider.who, agreement, None, POLL_S)
            await requestor.market.wait(requestor.who, agreement, POLL_S)


async def test_an_approval_whose_end_could_not_be_written_down_may_be_repeated(
    tmp_path: Path,
) -> None:
    fabric = MemoryFabric()
    async with (
        requestor_on(fabric, tmp_path) as requestor,
        provider_on(fabric, tmp_path) as provider,
    ):
        agreement = await propose(requestor, await negotiate(requestor, provider))
        await requestor.market.confirm(requestor.who, agreement, None)
        async with provider.store.unit(agreement) as unit:
            row = await load_agreement(unit.fetch, agreement, Role.PROVIDER)
            assert row is not None
            move_agreement(unit, row, AgreementInput.APPROVE, approved_ns=1)

        await provider.market.approve(provider.who, agreement, None, POLL_S)

        await requestor.market.wait(requestor.who, agreement, POLL_S)
        assert (await provider.row(agreement)).state == "Approved"


async def test_an_approval_is_not_begun_again_while_it_is_under_way(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with (
        requestor_on(fabric, tmp_path) as requestor,
        provider_on(fabric, tmp_path) as provider,
    ):
        agreement = await propose(requestor, await negotiate(requestor, provider))
        await requestor.market.confirm(requestor.who, agreement, None)
        requestor.outbox._deliverers["market.commit"] = _never
        first = asyncio.create_task(provider.market.approve(provider.who, agreement, None, 1))
        await _until_state(provider, agreement, "Approving")

        with pytest.raises(ShemError, match="from Approving to Approving"):
            await provider.market.approve(provider.who, agreement, None, 1)

        assert not first.done()
        with pytest.raises(ShemError, match="Timeout"):
            await first


async def test_requestor_that_died_before_its_commit_commits_after_its_return(
    tmp_path: Path,
) -> None:
    fabric = MemoryFabric()
    async with provider_on(fabric, tmp_path) as provider:
        async with requestor_on(fabric, tmp_path) as requestor:
            agreement = await propose(requestor, await negotiate(requestor, provider))
            await requestor.market.confirm(requestor.who, agreement, None)
            requestor.outbox._deliverers["market.commit"] = _never
            approving = asyncio.create_task(
                provider.market.approve(provider.who, agreement, None, 10)
            )
            await _until_state(requestor, agreement, "Approving")
        async with requestor_on(fabric, tmp_path) as requestor:
            await approving
            await requestor.until_log("Approved")


async def test_approval_that_timed_out_before_the_commit_leaves_both_pending(
    tmp_path: Path,
) -> None:
    fabric = MemoryFabric()
    async with provider_on(fabric, tmp_path) as provider:
        async with requestor_on(fabric, tmp_path) as requestor:
            agreement = await propose(requestor, await negotiate(requestor, provider))
            await requestor.market.confirm(requestor.who, agreement, None)
            requestor.outbox._deliverers["market.commit"] = _never
            with pytest.raises(ShemError, match="Timeout while sending approval"):
                await provider.market.approve(provider.who, agreement, None, 0.3)
            assert (await requestor.row(agreement)).state == "Approving"
        async with requestor_on(fabric, tmp_path) as requestor:
            await _until_state(requestor, agreement, "Pending")
            await provider.market.approve(provider.who, agreement, None, POLL_S)
            await requestor.market.wait(requestor.who, agreement, POLL_S)


async def test_cancelling_waits_for_a_commit_and_never_contradicts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "CANCEL_WAIT_S", 0.2)
    fabric = MemoryFabric()
    async with provider_on(fabric, tmp_path) as provider:
        async with requestor_on(fabric, tmp_path) as requestor:
            agreement = await propose(requestor, await negotiate(requestor, provider))
            await requestor.market.confirm(requestor.who, agreement, None)
            requestor.outbox._deliverers["market.commit"] = _never
            approving = asyncio.create_task(
                provider.market.approve(provider.who, agreement, None, 10)
            )
            await _until_state(requestor, agreement, "Approving")

            with pytest.raises(Gone, match="from Approving to Cancelled"):
                await requestor.market.cancel(requestor.who, agreement, None)
        async with requestor_on(fabric, tmp_path) as requestor:
            await approving
            await requestor.until_log("Approved")


async def _never(row: object) -> Any:
    del row
    await asyncio.Event().wait()


async def _until_state(side: Side, agreement: str, state: str) -> None:
    topic = f"market.agreement:{agreement}"
    for _ in range(20):
        version = side.store.topics.version(topic)
        if (await side.row(agreement)).state == state:
            return
        assert await side.store.topics.changed(topic, version, POLL_S)
    raise AssertionError(state)
