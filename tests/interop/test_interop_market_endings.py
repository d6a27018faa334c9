"""How agreements between our nodes and a real yagna end: both sides say the same."""

import asyncio
import time

import pytest

from tests.interop.deal import BACK_S, refused, rejection, told, until
from tests.interop.town import PAIRS

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.parametrize("pair", PAIRS)]

APPROVED = ("AgreementApprovedEvent", None, None)
SHORT_S = 3.0


async def test_an_approved_agreement_reads_the_same_on_both_sides(town, pair):
    deal = await town.deal(pair)

    await deal.to_approved()

    asker = await deal.requestor.market.agreements.get(deal.agreement_id)
    giver = await deal.provider.market.agreements.get(deal.agreement_id)
    assert asker == giver
    assert asker.state == "Approved"
    assert asker.demand.properties == deal.wants[0]
    assert asker.offer.properties == deal.sells[0]
    assert [[told(event) for event in log] for log in await deal.logs()] == [[APPROVED]] * 2


@pytest.mark.parametrize("ender", ["Requestor", "Provider"])
async def test_terminate(town, pair, ender):
    deal = await town.deal(pair)
    await deal.to_approved()
    party = deal.requestor if ender == "Requestor" else deal.provider
    reason = {"message": "bye", "golem.requestor.code": "Success", "extra": {"n": [1, 2.5, None]}}

    await party.market.agreements.terminate(deal.agreement_id, reason)

    await deal.both("Terminated")
    asker, giver = ([told(event) for event in log] for log in await deal.logs())
    assert asker == giver == [APPROVED, ("AgreementTerminatedEvent", ender, reason)]
    for side in (deal.requestor, deal.provider):
        why = await side.market.agreements.termination(deal.agreement_id)
        assert told(why) == asker[1]
        assert (await refused(side.market.agreements.terminate(deal.agreement_id)))[0] == 410


async def test_terminate_without_a_reason(town, pair):
    deal = await town.deal(pair)
    await deal.to_approved()

    await deal.provider.market.agreements.terminate(deal.agreement_id)

    await deal.both("Terminated")
    asker, giver = ([told(event) for event in log] for log in await deal.logs())
    assert asker == giver == [APPROVED, ("AgreementTerminatedEvent", "Provider", None)]


async def test_both_terminate_at_once(town, pair):
    """It has ended on both sides, once on each; who did it may look different from there."""
    deal = await town.deal(pair)
    await deal.to_approved()
    sides = (deal.requestor, deal.provider)

    ends = [side.market.agreements.terminate(deal.agreement_id, {"message": "x"}) for side in sides]
    outcomes = await asyncio.gather(*ends, return_exceptions=True)

    assert None in outcomes
    await deal.both("Terminated")
    for log in await deal.logs():
        kinds = [event.event_type for event in log]
        assert kinds == ["AgreementApprovedEvent", "AgreementTerminatedEvent"]


async def test_cancel(town, pair):
    deal = await town.deal(pair)
    await deal.to_proposed()
    reason = {"message": "changed mind"}

    await deal.requestor.market.agreements.cancel(deal.agreement_id, reason)

    await deal.both("Cancelled")
    asker, giver = ([told(event) for event in log] for log in await deal.logs())
    assert asker == giver == [("AgreementCancelledEvent", None, reason)]
    assert await refused(deal.approve()) == (410, "Cancelled")
    assert await refused(deal.wait()) == (410, "Cancelled")


async def test_approve_and_cancel_at_once(town, pair):
    """Either is too late; both sides agree on which."""
    deal = await town.deal(pair)
    await deal.to_proposed()
    cancel = deal.requestor.market.agreements.cancel(deal.agreement_id, {"message": "x"})

    outcomes = await asyncio.gather(deal.approve(), cancel, return_exceptions=True)

    state = "Approved" if outcomes[0] is None else "Cancelled"
    assert outcomes.count(None) == 1
    await deal.both(state)
    asker, giver = ([told(event) for event in log] for log in await deal.logs())
    assert asker == giver
    assert [kind for kind, *_ in asker] == [f"Agreement{state}Event"]


async def test_reject(town, pair):
    deal = await town.deal(pair)
    await deal.to_proposed()
    reason = {"message": "no", "golem.proposal.rejection.is-final": False}

    await deal.provider.market.agreements.reject(deal.agreement_id, reason)

    await deal.both("Rejected")
    asker, giver = ([told(event) for event in log] for log in await deal.logs())
    assert asker == giver == [("AgreementRejectedEvent", None, reason)]
    assert await refused(deal.wait()) == (410, "Rejected")
    assert (await refused(deal.approve()))[0] == 410


async def test_valid_to_passes_before_approval(town, pair):
    deal = await town.deal(pair)
    await deal.to_proposed(valid_s=SHORT_S)

    await deal.both("Expired")

    assert await deal.logs() == ([], [])
    for call in (deal.approve(), deal.wait()):
        assert (await refused(call))[0] == 410
    for side, verb in ((deal.requestor, "cancel"), (deal.provider, "reject")):
        ending = getattr(side.market.agreements, verb)
        assert (await refused(ending(deal.agreement_id)))[0] == 410


async def test_an_agreement_in_force_outlives_valid_to(town, pair):
    deal = await town.deal(pair)
    await deal.to_draft()
    await deal.create(SHORT_S)
    ends = time.monotonic() + SHORT_S
    for step in (deal.confirm, deal.proposed, deal.approve, deal.wait):
        await step()

    async def over():
        return time.monotonic() > ends

    await until(over)
    assert await deal.states() == ("Approved", "Approved")
    await deal.requestor.market.agreements.terminate(deal.agreement_id, {"message": "late"})
    await deal.both("Terminated")


async def test_an_agreement_ends_at_its_own_expiration(town, pair):
    """A yagna does not end it by itself: it is told by our node, whichever side that is on."""
    deal = await town.deal(pair, expires_s=SHORT_S + 1)
    await deal.to_approved()

    await deal.both("Terminated", BACK_S)

    asker, giver = ([told(event) for event in log] for log in await deal.logs())
    for log in (asker, giver):
        kind, _, reason = log[1]
        assert (len(log), kind) == (2, "AgreementTerminatedEvent")
        assert reason == {"message": "Agreement expired.", "golem.provider.code": "Expired"}


async def test_a_provider_rejects_a_proposal_and_takes_it_up_later(town, pair):
    deal = await town.deal(pair)
    await deal.demand()
    for step in (deal.match, deal.counter, deal.heard):
        await step()
    reason = {"message": "busy", "golem.proposal.rejection.is-final": False}

    await deal.provider.market.offers.reject(deal.offer_id, f"P-{deal.first[2:]}", reason)

    event = await rejection(deal.requestor.market.demands, deal.demand_id, deal.first)
    assert event.reason == reason
    await deal.answer()
    await deal.answered()


async def test_a_requestor_rejects_a_proposal_and_takes_it_up_later(town, pair):
    deal = await town.deal(pair)
    await deal.to_draft()
    reason = {"message": "too dear"}

    await deal.requestor.market.demands.reject(deal.demand_id, deal.final, reason)

    event = await rejection(deal.provider.market.offers, deal.offer_id, deal.draft)
    assert event.reason == reason
    state = (await deal.requestor.market.demands.proposal(deal.demand_id, deal.final)).state
    assert state == "Rejected"
    deal.first = await deal.requestor.market.demands.counter(
        deal.demand_id, deal.final, *deal.wants
    )
    await deal.heard()
