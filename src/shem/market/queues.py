"""Collecting negotiation events: at least once, durable until acknowledged.

docs/protocol/market.md §4.1. A collection leases what it returns; the next one on the same
subscription acknowledges that, and only then the rows go. A lease lives in memory: after a restart
of the node, events that nobody acknowledged are told again. While leased, an event goes to no other
collector.
"""

from collections import OrderedDict
from typing import Final

from shem.kernel.errors import NotFound, UsageError
from shem.kernel.ids import NodeId, SubscriptionId
from shem.market.context import Context
from shem.market.records import ACTIVE, DEMAND, NegotiationEvent, Subscription, negotiation_topic
from shem.market.subscription_rows import load_subscription

EVENTS_DEFAULT: Final = 20
EVENTS_MAX: Final = 100
LEASES_MAX: Final = 50_000
"""Subscriptions whose leases are remembered; the oldest are forgotten, and told again."""
PROPOSALS_LOOKED_AT: Final = 1_000
"""Pending proposals among which a batch is drawn at random."""


def check_max_events(most: int) -> int:
    if not 1 <= most <= EVENTS_MAX:
        raise UsageError(f"Invalid maxEvents '{most}', should be between 1 and {EVENTS_MAX}.")
    return most


class Queues:
    """The event queues of this node's subscriptions."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._leased: OrderedDict[str, set[int]] = OrderedDict()

    async def collect(
        self,
        identity: NodeId,
        kind: str,
        subscription_id: SubscriptionId,
        *,
        timeout_s: float,
        most: int,
    ) -> list[NegotiationEvent]:
        """Return events, waiting up to `timeout_s` for the first; NotFound once it has ended."""
        topics = self._context.store.topics
        topic = negotiation_topic(subscription_id)
        clock = self._context.world.clock
        deadline = clock.monotonic() + timeout_s
        first = await self._subscription(identity, kind, subscription_id)
        await self._acknowledge(subscription_id)
        while True:
            version = topics.version(topic)
            item = await self._subscription(identity, kind, subscription_id)
            if item.state != first.state:
                raise _gone(subscription_id)
            if item.state == ACTIVE and (events := await self._take(subscription_id, most)):
                return events
            left = deadline - clock.monotonic()
            if left <= 0 or not await topics.changed(topic, version, left):
                return []

    def release(self, events: list[NegotiationEvent]) -> None:
        """Give back what could not be handed to the collector."""
        for event in events:
            self._leased.get(event.subscription_id, set()).discard(event.event_id)

    async def _subscription(
        self, identity: NodeId, kind: str, subscription_id: SubscriptionId
    ) -> Subscription:
        item = await load_subscription(self._context.store.fetch, subscription_id)
        if item is None or not item.own or item.kind != kind or item.identity != identity:
            raise _gone(subscription_id)
        if item.expires_ns <= self._context.now_ns():
            raise NotFound(f"Subscription [{subscription_id}] expired.")
        if kind == DEMAND and item.state != ACTIVE:
            raise _gone(subscription_id)
        return item

    async def _acknowledge(self, subscription_id: SubscriptionId) -> None:
        events = self._leased.pop(subscription_id, set())
        if not events:
            return
        async with self._context.store.unit(f"market.queue:{subscription_id}") as unit:
            for event_id in sorted(events):
                unit.execute("DELETE FROM negotiation_event WHERE event_id = :id", id=event_id)

    async def _take(self, subscription_id: SubscriptionId, most: int) -> list[NegotiationEvent]:
        """Lease a batch: what is no proposal first, then proposals drawn at random (§4.1)."""
        leased = self._leased.get(subscription_id, set())
        pending = await self._pending(subscription_id, "kind <> 'proposal'", leased, most)
        if len(pending) < most:
            proposals = await self._pending(
                subscription_id, "kind = 'proposal'", leased, PROPOSALS_LOOKED_AT
            )
            rng = self._context.world.rng
            while proposals and len(pending) < most:
                pending.append(proposals.pop(rng.below(len(proposals))))
        if pending:
            self._leased.setdefault(subscription_id, set()).update(e.event_id for e in pending)
            self._leased.move_to_end(subscription_id)
            while len(self._leased) > LEASES_MAX:
                self._leased.popitem(last=False)
        return pending

    async def _pending(
        self, subscription_id: SubscriptionId, condition: str, leased: set[int], most: int
    ) -> list[NegotiationEvent]:
        rows = await self._context.store.fetch(
            "SELECT * FROM negotiation_event WHERE subscription_id = :subscription_id"
            f" AND {condition} ORDER BY event_id LIMIT :most",
            subscription_id=subscription_id,
            most=most + len(leased),
        )
        events = [NegotiationEvent(**row) for row in rows]
        return [event for event in events if event.event_id not in leased][:most]


def _gone(subscription_id: SubscriptionId) -> NotFound:
    return NotFound(f"Subscription [{subscription_id}] not found. Could be unsubscribed.")
