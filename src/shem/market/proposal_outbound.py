"""Delivery of counters and rejections to the peer.

docs/protocol/market.md §3.3, §8. Called by the outbox, at least once per message; the peer takes a
repeat as the same, or says that the proposal was countered already. What the peer refuses frees the
previous proposal for another try, and a program that no longer waits is told by an event.
"""

from typing import Final

import structlog

from shem.bus.types import GsbError, RemoteError
from shem.kernel.errors import ShemError, TimedOut, Unreachable
from shem.kernel.ids import SubscriptionId
from shem.market.context import Context
from shem.market.ids import Role
from shem.market.matching import MATCHING_KEY, end
from shem.market.messages import (
    PROVIDER_PROPOSAL,
    REQUESTOR_PROPOSAL,
    InitialProposalReceived,
    ProposalContent,
    ProposalReceived,
    ProposalRejected,
    Reason,
)
from shem.market.proposal_rows import load_proposal, mark_countered, mark_delivery, queue_event
from shem.market.records import Proposal, reason_text
from shem.market.refusals import describe, find
from shem.store.outbox import DONE, Done, Drop, OutboxRow, Outcome, Retry
from shem.store.unit import Unit

log = structlog.get_logger()

COUNTER: Final = "market.counter"
REJECTION: Final = "market.rejection"
REFUSED_TRANSIENTLY: Final = ("Internal", "RemoteInternal", "Timeout", "Unexpected")
"""Errors of a peer that may pass."""
TRANSIENT_ATTEMPTS_MAX: Final = 10
_AWAY: Final = (Unreachable, GsbError, TimedOut)


def counter_answer(countered: str) -> str:
    """Return the key under which the peer's answer to a counter is waited for."""
    return f"counter:{countered}"


def rejection_answer(rejected: str) -> str:
    return f"rejection:{rejected}"


def post_counter(unit: Unit, new: Proposal) -> None:
    """Leave the message that carries a counter."""
    _post(unit, new, COUNTER, new.proposal_id, {"proposalId": new.proposal_id})


def post_rejection(unit: Unit, proposal: Proposal, reason: Reason | None, now_ns: int) -> None:
    """Leave the message that rejects a proposal; it may be rejected again later."""
    payload = {"proposalId": proposal.proposal_id, "reason": reason}
    _post(unit, proposal, REJECTION, f"{proposal.proposal_id}:{now_ns}", payload)


class ProposalOutbound:
    """Deliverers of the outbox."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.outbox.register(COUNTER, self._deliver_counter)
        context.outbox.register(REJECTION, self._deliver_rejection)

    async def _deliver_counter(self, row: OutboxRow) -> Outcome:
        proposal = await load_proposal(self._context.store.fetch, row.payload["proposalId"])
        if proposal is None or proposal.prev_proposal_id is None:
            return Drop("the proposal is gone")
        if proposal.countered_by is not None:
            return DONE  # the peer has answered it
        previous = await load_proposal(self._context.store.fetch, proposal.prev_proposal_id)
        if previous is None:
            return Drop("the previous proposal is gone")
        if proposal.expires_ns <= self._context.now_ns():
            return await self._refused(proposal, previous, {"Expired": proposal.proposal_id})
        path = PROVIDER_PROPOSAL if proposal.role is Role.REQUESTOR else REQUESTOR_PROPOSAL
        try:
            await self._context.ask(
                proposal.identity, proposal.peer, path, _message(proposal, previous)
            )
        except RemoteError as error:
            if find(error.payload, "AlreadyCountered") is None:
                if _is_transient(error.payload) and row.attempts < TRANSIENT_ATTEMPTS_MAX:
                    return Retry(describe(error.payload))
                return await self._refused(proposal, previous, error.payload)
        except _AWAY as error:
            return self._away(counter_answer(previous.proposal_id), error)
        return self._delivered(proposal)

    def _away(self, key: str, error: ShemError) -> Outcome:
        """Try again when the peer is back; with yagna's failures, tell the program and forget."""
        if not self._context.exact_failures:
            raise error
        self._context.answers.settle(key, error)
        return Drop(error.message)

    def _delivered(self, proposal: Proposal) -> Outcome:
        """Tell the program that waits; after a crash the peer says once more that it has it."""
        self._context.answers.settle(counter_answer(proposal.prev_proposal_id or ""), None)
        return Done(lambda unit: mark_delivery(unit, proposal.proposal_id, "delivered"))

    async def _refused(self, proposal: Proposal, previous: Proposal, error: object) -> Outcome:
        """Free the previous proposal, and tell a program that no longer waits."""
        log.info(
            "market.counter_refused",
            peer=proposal.peer,
            proposal=proposal.proposal_id,
            reason=describe(error),
        )
        if proposal.role is Role.REQUESTOR and _names(error, proposal.offer_id):
            await self._forget_offer(proposal.offer_id)
        async with self._context.store.unit(f"market.proposal:{previous.proposal_id}") as unit:
            mark_delivery(unit, proposal.proposal_id, "refused")
            current = await load_proposal(unit.fetch, previous.proposal_id)
            if current is not None and current.countered_by == proposal.proposal_id:
                mark_countered(unit, previous.proposal_id, None, current.state)
            told = self._context.answers.settle(counter_answer(previous.proposal_id), error)
            if not told or _is_first(proposal, previous):
                queue_event(
                    unit,
                    identity=proposal.identity,
                    subscription_id=proposal.subscription_id,
                    kind="rejected",
                    now_ns=self._context.now_ns(),
                    proposal=proposal.proposal_id,
                    reason=reason_text({"message": f"Refused: {describe(error)}"}),
                )
        return DONE

    async def _forget_offer(self, offer_id: SubscriptionId) -> None:
        """Propose an Offer no more that its own node does not know: a legacy one lost it."""
        async with self._context.store.unit(MATCHING_KEY) as unit:
            end(self._context, unit, offer_id)

    async def _deliver_rejection(self, row: OutboxRow) -> Outcome:
        proposal = await load_proposal(self._context.store.fetch, row.payload["proposalId"])
        if proposal is None:
            return Drop("the proposal is gone")
        if proposal.expires_ns <= self._context.now_ns():
            return Drop("the negotiation expired")
        path = PROVIDER_PROPOSAL if proposal.role is Role.REQUESTOR else REQUESTOR_PROPOSAL
        message = ProposalRejected(proposal.proposal_id, False, row.payload["reason"])
        try:
            await self._context.ask(proposal.identity, proposal.peer, path, message)
        except RemoteError as error:
            if _is_transient(error.payload) and row.attempts < TRANSIENT_ATTEMPTS_MAX:
                return Retry(describe(error.payload))
            log.info("market.rejection_refused", peer=row.peer, reason=describe(error.payload))
        except _AWAY as error:
            return self._away(rejection_answer(proposal.proposal_id), error)
        self._context.answers.settle(rejection_answer(proposal.proposal_id), None)
        return DONE


def _is_first(proposal: Proposal, previous: Proposal) -> bool:
    """Tell whether it is the requestor's first counter, for whose answer no program waits."""
    return proposal.role is Role.REQUESTOR and previous.prev_proposal_id is None


def _names(error: object, offer_id: SubscriptionId) -> bool:
    """Tell whether the peer says that its Offer is gone."""
    return any(find(error, word) == offer_id for word in ("NoSubscription", "Unsubscribed"))


def _message(proposal: Proposal, previous: Proposal) -> InitialProposalReceived | ProposalReceived:
    content = ProposalContent(
        proposal.proposal_id,
        proposal.properties,
        proposal.constraints,
        proposal.created_ns,
        proposal.expires_ns,
    )
    if _is_first(proposal, previous):
        return InitialProposalReceived(content, proposal.offer_id, proposal.demand_id)
    return ProposalReceived(previous.proposal_id, content)


def negotiation_lane(offer_id: SubscriptionId, demand_id: SubscriptionId) -> str:
    """Return the lane in which the messages of a negotiation go out, one after another."""
    return f"negotiation:{offer_id}:{demand_id}"


def _post(unit: Unit, proposal: Proposal, kind: str, key: str, payload: object) -> None:
    unit.post(
        identity=proposal.identity,
        peer=proposal.peer,
        lane=negotiation_lane(proposal.offer_id, proposal.demand_id),
        kind=kind,
        key=key,
        payload=payload,
    )


def _is_transient(payload: object) -> bool:
    return any(find(payload, variant) is not None for variant in REFUSED_TRANSIENTLY)
