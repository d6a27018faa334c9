"""Offers spread among nodes: ids are broadcast, contents are fetched from the broadcaster.

docs/protocol/market.md §5.2. What comes is hash-checked, stored and matched with our Demands. A
broadcast may come from anybody, also about somebody else's Offer; that an Offer was withdrawn is
believed only when its owner says so, in person or when asked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, Protocol

import structlog

from shem.kernel.caller import Caller
from shem.kernel.errors import PeerError, ShemError, StorageFault, TimedOut, Unreachable
from shem.kernel.ids import NodeId, SubscriptionId
from shem.kernel.tasks import TaskScope
from shem.market.announcer import Announcer
from shem.market.context import Context
from shem.market.ids import subscription_hash
from shem.market.matching import MATCHING_KEY, end, keep, propose
from shem.market.messages import (
    DISCOVERY,
    NEW_NEIGHBOUR_TOPIC,
    OFFERS_TOPIC,
    UNSUBSCRIBES_TOPIC,
    OfferIds,
    OfferRow,
    decode,
)
from shem.market.records import ACTIVE, OFFER, UNSUBSCRIBED, Subscription
from shem.market.subscription_rows import (
    count_offers,
    load_subscription,
    next_insertion,
    offers_of_others,
    own_offers,
)
from shem.store.unit import Unit

log = structlog.get_logger()

OWN_DELAY_S: Final = 0.05
"""Own news go out at once; legacy nodes take five seconds."""
OWN_AGAIN_S: Final[tuple[float, ...]] = (1.0, 4.0, 16.0)
"""After which pauses own news, and all our own once we are online, are said again, for the lost."""
FOREIGN_DELAY_S: Final = 1.0
ROUND_MEAN_S: Final = 240.0
ROUND_IDS_MAX: Final = 200
GET_TIMEOUT_S: Final = 3.0
GET_AGAIN_S: Final = 0.2
NOT_THE_SENDERS: Final = (Unreachable, TimedOut, StorageFault)
"""Failures for which nobody is banned: a broken path, and a disk of ours without room."""
BAN_S: Final = 300.0
BANNED_MAX: Final = 1_000
RECEIVING_MAX: Final = 64
"""Broadcasts being looked at; more are dropped, they come again."""
IDS_LOOKED_AT: Final = 200
OFFERS_KEPT_MAX: Final = 20_000
"""Offers of others in the store."""
COUNT_INTERVAL_S: Final = 60.0
OFFER_SIZE_MAX: Final = 128 * 1024
GREETING_PAUSES_S: Final = (0.0, 1.0, 4.0)
"""When a starting node asks its neighbours for their Offers."""
GREETING_INTERVAL_S: Final = 30.0
"""At most so often a new Demand asks the neighbours again."""


class Broadcasts(Protocol):
    """The part of `bus.broadcast.Broadcast` that the market needs."""

    def subscribe(self, topic: str, fn: Callable[[Caller, object], Awaitable[None]]) -> None: ...
    def publish(self, topic: str, body: object) -> Coroutine[Any, Any, None]: ...


class Discovery:
    """Announces our Offers and takes in those of others."""

    def __init__(
        self, context: Context, broadcast: Broadcasts, default: Callable[[], NodeId]
    ) -> None:
        self._context = context
        self._broadcast = broadcast
        self._default = default
        clock = context.world.clock
        self._offers = Announcer(broadcast, OFFERS_TOPIC, clock)
        self._unsubscribes = Announcer(broadcast, UNSUBSCRIBES_TOPIC, clock)
        self._receiving = 0
        self._asked: set[SubscriptionId] = set()
        self._banned: dict[NodeId, float] = {}
        self._greet_at = 0.0
        self._said_at = 0.0
        self._kept = 0
        self._count_at = 0.0
        self._stirred = asyncio.Event()
        self._came_online = True
        broadcast.subscribe(OFFERS_TOPIC, self._hear_offers)
        broadcast.subscribe(UNSUBSCRIBES_TOPIC, self._hear_unsubscribes)
        broadcast.subscribe(NEW_NEIGHBOUR_TOPIC, self._hear_neighbour)

    def announce(self, offer_id: SubscriptionId) -> None:
        self._offers.add((offer_id,), OWN_DELAY_S, OWN_AGAIN_S)

    def withdraw(self, offer_id: SubscriptionId) -> None:
        self._offers.drop(offer_id)
        self._unsubscribes.add((offer_id,), OWN_DELAY_S, OWN_AGAIN_S)

    async def greet(self) -> None:
        """Ask the neighbours to announce what they know."""
        self._greet_at = self._context.world.clock.monotonic() + GREETING_INTERVAL_S
        await self._broadcast.publish(NEW_NEIGHBOUR_TOPIC, None)

    async def seek(self) -> None:
        """A new Demand looks for Offers: greet, unless that was done a moment ago."""
        if self._context.world.clock.monotonic() >= self._greet_at:
            await self.greet()

    async def run(self) -> None:
        async with TaskScope() as scope:
            scope.spawn(self._offers.run(), "market offers")
            scope.spawn(self._unsubscribes.run(), "market unsubscribes")
            scope.spawn(self._greet_at_start(), "market greeting")
            while True:
                self._stirred.clear()
                await self._say_all(self._own_again_s())
                wait_s = ROUND_MEAN_S * (0.5 + self._context.world.rng.unit())
                await self._until_stirred(wait_s)
                if self._came_online:
                    await self.greet()

    def _own_again_s(self) -> tuple[float, ...]:
        came_online, self._came_online = self._came_online, False
        return OWN_AGAIN_S if came_online else ()

    def online(self) -> None:
        """The relay knows us again, and perhaps nobody else yet: ask anew, and tell as at a start.

        A relay that lost its memory is found again by each node in its own time.
        """
        self._came_online = True
        self._stirred.set()

    def peer_up(self, peer: NodeId) -> None:
        """Somebody can be reached, perhaps after a time alone: do not wait for the next round."""
        del peer
        if self._context.world.clock.monotonic() >= self._said_at + GREETING_INTERVAL_S:
            self._stirred.set()

    async def _greet_at_start(self) -> None:
        for pause_s in GREETING_PAUSES_S:
            await self._context.world.clock.sleep(pause_s)
            await self.greet()

    async def _until_stirred(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._stirred.wait()
        except TimeoutError:
            return

    async def _say_all(self, own_again_s: tuple[float, ...] = ()) -> None:
        """Announce what is valid, own Offers first, and repeat what was withdrawn."""
        self._said_at = self._context.world.clock.monotonic()
        now_ns = self._context.now_ns()
        fetch = self._context.store.fetch
        usable = self._context.identities.is_usable
        published = await own_offers(fetch, ACTIVE, now_ns, ROUND_IDS_MAX)
        own = [offer_id for offer_id, identity in published if usable(identity)]
        self._offers.add(own, OWN_DELAY_S, own_again_s)
        heard = await offers_of_others(fetch, now_ns, ROUND_IDS_MAX - len(own))
        self._offers.add(heard, OWN_DELAY_S)
        marked = await own_offers(fetch, UNSUBSCRIBED, now_ns, ROUND_IDS_MAX)
        self._unsubscribes.add((offer_id for offer_id, _ in marked), OWN_DELAY_S)

    # --- hearing ---

    async def _hear_neighbour(self, caller: Caller, body: object) -> None:
        del caller, body
        await self._say_all()

    async def _hear_offers(self, caller: Caller, body: object) -> None:
        await self._listen(caller, body, self._take_offers)

    async def _hear_unsubscribes(self, caller: Caller, body: object) -> None:
        await self._listen(caller, body, self._take_unsubscribes)

    async def _listen(
        self,
        caller: Caller,
        body: object,
        take: Callable[[NodeId, tuple[SubscriptionId, ...]], Awaitable[None]],
    ) -> None:
        ids = decode(OfferIds, body).offer_ids[-IDS_LOOKED_AT:]
        if not ids or self._receiving >= RECEIVING_MAX or self._is_banned(caller.node_id):
            return
        self._receiving += 1
        try:
            await take(caller.node_id, ids)
        finally:
            self._receiving -= 1

    async def _take_offers(self, sender: NodeId, ids: tuple[SubscriptionId, ...]) -> None:
        fetch = self._context.store.fetch
        wanted = [
            item
            for item in dict.fromkeys(ids)
            if item not in self._asked and await load_subscription(fetch, item) is None
        ]
        if not wanted:
            return
        self._asked.update(wanted)
        try:
            rows = await self._get_from_announcer(sender, wanted)
            stored = await self._store(sender, set(wanted), rows)
        except ShemError as error:
            log.info("market.get_failed", peer=sender, reason=error.message)
            if not isinstance(error, NOT_THE_SENDERS):
                self._ban(sender)
            return
        finally:
            self._asked.difference_update(wanted)
        self._offers.add(stored, FOREIGN_DELAY_S)

    async def _get_from_announcer(
        self, sender: NodeId, wanted: Iterable[SubscriptionId]
    ) -> list[OfferRow]:
        """Ask who has just spoken; a stream to its life before a restart breaks only now."""
        try:
            return await self._get(sender, wanted)
        except Unreachable:
            await self._context.world.clock.sleep(GET_AGAIN_S)
            return await self._get(sender, wanted)

    async def _get(self, peer: NodeId, ids: Iterable[SubscriptionId]) -> list[OfferRow]:
        answer = await self._context.ask(
            self._default(), peer, DISCOVERY, OfferIds(tuple(ids)), timeout_s=GET_TIMEOUT_S
        )
        if not isinstance(answer, list) or len(answer) > IDS_LOOKED_AT:
            raise PeerError(f"a list of at most {IDS_LOOKED_AT} offers was expected")
        return [decode(OfferRow, item) for item in answer]

    async def _store(
        self, sender: NodeId, wanted: set[SubscriptionId], rows: list[OfferRow]
    ) -> list[SubscriptionId]:
        """Keep the valid Offers among `rows`, proposing what they match; return their ids."""
        stored: list[SubscriptionId] = []
        matched = 0
        async with self._context.store.unit(MATCHING_KEY) as unit:
            now_ns = self._context.now_ns()
            inserted_ns = await next_insertion(unit.fetch, now_ns)
            room = await self._room(unit)
            for row in rows:
                if row.offer_id in stored or row.offer_id not in wanted or len(stored) >= room:
                    continue
                if (flaw := await self._flaw(unit, row, now_ns)) is not None:
                    log.info("market.offer_refused", offer=row.offer_id, peer=sender, reason=flaw)
                    continue
                offer = _foreign(row, inserted_ns + len(stored))
                keep(self._context, unit, offer)
                matched += await propose(self._context, unit, offer, now_ns)
                stored.append(row.offer_id)
        self._kept += len(stored)
        if stored:
            log.debug("market.offers_stored", peer=sender, count=len(stored), matched=matched)
        return stored

    async def _room(self, unit: Unit) -> int:
        """Return how many more Offers of others may be kept; they are counted now and then."""
        now = self._context.world.clock.monotonic()
        if now >= self._count_at:
            self._count_at = now + COUNT_INTERVAL_S
            self._kept = await count_offers(unit.fetch)
        return OFFERS_KEPT_MAX - self._kept

    async def _flaw(self, unit: Unit, row: OfferRow, now_ns: int) -> str | None:
        """Say why an Offer is not taken."""
        if row.expires_ns <= now_ns:
            return "expired"
        if len(row.properties) + len(row.constraints) > OFFER_SIZE_MAX:
            return "too large"
        expected = subscription_hash(
            row.properties, row.constraints, row.node_id, row.created_ns, row.expires_ns
        )
        if row.offer_id.partition("-")[2] != expected:
            return "id does not fit the content"
        if self._context.identities.owns(row.node_id):
            self.withdraw(row.offer_id)
            return "it names us, and we do not know it"
        known = await load_subscription(unit.fetch, row.offer_id)
        return None if known is None else "known"

    async def _take_unsubscribes(self, sender: NodeId, ids: tuple[SubscriptionId, ...]) -> None:
        gone: list[SubscriptionId] = []
        for item in dict.fromkeys(ids):
            offer = await load_subscription(self._context.store.fetch, item)
            if offer is None or offer.own or not offer.is_active(self._context.now_ns()):
                continue
            if offer.identity == sender or await self._owner_withdrew(offer):
                gone.append(item)
        if not gone:
            return
        async with self._context.store.unit(MATCHING_KEY) as unit:
            for item in gone:
                end(self._context, unit, item)
        self._unsubscribes.add(gone, FOREIGN_DELAY_S)

    async def _owner_withdrew(self, offer: Subscription) -> bool:
        try:
            known = await self._get(offer.identity, (offer.subscription_id,))
        except ShemError:
            return False
        return not known

    def _ban(self, sender: NodeId) -> None:
        while len(self._banned) >= BANNED_MAX:
            del self._banned[next(iter(self._banned))]
        self._banned[sender] = self._context.world.clock.monotonic() + BAN_S

    def _is_banned(self, sender: NodeId) -> bool:
        until = self._banned.get(sender)
        if until is not None and until <= self._context.world.clock.monotonic():
            del self._banned[sender]
            return False
        return until is not None


def _foreign(row: OfferRow, inserted_ns: int) -> Subscription:
    return Subscription(
        subscription_id=row.offer_id,
        kind=OFFER,
        own=False,
        identity=row.node_id,
        properties=row.properties,
        constraints=row.constraints,
        state=ACTIVE,
        created_ns=row.created_ns,
        inserted_ns=inserted_ns,
        expires_ns=row.expires_ns,
    )
