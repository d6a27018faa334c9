"""Statements on Offers and Demands."""

from typing import Final

from shem.kernel.ids import NodeId, SubscriptionId
from shem.market.records import KNOWN_OFFERS_TOPIC, OFFER, Subscription, values_of
from shem.store.unit import Fetch, Row, Unit

OWN_SUBSCRIPTIONS_MAX: Final = 10_000
"""Subscriptions of one identity that a list shows."""
PUBLISHERS_MAX: Final = 1_000
"""More than a node can have identities."""


def _subscription(row: Row) -> Subscription:
    return Subscription(**{**row, "own": bool(row["own"])})


async def load_subscription(fetch: Fetch, subscription_id: str) -> Subscription | None:
    rows = await fetch(
        "SELECT * FROM subscription WHERE subscription_id = :id LIMIT 1", id=subscription_id
    )
    return _subscription(rows[0]) if rows else None


async def load_pair(
    fetch: Fetch, offer_id: str, demand_id: str
) -> tuple[Subscription | None, Subscription | None]:
    """Return both subscriptions of a negotiation, as far as they are known here."""
    rows = await fetch(
        "SELECT * FROM subscription WHERE subscription_id IN (:offer, :demand) LIMIT 2",
        offer=offer_id,
        demand=demand_id,
    )
    found = {row["subscription_id"]: _subscription(row) for row in rows}
    return found.get(offer_id), found.get(demand_id)


async def own_subscriptions(
    fetch: Fetch, identity: NodeId, kind: str, now_ns: int
) -> list[Subscription]:
    rows = await fetch(
        "SELECT * FROM subscription WHERE own = 1 AND identity = :identity AND kind = :kind"
        " AND state = 'active' AND expires_ns > :now ORDER BY created_ns LIMIT :most",
        identity=identity,
        kind=kind,
        now=now_ns,
        most=OWN_SUBSCRIPTIONS_MAX,
    )
    return [_subscription(row) for row in rows]


async def offers_of_others(fetch: Fetch, now_ns: int, most: int) -> list[SubscriptionId]:
    """Return active Offers of others, the latest first."""
    rows = await fetch(
        "SELECT subscription_id FROM subscription WHERE own = 0 AND kind = 'offer'"
        " AND state = 'active' AND expires_ns > :now AND inserted_ns > 0"
        " ORDER BY inserted_ns DESC LIMIT :most",
        now=now_ns,
        most=most,
    )
    return [row["subscription_id"] for row in rows]


async def own_offers(
    fetch: Fetch, state: str, now_ns: int, most: int
) -> list[tuple[SubscriptionId, NodeId]]:
    """Return our own unexpired Offers in a state, and whose they are, the latest first."""
    found: list[tuple[SubscriptionId, NodeId]] = []
    for identity in await _own_identities(fetch):
        rows = await fetch(
            "SELECT subscription_id FROM subscription WHERE own = 1 AND identity = :identity"
            " AND kind = 'offer' AND state = :state AND expires_ns > :now"
            " ORDER BY created_ns DESC LIMIT :most",
            identity=identity,
            state=state,
            now=now_ns,
            most=most - len(found),
        )
        found += [(row["subscription_id"], identity) for row in rows]
    return found


async def _own_identities(fetch: Fetch) -> list[NodeId]:
    rows = await fetch(
        "SELECT DISTINCT identity FROM subscription WHERE own = 1 LIMIT :most", most=PUBLISHERS_MAX
    )
    return [row["identity"] for row in rows]


async def subscriptions_of_kind(
    fetch: Fetch, kind: str, now_ns: int, most: int, *, own_only: bool
) -> list[Subscription]:
    """Return active Offers or Demands of all our identities, or of everyone, oldest first."""
    rows = await fetch(
        "SELECT * FROM subscription WHERE kind = :kind AND state = 'active'"
        f" AND expires_ns > :now{' AND own = 1' if own_only else ''}"
        " ORDER BY created_ns LIMIT :most",
        kind=kind,
        now=now_ns,
        most=most,
    )
    return [_subscription(row) for row in rows]


async def publishers(fetch: Fetch, now_ns: int) -> list[NodeId]:
    """Return the identities that have active subscriptions here."""
    rows = await fetch(
        "SELECT DISTINCT identity FROM subscription WHERE own = 1 AND state = 'active'"
        " AND expires_ns > :now LIMIT :most",
        now=now_ns,
        most=PUBLISHERS_MAX,
    )
    return [row["identity"] for row in rows]


async def page_of_offers(
    fetch: Fetch, issuer: str | None, after_ns: int, now_ns: int, most: int
) -> list[Subscription]:
    """Return active Offers in the order of their arrival here."""
    condition = "" if issuer is None else " AND identity = :issuer"
    rows = await fetch(
        "SELECT * FROM subscription WHERE kind = 'offer' AND state = 'active'"
        f" AND expires_ns > :now AND inserted_ns > :after_ns{condition}"
        " ORDER BY inserted_ns, subscription_id LIMIT :most",
        now=now_ns,
        after_ns=after_ns,
        most=most,
        **({} if issuer is None else {"issuer": issuer}),
    )
    return [_subscription(row) for row in rows]


async def page_of_active(
    fetch: Fetch, kind: str, after: tuple[str, int], now_ns: int, most: int
) -> list[Subscription]:
    """Return active Offers or Demands in the order of their arrival, behind an id and a time."""
    rows = await fetch(
        "SELECT * FROM subscription WHERE kind = :kind AND state = 'active'"
        " AND expires_ns > :now AND inserted_ns >= :after_ns"
        " AND (inserted_ns > :after_ns OR subscription_id > :after_id)"
        " ORDER BY inserted_ns, subscription_id LIMIT :most",
        kind=kind,
        now=now_ns,
        after_id=after[0],
        after_ns=after[1],
        most=most,
    )
    return [_subscription(row) for row in rows]


async def next_insertion(fetch: Fetch, now_ns: int) -> int:
    """Return the arrival time of a new Offer: later than all others, for those who page by it.

    To be asked in units that share one key.
    """
    rows = await fetch(
        "SELECT inserted_ns FROM subscription WHERE kind = 'offer'"
        " ORDER BY inserted_ns DESC LIMIT 1"
    )
    return max(now_ns, rows[0]["inserted_ns"] + 1) if rows else now_ns


async def count_offers(fetch: Fetch) -> int:
    """Return how many Offers of others are kept."""
    rows = await fetch("SELECT COUNT(*) AS kept FROM subscription WHERE own = 0 LIMIT 1")
    return int(rows[0]["kept"])


def save_subscription(unit: Unit, item: Subscription) -> None:
    unit.execute(
        "INSERT INTO subscription (subscription_id, kind, own, identity, properties, constraints,"
        " state, created_ns, inserted_ns, expires_ns) VALUES (:subscription_id, :kind, :own,"
        " :identity, :properties, :constraints, :state, :created_ns, :inserted_ns, :expires_ns)"
        " ON CONFLICT (subscription_id) DO NOTHING",
        **values_of(item),
    )
    if item.kind == OFFER:
        unit.notify(KNOWN_OFFERS_TOPIC)


def mark_unsubscribed(unit: Unit, subscription_id: str) -> None:
    unit.execute(
        "UPDATE subscription SET state = 'unsubscribed' WHERE subscription_id = :id",
        id=subscription_id,
    )
