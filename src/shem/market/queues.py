"""Collecting negotiation events: at least once, durable until acknowledged.

docs/protocol/market.md §4.1. A collection leases what it returns to the program that polled; that
program's next poll on the same subscription acknowledges it, and so does acting on the event
(a counter, a rejection, an agreement); only then the rows go. While leased, an event goes to no
other collector. A program that has gone (see `api.sessions`) gives its leases back, and they are
told again, to whoever asks: but not for ever, since some programs open a connection for each call
and ignore what they do not want. Leases live in memory: after a restart of the node, what nobody
acknowledged is told again.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Protocol

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
TELLINGS_MAX: Final = 3
"""An event that so many programs were handed and left is done with at the next poll."""


class Collector(Protocol):
    """The program behind a poll."""

    @property
    def session(self) -> str: ...
    @property
    def connection(self) -> str: ...
    @property
    def is_gone(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class InProcess:
    """A collector inside this process, which does not go."""

    session: str = ""
    connection: str = ""
    is_gone: bool = False


IN_PROCESS: Final = InProcess()


@dataclass(slots=True)
class Lease:
    """Who holds an event (None: nobody, it is to be told again), and how often it was told."""

    holder: Collector | None
    tellings: int = 1

    @property
    def is_worn_out(self) -> bool:
        return self.holder is None and self.tellings >= TELLINGS_MAX


def check_max_events(most: int) -> int:
    if not 1 <= most <= EVENTS_MAX:
        raise UsageError(f"Invalid maxEvents '{most}', should be between 1 and {EVENTS_MAX}.")
    return most


class Queues:
    """The event queues of this node's subscriptions."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._leases: OrderedDict[str, dict[int, Lease]] = OrderedDict()
        self._held: dict[str, set[str]] = {}
        """Subscriptions of which a session holds events."""

    async def collect(
        self,
        identity: NodeId,
        kind: str,
        subscription_id: SubscriptionId,
        *,
        timeout_s: float,
        most: int,
        collector: Collector = IN_PROCESS,
    ) -> list[NegotiationEvent]:
        """Return events, waiting up to `timeout_s` for the first; NotFound once it has ended."""
        topics = self._context.store.topics
        topic = negotiation_topic(subscription_id)
        clock = self._context.world.clock
        deadline = clock.monotonic() + timeout_s
        version = topics.version(topic)
        item = first = await self._subscription(identity, kind, subscription_id)
        await self._acknowledge(subscription_id, collector.session)
        while True:
            if item.state != first.state:
                raise _gone(subscription_id)
            if item.state == ACTIVE and (
                events := await self._take(subscription_id, most, collector)
            ):
                return events
            left = deadline - clock.monotonic()
            if left <= 0 or not await topics.changed(topic, version, left):
                return []
            version = topics.version(topic)
            item = await self._subscription(identity, kind, subscription_id)

    def release(self, collector: Collector, *, session_ended: bool) -> None:
        """Take back what a program holds: all of it, or what its broken connection carried."""
        for subscription_id in tuple(self._held.get(collector.session, ())):
            leases = self._leases.get(subscription_id, {})
            for lease in leases.values():
                holder = lease.holder
                if (
                    holder is not None
                    and holder.session == collector.session
                    and (session_ended or holder.connection == collector.connection)
                ):
                    lease.holder = None
            self._context.store.topics.bump(negotiation_topic(subscription_id))
        if session_ended:
            self._held.pop(collector.session, None)

    def give_back(self, events: list[NegotiationEvent]) -> None:
        """Undo a lease: the events never reached the collector."""
        for event in events:
            lease = self._leases.get(event.subscription_id, {}).get(event.event_id)
            if lease is not None:
                lease.holder = None
                lease.tellings -= 1

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

    async def _acknowledge(self, subscription_id: SubscriptionId, session: str) -> None:
        leases = self._leases.get(subscription_id)
        done = [
            event_id
            for event_id, lease in (leases or {}).items()
            if lease.is_worn_out or (lease.holder is not None and lease.holder.session == session)
        ]
        if not leases or not done:
            return
        if kept := await self._kept_of(sorted(done)):
            async with self._context.store.unit(f"market.queue:{subscription_id}") as unit:
                for event_id in kept:
                    unit.execute("DELETE FROM negotiation_event WHERE event_id = :id", id=event_id)
        for event_id in done:
            leases.pop(event_id, None)
        self._held.get(session, set()).discard(subscription_id)

    async def _kept_of(self, event_ids: list[int]) -> list[int]:
        """Return those that are still in the queue: what was acted on has left it."""
        kept = []
        for event_id in event_ids:
            rows = await self._context.store.fetch(
                "SELECT event_id FROM negotiation_event WHERE event_id = :id LIMIT 1", id=event_id
            )
            kept += [row["event_id"] for row in rows]
        return kept

    async def _take(
        self, subscription_id: SubscriptionId, most: int, collector: Collector
    ) -> list[NegotiationEvent]:
        """Lease a batch; what others took while it was drawn up is left out."""
        while drawn := await self._draw(subscription_id, most):
            held = self._held_events(subscription_id)
            taken = [event for event in drawn if event.event_id not in held]
            if collector.is_gone:
                break
            if taken:
                self._lease(subscription_id, taken, collector)
                return taken
        return []

    async def _draw(self, subscription_id: SubscriptionId, most: int) -> list[NegotiationEvent]:
        """Return what is no proposal first, then proposals drawn at random (§4.1)."""
        held = self._held_events(subscription_id)
        looked_at = PROPOSALS_LOOKED_AT + len(held)
        pending = await self._pending(subscription_id, "", looked_at)
        others = [event for event in pending if event.kind != "proposal"]
        if len(pending) >= looked_at:  # there may be more of them behind so many proposals
            others = await self._pending(
                subscription_id, " AND kind <> 'proposal'", most + len(held)
            )
        proposals = [e for e in pending if e.kind == "proposal" and e.event_id not in held]
        drawn = [event for event in others if event.event_id not in held][:most]
        rng = self._context.world.rng
        while proposals and len(drawn) < most:
            drawn.append(proposals.pop(rng.below(len(proposals))))
        return drawn

    def _held_events(self, subscription_id: SubscriptionId) -> set[int]:
        leases = self._leases.get(subscription_id, {})
        return {event_id for event_id, lease in leases.items() if lease.holder is not None}

    def _lease(
        self, subscription_id: SubscriptionId, events: list[NegotiationEvent], to: Collector
    ) -> None:
        leases = self._leases.setdefault(subscription_id, {})
        for event in events:
            tellings = leases[event.event_id].tellings if event.event_id in leases else 0
            leases[event.event_id] = Lease(to, tellings + 1)
        self._held.setdefault(to.session, set()).add(subscription_id)
        self._leases.move_to_end(subscription_id)
        while len(self._leases) > LEASES_MAX:
            self._leases.popitem(last=False)

    async def _pending(
        self, subscription_id: SubscriptionId, condition: str, most: int
    ) -> list[NegotiationEvent]:
        rows = await self._context.store.fetch(
            "SELECT * FROM negotiation_event WHERE subscription_id = :subscription_id"
            f"{condition} ORDER BY event_id LIMIT :most",
            subscription_id=subscription_id,
            most=most,
        )
        return [NegotiationEvent(**row) for row in rows]


def _gone(subscription_id: SubscriptionId) -> NotFound:
    return NotFound(f"Subscription [{subscription_id}] not found. Could be unsubscribed.")
