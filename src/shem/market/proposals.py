"""Negotiation: proposals of our own programs, countered and rejected.

docs/protocol/market.md §3.3, §6.1 to §6.4. A counter is saved together with the message that
carries it, so it is neither lost nor said without being kept (`proposal_outbound`). A program
whose peer answers at once is told of a refusal; with the peer away its call succeeds and the
message goes out when the peer is back. Messages of peers are in `proposal_inbound`.
"""

from typing import Final

from shem.kernel.caller import Caller
from shem.kernel.errors import (
    Gone,
    NotFound,
    PeerError,
    ShemError,
    Unreachable,
    UsageError,
)
from shem.kernel.ids import ProposalId, SubscriptionId
from shem.market.constraints import LENGTH_MAX, ConstraintError
from shem.market.context import CALL_TIMEOUT_S, Context, within
from shem.market.ids import Role
from shem.market.matching import match_sides
from shem.market.messages import Reason
from shem.market.properties import Json, flat_text
from shem.market.proposal_outbound import (
    ProposalOutbound,
    counter_answer,
    post_counter,
    post_rejection,
    rejection_answer,
)
from shem.market.proposal_rows import (
    acted_on,
    free_proposal_id,
    load_proposal,
    mark_countered,
    save_proposal,
    update_proposal,
)
from shem.market.records import ACTIVE, Proposal, reason_text
from shem.market.refusals import describe
from shem.market.states import (
    PROPOSAL_TRANSITIONS,
    ProposalInput,
    after_counter,
)
from shem.market.subscription_rows import load_pair
from shem.permissions.decide import NODE, Action, decide
from shem.store.unit import Fetch

ANSWER_S: Final = 2.5
"""How long a counter waits for the peer's answer; SDKs give a call five seconds."""


class Proposals:
    """The calls of this node's programs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        ProposalOutbound(context)

    async def get(
        self, who: Caller, role: Role, subscription_id: SubscriptionId, wanted: ProposalId
    ) -> Proposal:
        """Return a proposal of the caller's subscription."""
        self._decide(who)
        return await _owned(self._context.store.fetch, who, role, subscription_id, wanted)

    async def counter(
        self,
        who: Caller,
        role: Role,
        subscription_id: SubscriptionId,
        countered: ProposalId,
        *,
        properties: Json,
        constraints: str,
    ) -> ProposalId:
        """Answer the peer's proposal with one of our own and return its id."""
        self._decide(who)
        if len(constraints) > LENGTH_MAX:
            raise UsageError(f"constraints are longer than {LENGTH_MAX} characters")
        text = flat_text(properties)
        with self._context.answers.expected(counter_answer(countered)) as answer:
            new, is_first = await self._save_counter(
                who,
                role,
                subscription_id,
                countered,
                properties=text,
                constraints=constraints,
            )
            refusal = None if is_first else await within(answer, self._answer_s)
        if isinstance(refusal, ShemError):
            raise Unreachable(f"{_failed(countered, new)} GSB error: {refusal.message}")
        if refusal is not None:
            raise PeerError(f"{_failed(countered, new)} remote error: {describe(refusal)}")
        return new

    @property
    def _answer_s(self) -> float:
        return CALL_TIMEOUT_S if self._context.exact_failures else ANSWER_S

    async def _save_counter(
        self,
        who: Caller,
        role: Role,
        subscription_id: SubscriptionId,
        countered: ProposalId,
        *,
        properties: str,
        constraints: str,
    ) -> tuple[ProposalId, bool]:
        """Return the new proposal, and whether it is a first one, sent in the background (§3.3)."""
        async with self._context.store.unit(f"market.proposal:{countered}") as unit:
            previous = await _owned(unit.fetch, who, role, subscription_id, countered)
            if previous.issuer == previous.identity:
                raise UsageError(f"Can't react to own Proposal [{countered}].")
            await check_active(unit.fetch, previous, self._context.now_ns())
            new = await self._new(unit.fetch, previous, properties, constraints)
            _check_match(new, previous)
            if previous.countered_by is not None:
                raise Gone(
                    f"Proposal [{countered}] already has counter proposal. "
                    "Can't counter for the second time."
                )
            following = after_counter(
                previous.state, has_previous=previous.prev_proposal_id is not None
            )
            mark_countered(unit, countered, new.proposal_id, following)
            acted_on(unit, proposal=countered)
            save_proposal(unit, new)
            post_counter(unit, new)
        return new.proposal_id, role is Role.REQUESTOR and previous.prev_proposal_id is None

    async def reject(
        self,
        who: Caller,
        role: Role,
        subscription_id: SubscriptionId,
        rejected: ProposalId,
        reason: Reason | None,
    ) -> None:
        """Reject the peer's proposal; it may still be countered later."""
        self._decide(who)
        with self._context.answers.expected(rejection_answer(rejected)) as answer:
            is_owed = await self._save_rejection(who, role, subscription_id, rejected, reason)
            if is_owed and self._context.exact_failures:
                failure = await within(answer, CALL_TIMEOUT_S)
                if isinstance(failure, ShemError):
                    raise Unreachable(
                        f"Rejecting Proposal [{rejected}] GSB error: {failure.message}"
                    )

    async def _save_rejection(
        self,
        who: Caller,
        role: Role,
        subscription_id: SubscriptionId,
        rejected: ProposalId,
        reason: Reason | None,
    ) -> bool:
        """Save a rejection and the message of it; False when the peer knows nothing to reject."""
        async with self._context.store.unit(f"market.proposal:{rejected}") as unit:
            proposal = await _owned(unit.fetch, who, role, subscription_id, rejected)
            if proposal.issuer == proposal.identity:
                raise UsageError(f"Can't react to own Proposal [{rejected}].")
            following = PROPOSAL_TRANSITIONS.get((proposal.state, ProposalInput.REJECT))
            if following is None:
                raise Gone(f"Proposal [{rejected}] can't be rejected from {proposal.state}.")
            update_proposal(unit, rejected, following, reason_text(reason))
            acted_on(unit, proposal=rejected)
            if proposal.prev_proposal_id is not None:
                # The provider knows nothing of an initial proposal (§4.1).
                post_rejection(unit, proposal, reason, self._context.now_ns())
        return proposal.prev_proposal_id is not None

    def _decide(self, who: Caller) -> None:
        decide(who, Action.NODE_NEGOTIATE, NODE, now_ns=self._context.now_ns()).require()

    async def _new(
        self, fetch: Fetch, previous: Proposal, properties: str, constraints: str
    ) -> Proposal:
        new_id, created_ns = await free_proposal_id(
            fetch,
            previous.role,
            previous.offer_id,
            previous.demand_id,
            self._context.now_ns(),
        )
        return previous.counter(
            new_id,
            issuer=previous.identity,
            delivery="posted",
            properties=properties,
            constraints=constraints,
            created_ns=created_ns,
            expires_ns=previous.expires_ns,
        )


def _failed(countered: ProposalId, new: ProposalId) -> str:
    return f"Failed to send response for Proposal [{countered}]. Error: Countering Proposal [{new}]"


async def check_active(fetch: Fetch, previous: Proposal, now_ns: int) -> None:
    """Require both subscriptions of a negotiation, as far as this side knows them."""
    offer, demand = await load_pair(fetch, previous.offer_id, previous.demand_id)
    if offer is None:
        raise UsageError(f"Subscription [{previous.offer_id}] wasn't found.")
    if offer.state != ACTIVE:
        raise UsageError(f"Subscription [{previous.offer_id}] was already unsubscribed.")
    if not offer.is_active(now_ns):
        raise Gone(f"Subscription [{previous.offer_id}] expired.")
    is_ours = previous.role is Role.REQUESTOR
    if is_ours and (demand is None or not demand.is_active(now_ns)):
        raise UsageError(f"Subscription [{previous.demand_id}] wasn't found.")


async def _owned(
    fetch: Fetch, who: Caller, role: Role, subscription_id: SubscriptionId, wanted: ProposalId
) -> Proposal:
    proposal = await load_proposal(fetch, wanted)
    if (
        proposal is None
        or proposal.subscription_id != subscription_id
        or proposal.role is not role
        or proposal.identity != who.node_id
    ):
        random_id, _, content_hash = subscription_id.partition("-")
        raise NotFound(
            f"Proposal [{wanted}] not found (subscription [Some(SubscriptionId "
            f'{{ random_id: "{random_id}", hash: "{content_hash}" }})]).'
        )
    return proposal


def _check_match(new: Proposal, previous: Proposal) -> None:
    pair = f"Proposal [{new.proposal_id}] with previous Proposal [{previous.proposal_id}]"
    try:
        match = match_sides(new, previous)
    except ConstraintError as error:
        raise UsageError(f"Can't match {pair}. Error: {error.message}") from error
    if not match.fits:
        raise UsageError(
            f"Proposal properties [{new.proposal_id}] doesn't match previous Proposal "
            f"[{previous.proposal_id}]. {match.mismatches}"
        )
