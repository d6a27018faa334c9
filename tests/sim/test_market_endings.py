"""Every way an agreement can end or fail to begin, with the peer present, away, or lying."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import Conflict, Gone, NotFound, TimedOut, Unreachable, UsageError
from shem.kernel.times import NS_PER_S
from shem.kernel.world import SystemClock, World
from shem.market.ids import Role
from shem.market.messages import AgreementTerminated, encode
from shem.net.memory import MemoryFabric
from tests.sim.market_pair import (
    DEMAND,
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


class AheadClock(SystemClock):
    """A clock that is wrong."""

    def __init__(self, ahead_ns: int) -> None:
        self._ahead_ns = ahead_ns

    def wall_ns(self) -> int:
        return super().wall_ns() + self._ahead_ns


Trio = tuple[Side, Side, MemoryFabric]
REASON = {"message": "enough"}


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[Trio]:
    fabric = MemoryFabric()
    async with (
        running(fabric, tmp_path, REQUESTOR_SECRET) as requestor,
        running(fabric, tmp_path, PROVIDER_SECRET) as provider,
    ):
        yield requestor, provider, fabric


async def confirmed(requestor: Side, provider: Side) -> Any:
    """Bring an agreement to Pending on both sides."""
    agreement = await propose(requestor, await negotiate(requestor, provider))
    await requestor.market.confirm(requestor.who, agreement, None)
    return agreement


async def test_requestor_terminates(trio: Trio) -> None:
    requestor, provider, _ = trio
    agreement = await agree(requestor, provider)
    ended: list[str] = []
    provider.market.on_agreement_end(ended.append)

    await requestor.market.terminate(requestor.who, agreement, REASON)

    assert (await provider.row(agreement)).state == "Terminated"
    assert ended == [agreement]
    for side in (requestor, provider):
        event = await side.market.termination(side.who, agreement)
        assert (event.terminator, event.reason) == (Role.REQUESTOR, '{"message":"enough"}')
    with pytest.raises(Gone, match="from Terminated to Terminated"):
        await requestor.market.terminate(requestor.who, agreement, REASON)


async def test_provider_terminates(trio: Trio) -> None:
    requestor, provider, _ = trio
    agreement = await agree(requestor, provider)

    await provider.market.terminate(provider.who, agreement, REASON)

    assert (await requestor.row(agreement)).state == "Terminated"
    event = await requestor.market.termination(requestor.who, agreement)
    assert event.terminator is Role.PROVIDER


async def test_pair_is_proposed_anew_after_termination(trio: Trio) -> None:
    requestor, provider, _ = trio
    ids = await negotiate(requestor, provider)
    agreement = await agree(requestor, provider, ids)

    await provider.market.terminate(provider.who, agreement, REASON)

    [event] = await requestor.events("demand", ids.demand)
    assert event["proposal"]["state"] == "Initial"
    again = await answer(
        requestor, provider, ids.offer, ids.demand, event["proposal"]["proposalId"]
    )
    assert await agree(requestor, provider, again) != agreement


async def test_terminating_an_absent_peer_succeeds_and_is_delivered_later(trio: Trio) -> None:
    requestor, provider, fabric = trio
    agreement = await agree(requestor, provider)
    fabric.cut(requestor.node_id, provider.node_id)

    await requestor.market.terminate(requestor.who, agreement, REASON)

    assert (await requestor.row(agreement)).state == "Terminated"
    assert (await provider.row(agreement)).state == "Approved"
    fabric.join(requestor.node_id, provider.node_id)
    requestor.outbox.peer_alive(provider.node_id)
    await provider.until_log("Approved", "Terminated")


async def test_both_terminate_at_once(trio: Trio) -> None:
    requestor, provider, fabric = trio
    agreement = await agree(requestor, provider)
    fabric.cut(requestor.node_id, provider.node_id)

    await asyncio.gather(
        requestor.market.terminate(requestor.who, agreement, REASON),
        provider.market.terminate(provider.who, agreement, REASON),
    )
    fabric.join(requestor.node_id, provider.node_id)
    for side, peer in ((requestor, provider), (provider, requestor)):
        side.outbox.peer_alive(peer.node_id)
        await _drained(side)

    for side in (requestor, provider):
        assert await side.log() == ["Approved", "Terminated"]


async def _drained(side: Side) -> None:
    for _ in range(100):
        if not await side.outbox.pending():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(await side.outbox.pending())


async def test_repeated_termination_is_taken_as_the_same(trio: Trio) -> None:
    requestor, provider, _ = trio
    agreement = await agree(requestor, provider)
    await requestor.market.terminate(requestor.who, agreement, REASON)
    path = f"/from/{requestor.node_id}/to/{provider.node_id}"
    address = f"{path}/market/protocol/mk1/negotiation/provider/agreement/AgreementTerminated"
    message = encode(AgreementTerminated(f"P-{agreement}", REASON, "NotSigned", 1))
    caller = Caller(requestor.node_id, Assurance.LOCAL)

    assert await requestor.bus.request(caller, address, message, timeout_s=5) is None
    assert await provider.log() == ["Approved", "Terminated"]


async def test_termination_needs_an_agreement_in_force(trio: Trio) -> None:
    requestor, provider, _ = trio
    agreement = await propose(requestor, await negotiate(requestor, provider))

    with pytest.raises(Conflict, match="from Proposal to Terminated"):
        await requestor.market.terminate(requestor.who, agreement, REASON)
    await requestor.market.confirm(requestor.who, agreement, None)
    with pytest.raises(Gone, match="from Pending to Terminated"):
        await requestor.market.terminate(requestor.who, agreement, REASON)
    with pytest.raises(UsageError, match="not terminated yet"):
        await requestor.market.termination(requestor.who, agreement)


async def test_provider_rejects(trio: Trio) -> None:
    requestor, provider, _ = trio
    agreement = await confirmed(requestor, provider)

    await provider.market.reject(provider.who, agreement, REASON)

    for _ in range(2):
        with pytest.raises(Gone, match=r"^Rejected$"):
            await requestor.market.wait(requestor.who, agreement, POLL_S)
    assert await requestor.log() == await provider.log() == ["Rejected"]
    with pytest.raises(Gone, match="from Rejected to Approving"):
        await provider.market.approve(provider.who, agreement, None, POLL_S)


async def test_requestor_cancels(trio: Trio) -> None:
    requestor, provider, _ = trio
    agreement = await confirmed(requestor, provider)

    await requestor.market.cancel(requestor.who, agreement, REASON)

    with pytest.raises(Gone, match=r"^Cancelled$"):
        await requestor.market.wait(requestor.who, agreement, POLL_S)
    with pytest.raises(Gone, match=r"^Cancelled$"):
        await provider.market.approve(provider.who, agreement, None, POLL_S)
    assert await requestor.log() == await provider.log() == ["Cancelled"]


async def test_cancelled_agreement_cannot_be_approved_behind_the_requestor(trio: Trio) -> None:
    requestor, provider, fabric = trio
    agreement = await confirmed(requestor, provider)
    fabric.cut(requestor.node_id, provider.node_id)
    await requestor.market.cancel(requestor.who, agreement, REASON)
    fabric.join(requestor.node_id, provider.node_id)

    with pytest.raises(Gone, match=r"^Cancelled$"):
        await provider.market.approve(provider.who, agreement, None, POLL_S)

    await provider.until_log("Cancelled")
    assert (await requestor.row(agreement)).state == "Cancelled"


async def test_unsent_agreement_is_cancelled_without_the_peer(trio: Trio) -> None:
    requestor, provider, _ = trio
    agreement = await propose(requestor, await negotiate(requestor, provider))

    await requestor.market.cancel(requestor.who, agreement, REASON)

    assert (await requestor.row(agreement)).state == "Cancelled"
    assert await requestor.outbox.pending() == []
    with pytest.raises(Gone, match="from Cancelled to Pending"):
        await requestor.market.confirm(requestor.who, agreement, None)


async def test_waiting_needs_confirmation_and_ends_in_time(trio: Trio) -> None:
    requestor, provider, _ = trio
    agreement = await propose(requestor, await negotiate(requestor, provider))

    with pytest.raises(UsageError, match="should be confirmed, before waiting"):
        await requestor.market.wait(requestor.who, agreement, 0.0)
    await requestor.market.confirm(requestor.who, agreement, None)
    with pytest.raises(TimedOut, match="Timeout while waiting") as caught:
        await requestor.market.wait(requestor.who, agreement, 0.0)
    assert caught.value.status == 408
    with pytest.raises(Gone, match="from Pending to Pending"):
        await requestor.market.confirm(requestor.who, agreement, None)


async def test_agreement_not_confirmed_by_its_time_expires(trio: Trio) -> None:
    requestor, provider, _ = trio
    agreement = await propose(requestor, await negotiate(requestor, provider), valid_s=-1.0)

    form = await requestor.market.agreement_of(requestor.who, agreement)

    assert form["state"] == "Expired"
    with pytest.raises(Gone, match="from Expired to Pending"):
        await requestor.market.confirm(requestor.who, agreement, None)
    with pytest.raises(Gone, match="expired"):
        await requestor.market.wait(requestor.who, agreement, 0.0)


async def test_confirming_an_absent_provider_fails_and_may_be_repeated(trio: Trio) -> None:
    requestor, provider, fabric = trio
    agreement = await propose(requestor, await negotiate(requestor, provider))
    fabric.cut(requestor.node_id, provider.node_id)

    with pytest.raises(Unreachable, match="Protocol error: Propose Agreement") as caught:
        await requestor.market.confirm(requestor.who, agreement, "s", timeout_s=0.2)

    assert caught.value.status == 500
    assert (await requestor.row(agreement)).state == "Proposal"
    fabric.join(requestor.node_id, provider.node_id)
    await requestor.market.confirm(requestor.who, agreement, "s")
    assert (await provider.row(agreement)).state == "Pending"


async def test_confirm_reaches_a_provider_that_comes_back_in_time(trio: Trio) -> None:
    requestor, provider, fabric = trio
    agreement = await propose(requestor, await negotiate(requestor, provider))
    fabric.cut(requestor.node_id, provider.node_id)
    confirming = asyncio.create_task(requestor.market.confirm(requestor.who, agreement, None, 5))
    await asyncio.sleep(0.05)

    fabric.join(requestor.node_id, provider.node_id)

    await confirming
    assert (await provider.row(agreement)).state == "Pending"


async def test_approving_towards_an_absent_requestor_fails_and_may_be_repeated(
    trio: Trio,
) -> None:
    requestor, provider, fabric = trio
    agreement = await confirmed(requestor, provider)
    fabric.cut(requestor.node_id, provider.node_id)

    with pytest.raises(Unreachable, match="Protocol error while approving") as caught:
        await provider.market.approve(provider.who, agreement, None, 0.2)

    assert caught.value.status == 500
    assert (await provider.row(agreement)).state == "Pending"
    fabric.join(requestor.node_id, provider.node_id)
    await provider.market.approve(provider.who, agreement, None, POLL_S)
    await requestor.market.wait(requestor.who, agreement, POLL_S)


async def test_approval_without_time_fails(trio: Trio) -> None:
    requestor, provider, _ = trio
    agreement = await confirmed(requestor, provider)

    with pytest.raises(TimedOut, match="Timeout while sending approval") as caught:
        await provider.market.approve(provider.who, agreement, None, 0.0)

    assert caught.value.status == 500
    await provider.market.approve(provider.who, agreement, None, POLL_S)


async def test_agreement_ends_by_its_own_clock_on_both_sides(tmp_path: Path) -> None:
    fabric = MemoryFabric()
    # A requestor leaves the provider five seconds to say it first: this one's clock runs ahead.
    ahead = World(clock=AheadClock(5 * NS_PER_S))
    async with (
        running(fabric, tmp_path, REQUESTOR_SECRET, ahead) as requestor,
        running(fabric, tmp_path, PROVIDER_SECRET) as provider,
    ):
        demand_terms = dict(DEMAND)
        expires_ms = provider.world.clock.wall_ns() // 1_000_000 + 700
        demand_terms["golem.srv.comp.expiration"] = expires_ms
        demand = await requestor.seek(demand_terms)
        offer = await provider.publish()
        [event] = await requestor.events("demand", demand)
        first = await requestor.counter(
            Role.REQUESTOR, demand, event["proposal"]["proposalId"], properties=demand_terms
        )
        await provider.events("offer", offer)
        draft = await provider.counter(Role.PROVIDER, offer, f"P{first[1:]}")
        await requestor.events("demand", demand)
        valid_to_ns = requestor.world.clock.wall_ns() + 10**10
        agreement = await requestor.market.create_agreement(
            requestor.who, f"R{draft[1:]}", valid_to_ns
        )
        await requestor.market.confirm(requestor.who, agreement, None)
        await provider.market.approve(provider.who, agreement, None, POLL_S)
        await requestor.until_log("Approved")
        fabric.cut(requestor.node_id, provider.node_id)

        await provider.until_log("Approved", "Terminated")

        reason = (await provider.market.termination(provider.who, agreement)).reason
        assert reason is not None
        assert '"golem.provider.code":"Expired"' in reason
        await requestor.until_log("Approved", "Terminated")


async def test_an_unknown_agreement_is_not_found(trio: Trio) -> None:
    requestor, _, _ = trio
    market, who, unknown = requestor.market, requestor.who, "0" * 64

    for act in (
        market.terminate(who, unknown, None),
        market.cancel(who, unknown, None),
        market.reject(who, unknown, None),
        market.confirm(who, unknown, None),
        market.wait(who, unknown, 0.0),
        market.approve(who, unknown, None, 0.0),
        market.agreement_of(who, unknown),
        market.termination(who, unknown),
    ):
        with pytest.raises(NotFound, match=r"Agreement \[.*\] not found\."):
            await act
