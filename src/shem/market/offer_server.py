"""What other nodes may ask about Offers: `Get` by id, `Query` page by page.

docs/protocol/market.md §5.2. Offers are public; anyone is answered. Every node answers for the
Offers it has announced, whoever issued them, but nobody is given his own: a legacy node that lost
its Offers would take them back, and accept counters for which no program of it listens any more.
"""

import struct
from typing import Final

from shem.bus.types import Call
from shem.kernel import times
from shem.kernel.errors import PeerError, ShemError, UsageError
from shem.kernel.ids import NodeId
from shem.market.context import Context
from shem.market.messages import DISCOVERY, OfferIds, Query, decode, encode
from shem.market.records import OFFER, Subscription
from shem.market.subscription_rows import load_subscription, page_of_offers
from shem.wire.flexbuffers import Blob, as_bytes

GET_MAX: Final = 200
"""Offers in one answer."""
PAGE: Final = 150
CURSOR_MAX: Final = 64


def serve(context: Context) -> None:
    """Bind the public endpoints."""

    async def get(call: Call, body: object) -> object:
        now_ns = context.now_ns()
        found = []
        for offer_id in decode(OfferIds, body).offer_ids[:GET_MAX]:
            offer = await load_subscription(context.store.fetch, offer_id)
            if offer is None or offer.kind != OFFER or not offer.is_active(now_ns):
                continue
            if _is_told(offer, call.caller.node_id):
                found.append(encode(offer.as_offer_row()))
        return found

    async def query(call: Call, body: object) -> object:
        del call
        request = decode(Query, body)
        after_ns = _read_cursor(request.iterator)
        page = await page_of_offers(
            context.store.fetch, request.node_id, after_ns, context.now_ns(), PAGE
        )
        more = len(page) == PAGE
        return {
            "offers": [item.subscription_id for item in page],
            "iterator": _cursor(page[-1].inserted_ns) if more else None,
        }

    def _is_told(offer: Subscription, asker: NodeId) -> bool:
        if offer.own:
            return context.identities.is_usable(offer.identity)
        return offer.identity != asker

    context.bus.serve(f"/public{DISCOVERY}/Get", get, error=_internal)
    context.bus.serve(f"/public{DISCOVERY}/Query", query, error=_internal)


def _internal(error: ShemError) -> object:
    return {"InternalError": error.message}


def _cursor(inserted_ns: int) -> Blob:
    text = times.to_naive(inserted_ns).encode()
    return Blob(struct.pack("<Q", len(text)) + text)


def _read_cursor(value: object) -> int:
    if value is None:
        return 0
    raw = as_bytes(value)
    if not 8 < len(raw) <= CURSOR_MAX:
        raise PeerError("the iterator is none of ours")
    try:
        return times.parse(raw[8:].decode("ascii"))
    except (UnicodeDecodeError, UsageError) as error:
        raise PeerError("the iterator is none of ours") from error
