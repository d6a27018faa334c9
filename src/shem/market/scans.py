"""Scans: reading the known Offers without a Demand, one after another as they come.

docs/protocol/market.md §3.5. A scan belongs to the identity that opened it and remembers how far it
has read: over what this node knows, and for each peer that was asked directly. It lives in memory
and is forgotten when nobody has used it for its time, or when the node stops.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from shem.bus.types import GsbCode, GsbError, RemoteError
from shem.kernel.errors import (
    Denied,
    Gone,
    NotFound,
    PeerError,
    ShemError,
    TimedOut,
    Unreachable,
    UsageError,
)
from shem.kernel.ids import NodeId, SubscriptionId
from shem.market.constraints import ConstraintError, Expression, parse_constraints
from shem.market.context import Context
from shem.market.ids import parse_subscription_id, subscription_hash
from shem.market.messages import DISCOVERY, IDS_MAX, OfferIds, OfferRow, Query, decode
from shem.market.records import KNOWN_OFFERS_TOPIC, OFFER, Subscription
from shem.market.resolve import Truth, resolve, typed_properties
from shem.market.subscription_rows import page_of_offers

LIFETIME_S: Final = 300
"""How long an unused scan is kept when its maker does not say."""
LIFETIME_MAX_S: Final = 24 * 3600
SCANS_MAX: Final = 10_000
"""Open scans; beyond, the one unused for the longest time goes."""
EVENTS_DEFAULT: Final = 500
EVENTS_MAX: Final = 1_000
"""Offers in one answer; who asks for more gets these."""
PAGE: Final = 100
"""Offers looked at before others have their turn."""
PEER_ANSWER_S: Final = 30.0
"""How long a peer may be silent, whatever the caller's patience."""
PEER_OFFERS_MIN: Final = 10
"""A question to a peer brings so many Offers even to who wants fewer."""
PEERS_MAX: Final = 1_000
"""Peers whose place one scan remembers."""
FOLLOW_S: Final = 3600.0
"""One wait of an endless reader."""


@dataclass(slots=True)
class PeerPages:
    """Where a scan stands at a peer: ids not yet fetched, and where its next page begins."""

    ids: list[SubscriptionId] = field(default_factory=list)
    iterator: object = None


@dataclass(slots=True)
class Scan:
    """One reader; `lock` lets its pollers read one after another."""

    identity: NodeId
    kind: str
    wanted: Expression | None
    lifetime_s: float
    idle_since: float
    users: int = 0
    is_open: bool = True
    read_to_ns: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    peers: dict[NodeId, PeerPages] = field(default_factory=dict)


class Scans:
    """The open scans of this node."""

    def __init__(self, context: Context, default: Callable[[], NodeId]) -> None:
        self._context = context
        self._default = default
        self._scans: dict[str, Scan] = {}
        self._next = 0

    def open(self, identity: NodeId, kind: str, constraints: str | None, lifetime_s: float) -> str:
        """Start a scan and return its id; nothing ever comes for a `kind` other than Offers."""
        try:
            wanted = None if constraints is None else parse_constraints(constraints)
        except ConstraintError as error:
            raise UsageError(f"Invalid constraint. {error.message}") from error
        self._make_room()
        scan_id = str(self._next)
        self._next += 1
        now = self._context.world.clock.monotonic()
        lifetime_s = min(lifetime_s, LIFETIME_MAX_S)
        self._scans[scan_id] = Scan(identity, kind, wanted, lifetime_s, now)
        return scan_id

    def close(self, identity: NodeId, scan_id: str) -> None:
        """End a scan; who waits for its Offers is told."""
        self._own(identity, scan_id)
        self._forget(scan_id)

    async def offers(
        self, identity: NodeId, scan_id: str, *, timeout_s: float, most: int
    ) -> list[Subscription]:
        """Return the next Offers, waiting up to `timeout_s` for the first."""
        topics = self._context.store.topics
        clock = self._context.world.clock
        deadline = clock.monotonic() + timeout_s
        with self._used(identity, scan_id) as scan:
            while True:
                version = topics.version(KNOWN_OFFERS_TOPIC)
                if not scan.is_open:
                    raise Gone(f'Iterator with id "{scan_id}" was closed')
                if found := await self._read(scan, most):
                    return found
                left = deadline - clock.monotonic()
                if left <= 0 or not await topics.changed(KNOWN_OFFERS_TOPIC, version, left):
                    return []

    async def follow(self, identity: NodeId, scan_id: str) -> AsyncIterator[Subscription]:
        """Yield Offers for as long as the scan is open."""
        while True:
            try:
                found = await self.offers(identity, scan_id, timeout_s=FOLLOW_S, most=PAGE)
            except (Gone, NotFound):
                return
            for offer in found:
                yield offer

    def check(self, identity: NodeId, scan_id: str) -> None:
        """Raise when there is no such scan, or not for this identity."""
        self._own(identity, scan_id)

    async def offers_of_peer(
        self, identity: NodeId, scan_id: str, peer: NodeId, *, timeout_s: float, most: int
    ) -> list[OfferRow]:
        """Ask a peer for the next Offers that it knows; after the last it begins anew."""
        with self._used(identity, scan_id) as scan:
            if scan.kind != OFFER:
                return []
            async with scan.lock:
                try:
                    async with asyncio.timeout(min(timeout_s, PEER_ANSWER_S)):
                        return await self._read_peer(scan, peer, max(most, PEER_OFFERS_MIN))
                except TimeoutError as error:
                    raise TimedOut(f"no answer of {peer} in time", status=504) from error

    # --- inside ---

    def _own(self, identity: NodeId, scan_id: str) -> Scan:
        scan = self._scans.get(scan_id)
        if scan is None or self._is_over(scan):
            raise NotFound(f'Iterator with id "{scan_id}" not found')
        if scan.identity != identity:
            raise Denied("Access denied")
        return scan

    @contextmanager
    def _used(self, identity: NodeId, scan_id: str) -> Iterator[Scan]:
        """Keep a scan from being forgotten while the block lasts."""
        scan = self._own(identity, scan_id)
        scan.users += 1
        try:
            yield scan
        finally:
            scan.users -= 1
            scan.idle_since = self._context.world.clock.monotonic()

    def _is_over(self, scan: Scan) -> bool:
        idle_s = self._context.world.clock.monotonic() - scan.idle_since
        return not scan.users and idle_s > scan.lifetime_s

    def _make_room(self) -> None:
        for name, scan in tuple(self._scans.items()):
            if self._is_over(scan):
                self._forget(name)
        if len(self._scans) >= SCANS_MAX:
            self._forget(min(self._scans, key=lambda name: self._scans[name].idle_since))

    def _forget(self, scan_id: str) -> None:
        scan = self._scans.pop(scan_id, None)
        if scan is not None:
            scan.is_open = False
            self._context.store.topics.bump(KNOWN_OFFERS_TOPIC)

    async def _read(self, scan: Scan, most: int) -> list[Subscription]:
        """Return up to `most` fitting Offers behind the place read to, and move it."""
        found: list[Subscription] = []
        if scan.kind != OFFER:
            return found
        async with scan.lock:
            read_to_ns = scan.read_to_ns
            while len(found) < most:
                page = await page_of_offers(
                    self._context.store.fetch, None, read_to_ns, self._context.now_ns(), PAGE
                )
                for offer in page:
                    if len(found) == most:
                        break
                    read_to_ns = offer.inserted_ns
                    if _is_wanted(scan.wanted, offer):
                        found.append(offer)
                if len(page) < PAGE:
                    break
                await asyncio.sleep(0)
            scan.read_to_ns = read_to_ns
        return found

    async def _read_peer(self, scan: Scan, peer: NodeId, most: int) -> list[OfferRow]:
        pages = scan.peers.get(peer) or PeerPages()
        try:
            if not pages.ids:
                pages = await self._next_page(peer, pages.iterator)
            rows = await self._get(peer, pages.ids[:most]) if pages.ids else []
        except TimedOut as error:
            raise TimedOut(error.message, status=504) from error
        except Unreachable as error:
            raise Unreachable(f"GSB failure: {error.message}") from error
        except (RemoteError, GsbError, PeerError) as error:
            raise _bad_gateway(error) from error
        scan.peers.pop(peer, None)
        while len(scan.peers) >= PEERS_MAX:
            del scan.peers[next(iter(scan.peers))]
        scan.peers[peer] = PeerPages(pages.ids[most:], pages.iterator)
        return rows

    async def _next_page(self, peer: NodeId, iterator: object) -> PeerPages:
        question = Query(peer, None, iterator)
        answer = await self._context.ask(
            self._default(), peer, DISCOVERY, question, timeout_s=PEER_ANSWER_S
        )
        offers = answer.get("offers") if isinstance(answer, dict) else None
        if not isinstance(answer, dict) or not isinstance(offers, list) or len(offers) > IDS_MAX:
            raise PeerError(f"a list of at most {IDS_MAX} offers was expected")
        try:
            ids = [parse_subscription_id(str(offer)) for offer in offers]
        except UsageError as error:
            raise PeerError(error.message) from error
        return PeerPages(ids, answer.get("iterator"))

    async def _get(self, peer: NodeId, ids: list[SubscriptionId]) -> list[OfferRow]:
        answer = await self._context.ask(
            self._default(), peer, DISCOVERY, OfferIds(tuple(ids)), timeout_s=PEER_ANSWER_S
        )
        if not isinstance(answer, list) or len(answer) > len(ids):
            raise PeerError(f"a list of at most {len(ids)} offers was expected")
        rows = {row.offer_id: row for item in answer if _fits_its_id(row := decode(OfferRow, item))}
        return [rows[item] for item in ids if item in rows]


def _bad_gateway(error: ShemError) -> ShemError:
    """Return what is told of a peer that answers, but not with Offers."""
    if isinstance(error, GsbError) and error.gsb_code is not GsbCode.BAD_REQUEST:
        return Unreachable(f"GSB failure: {error.message}")
    return PeerError(f"the peer does not tell its Offers: {error.message}", status=502)


def _is_wanted(wanted: Expression | None, offer: Subscription) -> bool:
    if wanted is None:
        return True
    try:
        return resolve(wanted, typed_properties(offer.properties)).truth is Truth.TRUE
    except UsageError:
        return False  # properties that are no JSON fit nothing


def _fits_its_id(row: OfferRow) -> bool:
    expected = subscription_hash(
        row.properties, row.constraints, row.node_id, row.created_ns, row.expires_ns
    )
    return row.offer_id.partition("-")[2] == expected
