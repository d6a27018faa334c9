"""Market API, both sides: Offers, Demands and proposals (docs/protocol/market.md §3).

Paths, statuses and words are the real daemon's, where they differ from its OpenAPI text too (§11):
clients were written against it. Agreements and scans are in modules of their own.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shem.api import market_agreements, market_scan
from shem.api.contract import Body, Promise, ProposalIdText, SubscriptionIdText
from shem.api.kit import Context, Line, empty, json_reply, route
from shem.api.market_models import Demand, NegotiationEvents, Offer, Proposal, Reason, Terms
from shem.api.market_reading import (
    BASE,
    MAX_EVENTS,
    PATHS,
    TIMEOUT,
    poll_of,
    proposal_of,
    read_reason,
    read_terms,
    subscription_of,
)
from shem.market.forms import subscription_form
from shem.market.ids import Role
from shem.market.queues import IN_PROCESS
from shem.market.records import DEMAND, OFFER
from shem.market.service import MarketService

ROLES: Final = {OFFER: Role.PROVIDER, DEMAND: Role.REQUESTOR}
LISTS: Final = {OFFER: list[Offer], DEMAND: list[Demand]}
REFUSED: Final = (400, 404, 410, 500)


def routes(market: MarketService) -> list[Route]:
    """Return the market's table."""
    table = [
        *_side(market, OFFER),
        *_side(market, DEMAND),
        *market_agreements.table(market),
        *market_scan.table(market),
    ]
    return [
        route(method, BASE + path, handler, promise) for method, path, handler, promise in table
    ]


def _side(market: MarketService, kind: str) -> list[Line]:
    side = _Side(market, kind)
    title, every = kind.capitalize(), f"/{kind}s"
    one, proposal = f"{every}/{{sub}}", f"{every}/{{sub}}/proposals/{{prop}}"
    return [
        (
            "POST",
            every,
            side.publish,
            Promise(f"Subscribe a {title}", {201: SubscriptionIdText}, body=Terms),
        ),
        (
            "GET",
            every,
            side.list,
            Promise(f"The caller's active {title}s", {200: LISTS[kind]}),
        ),
        (
            "DELETE",
            one,
            side.withdraw,
            Promise(f"Unsubscribe a {title}", {204: Body.EMPTY}, (404, 410), paths=PATHS),
        ),
        (
            "GET",
            f"{one}/events",
            side.events,
            Promise(
                "Collect events; the next poll of the same program acknowledges them",
                {200: NegotiationEvents},
                (404,),
                query=(TIMEOUT, MAX_EVENTS),
                paths=PATHS,
            ),
        ),
        (
            "GET",
            proposal,
            side.proposal,
            Promise("One proposal", {200: Proposal}, (404,), paths=PATHS),
        ),
        (
            "POST",
            proposal,
            side.counter,
            Promise("Counter a proposal", {200: ProposalIdText}, REFUSED, body=Terms, paths=PATHS),
        ),
        (
            "POST",
            f"{proposal}/reject",
            side.reject,
            Promise("Reject a proposal", {204: Body.EMPTY}, REFUSED, body=Reason, paths=PATHS),
        ),
    ]


class _Side:
    """What Offers and Demands have alike."""

    def __init__(self, market: MarketService, kind: str) -> None:
        self._market = market
        self._kind = kind
        self._role = ROLES[kind]

    async def publish(self, request: Request, who: Context) -> Response:
        properties, constraints = await read_terms(request)
        created = await self._market.subscribe(who.caller, self._kind, properties, constraints)
        return json_reply(created, 201)

    async def list(self, request: Request, who: Context) -> Response:
        del request
        found = await self._market.subscriptions(who.caller, self._kind)
        return json_reply([subscription_form(item) for item in found])

    async def withdraw(self, request: Request, who: Context) -> Response:
        await self._market.unsubscribe(who.caller, self._kind, subscription_of(request))
        return empty()

    async def events(self, request: Request, who: Context) -> Response:
        subscription_id = subscription_of(request)
        timeout_s, most = poll_of(request)
        return json_reply(
            await self._market.collect(
                who.caller,
                self._kind,
                subscription_id,
                timeout_s=timeout_s,
                most=most,
                collector=who.client or IN_PROCESS,
            )
        )

    async def proposal(self, request: Request, who: Context) -> Response:
        subscription_id, wanted = subscription_of(request), proposal_of(request)
        found = await self._market.proposal(who.caller, self._role, subscription_id, wanted)
        return json_reply(found)

    async def counter(self, request: Request, who: Context) -> Response:
        subscription_id, countered = subscription_of(request), proposal_of(request)
        properties, constraints = await read_terms(request)
        return json_reply(
            await self._market.counter(
                who.caller,
                self._role,
                subscription_id,
                countered,
                properties=properties,
                constraints=constraints,
            )
        )

    async def reject(self, request: Request, who: Context) -> Response:
        subscription_id, rejected = subscription_of(request), proposal_of(request)
        reason = await read_reason(request)
        await self._market.reject_proposal(
            who.caller, self._role, subscription_id, rejected, reason=reason
        )
        return empty()
