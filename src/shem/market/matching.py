"""Offers and Demands brought together on the requestor's node.

docs/protocol/market.md §6.4, §7.5. Functions in units of work: a pair that matches gets an initial
proposal and its event in the same commit as what brought it together.
"""

from typing import Final

import structlog

from shem.market.constraints import ConstraintError
from shem.market.ids import Role
from shem.market.proposal_rows import (
    free_proposal_id,
    pair_is_known,
    queue_event,
    save_proposal,
)
from shem.market.records import DEMAND, OFFER, Proposal, Subscription
from shem.market.resolve import Match, match_pair
from shem.market.states import ProposalState
from shem.market.subscription_rows import active_subscriptions, load_subscription
from shem.store.unit import Unit

log = structlog.get_logger()

MATCHING_KEY: Final = "market.matching"
"""Units that add an Offer or a Demand share this key, so that no pair slips between two."""
CANDIDATES_MAX: Final = 5_000
"""Offers looked at for a new Demand, the latest first, and the other way round."""


def match_sides(new: Proposal | Subscription, old: Proposal | Subscription) -> Match:
    """Match two sides; ConstraintError when a text cannot be used."""
    return match_pair(new.properties, new.constraints, old.properties, old.constraints)


async def propose_for_offer(unit: Unit, offer: Subscription, now_ns: int) -> int:
    """Propose a new Offer to the Demands of this node; return how many it matched."""
    demands = await active_subscriptions(unit.fetch, DEMAND, now_ns, CANDIDATES_MAX)
    return sum([await _propose(unit, offer, demand, now_ns) for demand in demands if demand.own])


async def propose_for_demand(unit: Unit, demand: Subscription, now_ns: int) -> int:
    """Propose the known Offers to a new Demand; return how many matched."""
    offers = await active_subscriptions(unit.fetch, OFFER, now_ns, CANDIDATES_MAX)
    return sum([await _propose(unit, offer, demand, now_ns) for offer in offers])


async def propose_again(unit: Unit, offer_id: str, demand_id: str, now_ns: int) -> None:
    """Propose a pair anew after its agreement was terminated (§4.1)."""
    offer = await load_subscription(unit.fetch, offer_id)
    demand = await load_subscription(unit.fetch, demand_id)
    if offer is None or demand is None or not demand.own:
        return
    if offer.is_active(now_ns) and demand.is_active(now_ns) and _fits(offer, demand):
        await _initial(unit, offer, demand, now_ns)


async def _propose(unit: Unit, offer: Subscription, demand: Subscription, now_ns: int) -> bool:
    if not _fits(offer, demand):
        return False
    if await pair_is_known(unit.fetch, offer.subscription_id, demand.subscription_id):
        return False
    await _initial(unit, offer, demand, now_ns)
    return True


def _fits(offer: Subscription, demand: Subscription) -> bool:
    if offer.identity == demand.identity:
        return False
    try:
        return match_sides(demand, offer).fits
    except ConstraintError as error:
        log.debug(
            "market.match_failed",
            offer=offer.subscription_id,
            demand=demand.subscription_id,
            reason=error.message,
        )
        return False


async def _initial(unit: Unit, offer: Subscription, demand: Subscription, now_ns: int) -> None:
    new_id, created_ns = await free_proposal_id(
        unit.fetch, Role.REQUESTOR, offer.subscription_id, demand.subscription_id, now_ns
    )
    proposal = Proposal(
        proposal_id=new_id,
        identity=demand.identity,
        role=Role.REQUESTOR,
        subscription_id=demand.subscription_id,
        offer_id=offer.subscription_id,
        demand_id=demand.subscription_id,
        requestor=demand.identity,
        provider=offer.identity,
        issuer=offer.identity,
        prev_proposal_id=None,
        countered_by=None,
        state=ProposalState.INITIAL,
        reason=None,
        delivery="none",
        properties=offer.properties,
        constraints=offer.constraints,
        created_ns=created_ns,
        expires_ns=min(offer.expires_ns, demand.expires_ns),
    )
    save_proposal(unit, proposal)
    queue_event(
        unit,
        identity=demand.identity,
        subscription_id=demand.subscription_id,
        kind="proposal",
        now_ns=now_ns,
        proposal=proposal.proposal_id,
    )
