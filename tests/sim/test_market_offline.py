"""An absent peer: what is said to it waits and shows, or fails exactly as yagna's would."""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from shem.kernel.errors import Gone, ShemError, Unreachable
from shem.market import endings
from shem.market.agreements import Filter
from shem.market.ids import Role
from shem.market.states import AgreementState
from shem.net.memory import MemoryFabric
from tests.sim.market_pair import (
    OFFER,
    POLL_S,
    PROVIDER_SECRET,
    REQUESTOR_SECRET,
    Side,
    agree,
    answer,
    negotiate,
    propose,
    running,
)

NO = {"message": "no"}


def waiting(form: Any) -> list[str]:
    return [item["message"] for item in form.get("pendingDelivery", [])]


# --- what waits shows ---


async def test_an_agreement_shows_what_the_absent_party_lacks_and_since_when(
    tmp_path: Path,
) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            agreement = await agree(requestor, provider)
            shown = await requestor.market.agreement_of(requestor.who, agreement)
            assert "pendingDelivery" not in shown
        await requestor.market.terminate(requestor.who, agreement, NO)

        shown = await requestor.market.agreement_of(requestor.who, agreement)
        assert shown["state"] == "Terminated"
        [item] = shown["pendingDelivery"]  # type: ignore[misc]
        assert item.keys() == {"message", "since", "attempts"}
        assert item["message"] == "AgreementTerminated"
        assert item["attempts"] >= 1
        assert item["since"].endswith("Z")

        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            await provider.until_log("Approved", "Terminated")
            await _delivered(requestor)
            shown = await requestor.market.agreement_of(requestor.who, agreement)
            assert "pendingDelivery" not in shown
            assert "pendingDelivery" not in await provider.market.agreement_of(
                provider.who, agreement
            )


async def test_proposals_show_what_the_absent_party_lacks(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            ids = await negotiate(requestor, provider)
        counter = await requestor.counter(Role.REQUESTOR, ids.demand, ids.provider_draft)

        async def shown(proposal: Any) -> list[str]:
            return waiting(
                await requestor.market.proposal(requestor.who, Role.REQUESTOR, ids.demand, proposal)
            )

        assert await shown(counter) == ["ProposalReceived"]
        assert await shown(ids.first_counter) == []
        await requestor.market.reject_proposal(
            requestor.who, Role.REQUESTOR, ids.demand, ids.provider_draft, reason=NO
        )
        assert await shown(ids.provider_draft) == ["ProposalRejected"]


async def _delivered(*sides: Side) -> None:
    for _ in range(200):
        if not any([await side.outbox.pending() for side in sides]):
            return
        for side in sides:
            for other in sides:
                side.outbox.peer_alive(other.node_id)
        await asyncio.sleep(0.02)
    raise AssertionError("not delivered")


# --- yagna's failures ---


async def test_exact_failures_of_endings_change_nothing_and_may_be_retried(
    tmp_path: Path,
) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET, exact_failures=True) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            agreement = await agree(requestor, provider)
        with pytest.raises(
            Unreachable,
            match=rf"^Protocol error while terminating: Terminate Agreement \[R-{agreement}\] "
            "GSB error: ",
        ):
            await requestor.market.terminate(requestor.who, agreement, NO)
        assert (await requestor.row(agreement)).state == "Approved"
        assert await requestor.outbox.pending(kind="market.ending") == []
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            await requestor.market.terminate(requestor.who, agreement, NO)
            assert (await requestor.row(agreement)).state == "Terminated"
            assert (await provider.row(agreement)).state == "Terminated"
            with pytest.raises(Gone):
                await requestor.market.terminate(requestor.who, agreement, NO)


async def test_exact_failures_of_cancel_and_reject(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with (
        running(fabric, tmp_path, REQUESTOR_SECRET, exact_failures=True) as requestor,
        running(fabric, tmp_path, PROVIDER_SECRET, exact_failures=True) as provider,
    ):
        agreement = await propose(requestor, await negotiate(requestor, provider))
        await requestor.market.confirm(requestor.who, agreement, None)
        fabric.cut(requestor.node_id, provider.node_id)
        for side, act in (
            (requestor, requestor.market.cancel),
            (provider, provider.market.reject),
        ):
            with pytest.raises(Unreachable, match=r"^Protocol error while approving: Approve"):
                await act(side.who, agreement, NO)
            assert (await side.row(agreement)).state == "Pending"
        started = time.monotonic()
        with pytest.raises(ShemError, match="Protocol error while approving"):
            await provider.market.approve(provider.who, agreement, None, 5)
        assert time.monotonic() - started < 4
        assert (await provider.row(agreement)).state == "Pending"
        fabric.join(requestor.node_id, provider.node_id)
        await requestor.market.cancel(requestor.who, agreement, NO)
        assert (await provider.row(agreement)).state == "Cancelled"


async def test_exact_failure_of_cancelling_what_was_never_sent(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with (
        running(fabric, tmp_path, REQUESTOR_SECRET, exact_failures=True) as requestor,
        running(fabric, tmp_path, PROVIDER_SECRET) as provider,
    ):
        agreement = await propose(requestor, await negotiate(requestor, provider))
        with pytest.raises(ShemError, match="not found") as refused:
            await requestor.market.cancel(requestor.who, agreement, NO)
        assert refused.value.status == 500
        assert (await requestor.row(agreement)).state == "Proposal"


async def test_exact_failures_of_proposals(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET, exact_failures=True) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            ids = await negotiate(requestor, provider)
            await provider.publish({"second": 1} | OFFER)
            [initial] = await requestor.events("demand", ids.demand)
        draft = ids.provider_draft
        with pytest.raises(Unreachable, match=r"^Failed to send response for Proposal .*GSB error"):
            await requestor.counter(Role.REQUESTOR, ids.demand, draft)
        with pytest.raises(Gone, match="already has counter"):
            await requestor.counter(Role.REQUESTOR, ids.demand, draft)

        async def reject() -> None:
            await requestor.market.reject_proposal(
                requestor.who, Role.REQUESTOR, ids.demand, draft, reason=NO
            )

        with pytest.raises(Unreachable, match=r"^Rejecting Proposal .* GSB error"):
            await reject()
        await _delivered(requestor)
        # A first counter is sent in the background: it succeeds, and is never heard of again.
        await requestor.counter(Role.REQUESTOR, ids.demand, initial["proposal"]["proposalId"])
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            await reject()
            [event] = await provider.events("offer", ids.offer)
            assert event["eventType"] == "ProposalRejectedEvent"


async def test_exact_failure_of_confirming_leaves_a_proposal(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    async with running(fabric, tmp_path, REQUESTOR_SECRET, exact_failures=True) as requestor:
        async with running(fabric, tmp_path, PROVIDER_SECRET) as provider:
            agreement = await propose(requestor, await negotiate(requestor, provider))
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"^Protocol error: Propose Agreement .* GSB error"):
            await requestor.market.confirm(requestor.who, agreement, None)
        assert time.monotonic() - started < 5
        assert (await requestor.row(agreement)).state == "Proposal"
        async with running(fabric, tmp_path, PROVIDER_SECRET):
            await requestor.market.confirm(requestor.who, agreement, None)


# --- the clock ---


async def test_what_nobody_approved_in_time_is_written_down_as_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "EXPIRY_LOOK_S", 0.05)
    fabric = MemoryFabric()
    async with (
        running(fabric, tmp_path, REQUESTOR_SECRET) as requestor,
        running(fabric, tmp_path, PROVIDER_SECRET) as provider,
    ):
        agreement = await propose(requestor, await negotiate(requestor, provider), valid_s=0.5)
        await requestor.market.confirm(requestor.who, agreement, None)
        for side in (requestor, provider):
            topic = f"market.agreement:{agreement}"
            while True:
                version = side.store.topics.version(topic)
                if (await side.row(agreement)).state == "Expired":
                    break
                assert await side.store.topics.changed(topic, version, POLL_S)
            assert await side.log() == []
            entries = await side.market.agreements(side.who, Filter(state=AgreementState.EXPIRED))
            assert [entry.agreement_id for entry in entries] == [agreement]
        with pytest.raises(Gone, match="expired"):
            await requestor.market.wait(requestor.who, agreement, 0)


# --- many peers ---


async def test_one_long_absent_peer_slows_nobody_else(tmp_path: Path) -> None:
    """Thirty messages wait for one peer; negotiations with eight others go on as ever."""
    fabric = MemoryFabric()
    async with AsyncExitStack() as stack:
        requestor = await stack.enter_async_context(running(fabric, tmp_path, REQUESTOR_SECRET))
        async with running(fabric, tmp_path, PROVIDER_SECRET) as absent:
            drafts = []
            demand = await requestor.seek()
            for number in range(30):
                offer = await absent.publish(OFFER | {"number": number})
                [initial] = await requestor.events("demand", demand)
                proposal = initial["proposal"]["proposalId"]
                ids = await answer(requestor, absent, offer, demand, proposal)
                drafts.append(ids.provider_draft)
            agreement = await agree(requestor, absent, ids)
        await requestor.market.terminate(requestor.who, agreement, NO)
        await _reject_all(requestor, drafts[:-1])
        assert len(await requestor.outbox.pending()) == 30

        started = time.monotonic()
        others = [
            await stack.enter_async_context(running(fabric, tmp_path, f"{number:02x}" * 32))
            for number in range(0x41, 0x49)
        ]
        for number, other in enumerate(others):
            demand = await requestor.seek(constraints=f"(fresh={number})")
            offer = await other.publish(OFFER | {"fresh": number})
            [event] = await requestor.events("demand", demand)
            ids = await answer(requestor, other, offer, demand, event["proposal"]["proposalId"])
            made = await agree(requestor, other, ids)
            await requestor.market.terminate(requestor.who, made, NO)
            await other.until_log("Approved", "Terminated")
        assert time.monotonic() - started < 30
        assert len(await requestor.outbox.pending(peer=absent.node_id)) == 30


async def _reject_all(requestor: Side, drafts: list[Any]) -> None:
    for draft in drafts:
        rows = await requestor.store.fetch(
            "SELECT subscription_id FROM proposal WHERE proposal_id = :id LIMIT 1", id=draft
        )
        await requestor.market.reject_proposal(
            requestor.who, Role.REQUESTOR, rows[0]["subscription_id"], draft, reason=NO
        )
