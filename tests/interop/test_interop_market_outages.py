"""A real yagna killed in the middle of things: what our node says meanwhile reaches it later.

A yagna forgets offers, demands and proposals when it dies, and keeps agreements (market.md §8).
"""

import asyncio
import time

import pytest

from tests.interop.deal import answered, refused, rejection, told
from tests.interop.town import SHEM, WITH_YAGNA, YAGNA

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(100)]

BACK_MAX_S = 5.0
"""How long after its return a node may be out of reach of those who talked to it before."""
DELIVERED_MAX_S = 15.0
"""How long after a yagna's return it may take until it has what was said meanwhile."""
AT_ONCE_S = 3.0

with_yagna = pytest.mark.parametrize("pair", WITH_YAGNA)


def the_others(deal, town):
    """Return our party and the yagna's."""
    yagna = town.parties[YAGNA]
    return (deal.provider if deal.requestor is yagna else deal.requestor), yagna


@with_yagna
async def test_a_yagna_killed_while_an_agreement_is_pending_can_go_on(town, pair):
    deal = await town.deal(pair)
    await deal.to_proposed()
    _, yagna = the_others(deal, town)

    await yagna.restart()

    _, took_s = await answered(deal.approve)
    await deal.wait()
    print(f"approved {took_s:.2f} s after the yagna was up")  # noqa: T201
    await deal.both("Approved")
    assert took_s < BACK_MAX_S


async def test_our_approval_waits_for_a_yagna_that_comes_back_in_time(town):
    deal = await town.deal((YAGNA, SHEM))
    await deal.to_proposed()
    await deal.requestor.kill()

    approval = asyncio.create_task(deal.approve(timeout_s=40))
    await deal.requestor.back()
    await approval

    await deal.both("Approved")


async def test_our_approval_fails_as_a_yagnas_does_and_can_be_repeated(town):
    deal = await town.deal((YAGNA, SHEM))
    await deal.to_proposed()
    await deal.requestor.kill()
    approve = deal.provider.market.agreements.approve

    status, message = await refused(approve(deal.agreement_id, timeout_s=1))

    assert status == 500
    assert message.startswith("Protocol error while approving:")
    assert await deal.provider.state(deal.agreement_id) == "Pending"
    await deal.requestor.back()
    await deal.approve()
    await deal.both("Approved")


async def test_a_yagna_requestor_killed_before_it_confirms_can_still_confirm_with_us(town):
    """Its agreement survives; that the proposal does as well is up to the provider's node."""
    deal = await town.deal((YAGNA, SHEM))
    await deal.to_draft()
    await deal.create()

    await deal.requestor.restart()
    await deal.provider.restart()

    await answered(deal.confirm)
    for step in (deal.proposed, deal.approve, deal.wait):
        await step()
    await deal.both("Approved")


async def test_a_yagna_provider_killed_before_the_confirmation_refuses_it_for_good(town):
    deal = await town.deal((SHEM, YAGNA))
    await deal.to_draft()
    await deal.create()

    await deal.provider.restart()

    status, message = await refused(deal.confirm())
    assert status == 500
    assert "not found" in message
    assert await deal.requestor.state(deal.agreement_id) == "Proposal"


async def test_a_yagna_providers_dead_offer_is_refused_and_not_proposed_again(town):
    deal = await town.deal((SHEM, YAGNA))
    await deal.demand()
    await deal.match()
    await deal.provider.restart()

    await deal.counter()

    event = await rejection(deal.requestor.market.demands, deal.demand_id, deal.first)
    assert "wasn't found" in event.reason["message"]
    await deal.demand()
    assert await deal.requestor.market.demands.events(deal.demand_id, timeout_s=1) == []


async def test_our_counter_to_a_yagna_that_forgot_the_demand_comes_back_as_a_rejection(town):
    deal = await town.deal((YAGNA, SHEM))
    await deal.demand()
    for step in (deal.match, deal.counter, deal.heard):
        await step()
    await deal.requestor.kill()

    await deal.answer()

    await deal.requestor.back()
    event = await rejection(deal.provider.market.offers, deal.offer_id, deal.draft)
    assert "not found" in event.reason["message"]


@with_yagna
async def test_our_termination_is_done_at_once_and_told_to_the_yagna_when_it_is_back(town, pair):
    deal = await town.deal(pair)
    await deal.to_approved()
    ours, yagna = the_others(deal, town)
    reason = {"message": "gone", "golem.requestor.code": "Success"}
    await yagna.kill()

    started = time.monotonic()
    await ours.market.agreements.terminate(deal.agreement_id, reason)

    assert time.monotonic() - started < AT_ONCE_S
    assert await ours.state(deal.agreement_id) == "Terminated"
    await ours.restart()
    await yagna.back()
    took_s = await yagna.until(deal.agreement_id, "Terminated", DELIVERED_MAX_S)
    print(f"told {took_s:.2f} s after the yagna was up")  # noqa: T201
    asker, giver = ([told(event) for event in log] for log in await deal.logs())
    assert asker == giver
    assert asker[1][2] == reason


@with_yagna
@pytest.mark.parametrize("stage", ["pending", "approved"])
async def test_both_daemons_are_killed_and_the_yagna_ends_it(town, pair, stage):
    deal = await town.deal(pair)
    ours, yagna = the_others(deal, town)
    await (deal.to_proposed() if stage == "pending" else deal.to_approved())
    for party in (ours, yagna):
        await party.kill()
    for party in (yagna, ours):
        await party.back()
    verb, state = "terminate", "Terminated"
    if stage == "pending":
        verb, state = ("cancel", "Cancelled") if deal.requestor is yagna else ("reject", "Rejected")
    end = getattr(yagna.market.agreements, verb)

    await answered(lambda: end(deal.agreement_id, {"message": "x"}))

    await deal.both(state)
    asker, giver = ([told(event) for event in log] for log in await deal.logs())
    assert asker == giver


@with_yagna
async def test_a_yagna_cannot_end_it_while_we_are_away_and_can_when_we_are_back(town, pair):
    """Its call hangs for as long as it repeats the message; nothing comes of it."""
    deal = await town.deal(pair)
    await deal.to_approved()
    ours, yagna = the_others(deal, town)
    end = yagna.market.agreements.terminate
    await ours.kill()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(end(deal.agreement_id, {"message": "x"}), AT_ONCE_S)

    await ours.back()
    await town.meet_again(ours, yagna)
    assert await deal.states() == ("Approved", "Approved")
    await end(deal.agreement_id, {"message": "x"})
    await deal.both("Terminated")


@pytest.mark.parametrize(
    ("pair", "verb", "state"),
    [
        pytest.param((SHEM, YAGNA), "cancel", "Cancelled", id="we cancel"),
        pytest.param((YAGNA, SHEM), "reject", "Rejected", id="we reject"),
    ],
)
async def test_what_we_say_about_a_pending_agreement_reaches_a_yagna_that_was_away(
    town, pair, verb, state
):
    deal = await town.deal(pair)
    await deal.to_proposed()
    ours, yagna = the_others(deal, town)
    await yagna.kill()

    await getattr(ours.market.agreements, verb)(deal.agreement_id, {"message": "no"})

    assert await ours.state(deal.agreement_id) == state
    await yagna.back()
    await yagna.until(deal.agreement_id, state, DELIVERED_MAX_S)
