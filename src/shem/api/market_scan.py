"""Market API: scans of the known Offers (docs/protocol/market.md §3.5)."""

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from shem.api import contract
from shem.api.contract import Body, Promise
from shem.api.kit import Context, Line, empty, json_reply, read_json
from shem.api.market_models import NewScan, Offer
from shem.api.market_reading import PATHS, TIMEOUT
from shem.kernel.errors import UsageError
from shem.market.forms import offer_row_form, subscription_form
from shem.market.records import Subscription
from shem.market.scans import EVENTS_DEFAULT, EVENTS_MAX, LIFETIME_S
from shem.market.service import MarketService

SSE: Final = "text/event-stream"
MAX_EVENTS: Final = contract.count(
    "maxEvents", EVENTS_DEFAULT, f"The most Offers in one answer, {EVENTS_MAX} at most.", minimum=0
)
PEER: Final = contract.node("peerId", "Ask this node, instead of what is known here.")


def table(market: MarketService) -> list[Line]:
    """Return the lines of the market's table that are about scans."""
    api = _Scans(market)
    close = Promise("End a scan", {204: Body.EMPTY}, (403, 404), paths=PATHS)
    return [
        (
            "POST",
            "/scan",
            api.open,
            Promise("Start reading the known Offers", {201: str}, body=NewScan),
        ),
        (
            "GET",
            "/scan/{scan}/events",
            api.events,
            Promise(
                f"The next Offers; an endless stream for who accepts {SSE}",
                {200: (list[Offer], Body.EVENTS)},
                (403, 404, 410, 500, 502, 504),
                query=(TIMEOUT, MAX_EVENTS, PEER),
                paths=PATHS,
            ),
        ),
        ("DELETE", "/scan/{scan}", api.close, close),
        ("DELETE", "/scan/{scan}/events", api.close, close),
    ]


class _Scans:
    """The handlers."""

    def __init__(self, market: MarketService) -> None:
        self._market = market

    async def open(self, request: Request, who: Context) -> Response:
        body = await read_json(request, NewScan, plain_errors=False)
        lifetime_s = LIFETIME_S if body.timeout is None else body.timeout
        scans = self._market.scans(who.caller)
        return json_reply(scans.open(who.identity, body.kind, body.constraints, lifetime_s), 201)

    async def events(self, request: Request, who: Context) -> Response:
        timeout_s, most, peer = TIMEOUT.of(request), MAX_EVENTS.of(request), PEER.of(request)
        if most < 0:
            raise UsageError(
                "bad value on maxEvents: out of range integral type conversion attempted"
            )
        scans, scan_id = self._market.scans(who.caller), _scan(request)
        most = min(most, EVENTS_MAX)
        if peer is not None:
            rows = await scans.offers_of_peer(
                who.identity, scan_id, peer, timeout_s=timeout_s, most=most
            )
            return json_reply([offer_row_form(row) for row in rows])
        if _wants_stream(request):
            scans.check(who.identity, scan_id)
            frames = _frames(scans.follow(who.identity, scan_id))
            headers = {"content-type": SSE, "cache-control": "no-cache"}
            return StreamingResponse(frames, headers=headers)
        found = await scans.offers(who.identity, scan_id, timeout_s=timeout_s, most=most)
        return json_reply([subscription_form(offer) for offer in found])

    async def close(self, request: Request, who: Context) -> Response:
        self._market.scans(who.caller).close(who.identity, _scan(request))
        return empty()


def _scan(request: Request) -> str:
    return str(request.path_params["scan"])


def _wants_stream(request: Request) -> bool:
    first = request.headers.get("accept", "").partition(",")[0]
    return first.partition(";")[0].strip().lower() == SSE


async def _frames(offers: AsyncIterator[Subscription]) -> AsyncIterator[bytes]:
    async for offer in offers:
        yield b"event: offer\ndata: " + msgspec.json.encode(subscription_form(offer)) + b"\n\n"
