"""Offers and Demands brought together on the requestor's node.

docs/protocol/market.md §6.4, §7.5. Functions in units of work: a pair that matches gets an initial
proposal and its event in the same commit as what brought it together. Who may match is looked up in
the index, which each side enters and leaves with the commits; long work is cut into slices.
"""

import gc
from typing import Final

import structlog

from shem.kernel.breath import Breath
from shem.kernel.ids import SubscriptionId
from shem.kernel.times import NS_PER_S
from shem.market.context import Context
from shem.market.ids import Role
from shem.market.match_index import compiled
from shem.market.proposal_rows import (
    free_proposal_id,
    pair_is_known,
    queue_event,
    save_proposal,
)
from shem.market.records import DEMAND, OFFER, Proposal, Subscription
from shem.market.resolve import Match, match_pair
from shem.market.states import ProposalState
from shem.market.subscription_rows import (
    load_subscription,
    mark_unsubscribed,
    page_of_active,
    save_subscription,
)
from shem.store.unit import Unit

log = structlog.get_logger()

MATCHING_KEY: Final = "market.matching"
"""Units that add or end an Offer or a Demand share this key, so that no pair slips between two."""
CANDIDATES_MAX: Final = 20_000
"""Offers looked at for a new Demand, the latest first, and the other way round."""
PROPOSED_MAX: Final = 4_000
"""Proposals made in one unit of work."""
PAGE: Final = 50
"""Rows read at once when the index is filled."""
SWEEP_INTERVAL_S: Final = 60.0
SET_BACK_NS: Final = 60 * NS_PER_S
"""A clock that goes back by more was wrong before; by less, little was taken for expired."""
SETTLED_STEP: Final = 1_000
"""Subscriptions by which the index grows until the garbage collector is told to leave it alone."""


def match_sides(new: Proposal | Subscription, old: Proposal | Subscription) -> Match:
    """Match two sides; ConstraintError when a text cannot be used."""
    return match_pair(new.properties, new.constraints, old.properties, old.constraints)


def keep(context: Context, unit: Unit, item: Subscription) -> None:
    """Store a subscription, and have it matched from the commit on."""
    save_subscription(unit, item)
    entry = compiled(item) if context.index.is_loaded(item.kind) else None
    if entry is not None:
        unit.after_commit(lambda: context.index.add(entry))


def end(context: Context, unit: Unit, subscription_id: SubscriptionId) -> None:
    """Mark a subscription as withdrawn, and match it no more."""
    mark_unsubscribed(unit, subscription_id)
    unit.after_commit(lambda: context.index.remove(subscription_id))


async def propose(context: Context, unit: Unit, new: Subscription, now_ns: int) -> int:
    """Propose a new Offer to our Demands, or the known Offers to a new Demand; return how many."""
    entry = compiled(new)
    if entry is None:
        return 0
    breath = Breath(context.world.clock)
    index = context.index
    await _fill(context, unit, DEMAND if new.kind == OFFER else OFFER, now_ns, breath)
    for _ in index.prepare(entry):
        await breath.draw()
    proposed = 0
    for candidate in index.candidates(entry, now_ns, CANDIDATES_MAX):
        await breath.draw()
        if proposed >= PROPOSED_MAX:
            log.info("market.too_many_matches", subscription=new.subscription_id)
            break
        if entry.fits(candidate):
            proposed += await _propose(unit, new, candidate.subscription_id, now_ns)
    return proposed


async def sweep(context: Context) -> None:
    """Take what has expired out of the index, again and again."""
    settled = 0
    while True:
        await context.world.clock.sleep(SWEEP_INTERVAL_S)
        now_ns = context.now_ns()
        context.index.looked_ns = max(context.index.looked_ns, now_ns)
        breath = Breath(context.world.clock)
        for subscription_id in context.index.expired(now_ns):
            context.index.remove(subscription_id)
            await breath.draw()
        size = context.index.size(OFFER) + context.index.size(DEMAND)
        if size >= settled + SETTLED_STEP:
            _settle()
            settled = size
        settled = min(settled, size)


def _settle() -> None:
    """Keep full collections from looking at the index: they would stop everything for long.

    What is in it has no cycles, and is freed when it is removed all the same.
    """
    gc.freeze()


async def _fill(context: Context, unit: Unit, kind: str, now_ns: int, breath: Breath) -> None:
    """Read one side of the index from the store, once; nobody adds to it meanwhile.

    When the clock was set back, what had expired may not have: the index begins anew.
    """
    if now_ns < context.index.looked_ns - SET_BACK_NS:
        log.info("market.clock_set_back", seconds=(context.index.looked_ns - now_ns) // NS_PER_S)
        context.index.forget()
    if context.index.is_loaded(kind):
        return
    context.index.looked_ns = max(context.index.looked_ns, now_ns)
    last = ("", 0)
    while page := await page_of_active(unit.fetch, kind, last, now_ns, PAGE):
        for item in page:
            if (item.kind == OFFER or item.own) and (entry := compiled(item)):
                context.index.add(entry)
            await breath.draw()
        last = (page[-1].subscription_id, page[-1].inserted_ns)
        if len(page) == PAGE:
            _settle()
    context.index.loaded(kind)


async def propose_again(unit: Unit, offer_id: str, demand_id: str, now_ns: int) -> None:
    """Propose a pair anew after its agreement was terminated (§4.1)."""
    offer = await load_subscription(unit.fetch, offer_id)
    demand = await load_subscription(unit.fetch, demand_id)
    if offer is None or demand is None or not demand.own:
        return
    if offer.is_active(now_ns) and demand.is_active(now_ns) and _fits(offer, demand):
        await _initial(unit, offer, demand, now_ns)


async def _propose(unit: Unit, new: Subscription, other_id: SubscriptionId, now_ns: int) -> bool:
    other = await load_subscription(unit.fetch, other_id)
    if other is None or not other.is_active(now_ns):
        return False
    offer, demand = (new, other) if new.kind == OFFER else (other, new)
    if await pair_is_known(unit.fetch, offer.subscription_id, demand.subscription_id):
        return False
    await _initial(unit, offer, demand, now_ns)
    return True


def _fits(offer: Subscription, demand: Subscription) -> bool:
    one, other = compiled(offer), compiled(demand)
    return one is not None and other is not None and one.fits(other)


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
