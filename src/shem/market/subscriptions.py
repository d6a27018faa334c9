"""Own Offers and Demands: published, listed, withdrawn.

docs/protocol/market.md §2.2, §3.2. Both live in the store and survive a restart. A Demand never
leaves the node; an Offer is announced by `discovery`.
"""

from dataclasses import replace
from typing import Final

from shem.kernel.errors import Gone, NotFound, UsageError
from shem.kernel.ids import NodeId, SubscriptionId
from shem.kernel.times import NS_PER_S
from shem.kernel.world import new_hex_id
from shem.market.constraints import LENGTH_MAX
from shem.market.context import Context
from shem.market.ids import new_subscription_id, subscription_hash
from shem.market.matching import MATCHING_KEY, end, keep, propose
from shem.market.properties import Json, flat_text
from shem.market.records import ACTIVE, DEMAND, OFFER, Subscription, negotiation_topic
from shem.market.subscription_rows import (
    load_subscription,
    next_insertion,
    own_subscriptions,
    publishers,
)

TTL_NS: Final = 3600 * NS_PER_S
"""How long a subscription lives; every Golem node takes the same hour."""


async def subscribe(
    context: Context, identity: NodeId, kind: str, properties: Json, constraints: str
) -> Subscription:
    """Store a new Offer or Demand and propose what it matches; durable on return."""
    if len(constraints) > LENGTH_MAX:
        raise UsageError(f"constraints are longer than {LENGTH_MAX} characters")
    text = flat_text(properties)
    now_ns = context.now_ns()
    expires_ns = now_ns + TTL_NS
    content_hash = subscription_hash(text, constraints, identity, now_ns, expires_ns)
    item = Subscription(
        subscription_id=new_subscription_id(new_hex_id(context.world.rng), content_hash),
        kind=kind,
        own=True,
        identity=identity,
        properties=text,
        constraints=constraints,
        state=ACTIVE,
        created_ns=now_ns,
        inserted_ns=now_ns,
        expires_ns=expires_ns,
    )
    async with context.store.unit(MATCHING_KEY) as unit:
        item = replace(item, inserted_ns=await next_insertion(unit.fetch, now_ns))
        keep(context, unit, item)
        await propose(context, unit, item, now_ns)
    return item


async def unsubscribe(
    context: Context, identity: NodeId, kind: str, subscription_id: SubscriptionId
) -> None:
    """Withdraw an Offer or a Demand; its collectors end at once."""
    name = kind.capitalize()
    async with context.store.unit(MATCHING_KEY) as unit:
        item = await load_subscription(unit.fetch, subscription_id)
        if item is None or not item.own or item.kind != kind or item.identity != identity:
            raise NotFound(f"{name} [{subscription_id}] not found.")
        was_active = item.is_active(context.now_ns())
        if item.state == ACTIVE:  # an expired one too: a clock that is set back does not revive it
            end(context, unit, subscription_id)
            unit.notify(negotiation_topic(subscription_id))
    if was_active:
        return
    if kind == DEMAND:
        raise NotFound(f"{name} [{subscription_id}] not found.")
    ended = "already unsubscribed" if item.state != ACTIVE else "expired"
    raise Gone(f"{name} [{subscription_id}] {ended}.")


async def withdraw_orphans(context: Context) -> list[SubscriptionId]:
    """Withdraw what identities published that this node has no longer; return the Offers."""
    now_ns = context.now_ns()
    fetch = context.store.fetch
    orphans: list[Subscription] = []
    for identity in await publishers(fetch, now_ns):
        if not context.identities.owns(identity):
            for kind in (OFFER, DEMAND):
                orphans += await own_subscriptions(fetch, identity, kind, now_ns)
    if orphans:
        async with context.store.unit(MATCHING_KEY) as unit:
            for item in orphans:
                end(context, unit, item.subscription_id)
                unit.notify(negotiation_topic(item.subscription_id))
    return [item.subscription_id for item in orphans if item.kind == OFFER]


async def list_own(context: Context, identity: NodeId, kind: str) -> list[Subscription]:
    """Return an identity's active subscriptions, oldest first."""
    return await own_subscriptions(context.store.fetch, identity, kind, context.now_ns())
