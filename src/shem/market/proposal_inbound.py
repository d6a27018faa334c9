"""Negotiation messages of peers.

docs/protocol/market.md §6.2, §6.3. Every message is bound to the caller as the net proved it: only
the other party of a negotiation is heard. The same message again is answered Ok again and changes
nothing; a different one under a known id is refused.
"""

from typing import Final

from shem.bus.typed import Serve
from shem.bus.types import Call
from shem.kernel.errors import Gone, UsageError
from shem.kernel.ids import NodeId, ProposalId, SubscriptionId
from shem.kernel.times import NS_PER_S
from shem.market.constraints import ConstraintError
from shem.market.context import Context
from shem.market.ids import Role, for_role, negotiation_hash
from shem.market.matching import match_sides
from shem.market.messages import (
    PROVIDER_PROPOSAL,
    REQUESTOR_PROPOSAL,
    InitialProposalReceived,
    ProposalContent,
    ProposalReceived,
    ProposalRejected,
    decode,
)
from shem.market.proposal_rows import (
    count_events,
    free_proposal_id,
    load_proposal,
    mark_countered,
    queue_event,
    save_proposal,
    update_proposal,
)
from shem.market.proposals import check_active
from shem.market.records import ACTIVE, OFFER, Proposal, Subscription, reason_text
from shem.market.refusals import (
    Refused,
    error_value,
    matching_failed,
    not_matching,
    remote_proposal,
    unauthorized,
    validation,
)
from shem.market.states import PROPOSAL_TRANSITIONS, ProposalInput, ProposalState, after_counter
from shem.market.subscription_rows import load_subscription
from shem.store.unit import Unit

EVENTS_PENDING_MAX: Final = 5_000
"""Uncollected events of one subscription; beyond, proposals are refused."""
KEPT_MAX_NS: Final = 24 * 3600 * NS_PER_S
"""How far ahead a peer may date the expiration of its proposal; it only decides on clean-up."""


class ProposalInbound:
    """Serves the two proposal addresses."""

    def __init__(self, context: Context) -> None:
        self._context = context
        provider, requestor = f"/public{PROVIDER_PROPOSAL}", f"/public{REQUESTOR_PROPOSAL}"
        serve = context.bus.serve
        serve(f"{provider}/InitialProposalReceived", self._initial, error=error_value)
        for prefix, role in ((provider, Role.PROVIDER), (requestor, Role.REQUESTOR)):
            serve(f"{prefix}/ProposalReceived", self._received(role), error=error_value)
            serve(f"{prefix}/ProposalRejected", self._rejected(role), error=error_value)

    async def _initial(self, call: Call, body: object) -> object:
        message = decode(InitialProposalReceived, body)
        new_id = for_role(message.proposal.proposal_id, Role.PROVIDER)
        _check_hash(message.proposal, message.offer_id, message.demand_id, new_id)
        async with self._context.store.unit(f"market.proposal:{new_id}") as unit:
            now_ns = self._context.now_ns()
            offer = await _own_offer(unit, message.offer_id, new_id, now_ns)
            if await _is_repeat(unit, call.caller.node_id, new_id, message.proposal):
                return None
            mirror_id, created_ns = await free_proposal_id(
                unit.fetch, Role.PROVIDER, message.offer_id, message.demand_id, now_ns, new_id
            )
            mirror = _mirror(
                offer,
                message,
                mirror_id,
                created_ns,
                requestor=call.caller.node_id,
                countered_by=new_id,
            )
            new = _new(message.proposal, new_id, mirror, now_ns)
            _check_match(new, mirror)
            await _check_room(unit, new)
            save_proposal(unit, mirror)
            save_proposal(unit, new)
            _queue(unit, new, now_ns)
        return None

    def _received(self, role: Role) -> Serve:
        async def received(call: Call, body: object) -> object:
            message = decode(ProposalReceived, body)
            new_id = for_role(message.proposal.proposal_id, role)
            previous_id = for_role(message.prev_proposal_id, role)
            async with self._context.store.unit(f"market.proposal:{previous_id}") as unit:
                now_ns = self._context.now_ns()
                previous = await load_proposal(unit.fetch, previous_id)
                if previous is None:
                    raise remote_proposal({"NotFound": previous_id}, new_id)
                _check_party(call.caller.node_id, previous, new_id)
                _check_hash(message.proposal, previous.offer_id, previous.demand_id, new_id)
                if previous.issuer != previous.identity:
                    raise remote_proposal(validation({"OwnProposal": previous_id}), new_id)
                await _check_active(unit, previous, new_id, now_ns)
                if await _is_repeat(unit, call.caller.node_id, new_id, message.proposal):
                    return None
                new = _new(message.proposal, new_id, previous, now_ns)
                _check_match(new, previous)
                if previous.countered_by is not None:
                    raise remote_proposal({"AlreadyCountered": previous_id}, new_id)
                await _check_room(unit, new)
                following = after_counter(
                    previous.state, has_previous=previous.prev_proposal_id is not None
                )
                mark_countered(unit, previous_id, new_id, following)
                save_proposal(unit, new)
                _queue(unit, new, now_ns)
            return None

        return received

    def _rejected(self, role: Role) -> Serve:
        async def rejected(call: Call, body: object) -> object:
            message = decode(ProposalRejected, body)
            if message.initial:
                return None  # of a negotiation that this side never heard of
            wanted = for_role(message.proposal_id, role)
            async with self._context.store.unit(f"market.proposal:{wanted}") as unit:
                proposal = await load_proposal(unit.fetch, wanted)
                if proposal is None:
                    raise Refused({"Get": {"NotFound": [wanted, None]}})
                if call.caller.node_id != proposal.peer:
                    raise Refused(unauthorized(wanted, call.caller.node_id))
                if proposal.issuer != proposal.identity:
                    raise Refused(validation({"OwnProposal": wanted}))
                reason = reason_text(message.reason)
                if proposal.state is ProposalState.REJECTED and proposal.reason == reason:
                    return None
                following = PROPOSAL_TRANSITIONS.get((proposal.state, ProposalInput.REJECT))
                if following is None:
                    raise Refused(validation({"Internal": f"it is {proposal.state}"}))
                await _check_room(unit, proposal)
                update_proposal(unit, wanted, following, reason)
                queue_event(
                    unit,
                    identity=proposal.identity,
                    subscription_id=proposal.subscription_id,
                    kind="rejected",
                    now_ns=self._context.now_ns(),
                    proposal=wanted,
                    reason=reason,
                )
            return None

        return rejected


def _check_hash(
    content: ProposalContent,
    offer_id: SubscriptionId,
    demand_id: SubscriptionId,
    new_id: ProposalId,
) -> None:
    expected = negotiation_hash(offer_id, demand_id, content.created_ns)
    if new_id[2:] != expected:
        raise remote_proposal({"InvalidId": [new_id, expected]}, new_id)


def _check_party(caller: NodeId, previous: Proposal, new_id: ProposalId) -> None:
    if caller != previous.peer:
        raise remote_proposal(unauthorized(previous.proposal_id, caller), new_id)


async def _own_offer(
    unit: Unit, offer_id: SubscriptionId, new_id: ProposalId, now_ns: int
) -> Subscription:
    offer = await load_subscription(unit.fetch, offer_id)
    if offer is None or not offer.own or offer.kind != OFFER:
        raise remote_proposal(validation({"NoSubscription": offer_id}), new_id)
    if offer.state != ACTIVE:
        raise remote_proposal(validation({"Unsubscribed": offer_id}), new_id)
    if not offer.is_active(now_ns):
        raise remote_proposal(validation({"SubscriptionExpired": offer_id}), new_id)
    return offer


async def _check_active(unit: Unit, previous: Proposal, new_id: ProposalId, now_ns: int) -> None:
    try:
        await check_active(unit.fetch, previous, now_ns)
    except Gone as error:
        value = {"SubscriptionExpired": previous.offer_id}
        raise remote_proposal(validation(value), new_id) from error
    except UsageError as error:
        is_gone = "unsubscribed" in error.message
        missing = previous.demand_id if previous.demand_id in error.message else previous.offer_id
        value = {"Unsubscribed" if is_gone else "NoSubscription": missing}
        raise remote_proposal(validation(value), new_id) from error


async def _is_repeat(
    unit: Unit, caller: NodeId, new_id: ProposalId, content: ProposalContent
) -> bool:
    known = await load_proposal(unit.fetch, new_id)
    if known is None:
        return False
    if (known.issuer, known.properties, known.constraints) != (
        caller,
        content.properties,
        content.constraints,
    ):
        raise remote_proposal(validation({"Internal": "the id is taken"}), new_id)
    return True


def _check_match(new: Proposal, previous: Proposal) -> None:
    try:
        match = match_sides(new, previous)
    except ConstraintError as error:
        raise remote_proposal(
            matching_failed(new.proposal_id, previous.proposal_id, error.message), new.proposal_id
        ) from error
    if not match.fits:
        raise remote_proposal(
            not_matching(new.proposal_id, previous.proposal_id, match.mismatches), new.proposal_id
        )


async def _check_room(unit: Unit, proposal: Proposal) -> None:
    if await count_events(unit.fetch, proposal.subscription_id) >= EVENTS_PENDING_MAX:
        raise remote_proposal(
            validation({"Internal": "too many events wait to be collected"}), proposal.proposal_id
        )


def _mirror(
    offer: Subscription,
    message: InitialProposalReceived,
    mirror_id: ProposalId,
    created_ns: int,
    *,
    requestor: NodeId,
    countered_by: ProposalId,
) -> Proposal:
    """Return this side's own initial proposal: the Offer as it stands."""
    if requestor == offer.identity:
        raise remote_proposal(validation({"OwnProposal": countered_by}), countered_by)
    return Proposal(
        proposal_id=mirror_id,
        identity=offer.identity,
        role=Role.PROVIDER,
        subscription_id=offer.subscription_id,
        offer_id=offer.subscription_id,
        demand_id=message.demand_id,
        requestor=requestor,
        provider=offer.identity,
        issuer=offer.identity,
        prev_proposal_id=None,
        countered_by=countered_by,
        state=ProposalState.INITIAL,
        reason=None,
        delivery="none",
        properties=offer.properties,
        constraints=offer.constraints,
        created_ns=created_ns,
        expires_ns=offer.expires_ns,
    )


def _new(content: ProposalContent, new_id: ProposalId, previous: Proposal, now_ns: int) -> Proposal:
    return previous.counter(
        new_id,
        issuer=previous.peer,
        delivery="none",
        properties=content.properties,
        constraints=content.constraints,
        created_ns=content.created_ns,
        expires_ns=min(content.expires_ns, now_ns + KEPT_MAX_NS),
    )


def _queue(unit: Unit, proposal: Proposal, now_ns: int) -> None:
    queue_event(
        unit,
        identity=proposal.identity,
        subscription_id=proposal.subscription_id,
        kind="proposal",
        now_ns=now_ns,
        proposal=proposal.proposal_id,
    )
