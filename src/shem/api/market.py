"""Market API, both sides (docs/protocol/market.md §3).

Paths, statuses and words are the real daemon's, where they differ from its OpenAPI text too (§11):
clients were written against it. The scan API is not built yet.
"""

from collections.abc import Callable
from typing import Final, TypeVar, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shem.api.kit import (
    DEFAULT_TIMEOUT_S,
    Context,
    Framework,
    Handler,
    PathError,
    empty,
    json_reply,
    query_float,
    query_int,
    query_text,
    query_time,
    read_json,
    route,
)
from shem.kernel import times
from shem.kernel.errors import NotSupported, UsageError
from shem.kernel.ids import AgreementId, ProposalId, SubscriptionId
from shem.market.agreements import Filter
from shem.market.forms import (
    agreement_entry,
    agreement_event_form,
    proposal_form,
    subscription_form,
)
from shem.market.ids import (
    Role,
    parse_agreement_id,
    parse_proposal_id,
    parse_subscription_id,
)
from shem.market.messages import TIME_MAX_NS, Reason
from shem.market.properties import Json
from shem.market.queues import EVENTS_DEFAULT, check_max_events
from shem.market.records import DEMAND, OFFER
from shem.market.service import CONFIRM_TIMEOUT_S, MarketService
from shem.market.states import AgreementState

BASE: Final = "/market-api/v1"
EARLIEST_NS: Final = times.parse("2016-11-11T15:12:00Z")
"""Where reading agreement events starts without a cursor."""
STATES: Final = tuple(
    AgreementState(name)
    for name in (
        "Proposal",
        "Pending",
        "Cancelled",
        "Rejected",
        "Approved",
        "Expired",
        "Terminated",
    )
)
ROLES: Final = {OFFER: Role.PROVIDER, DEMAND: Role.REQUESTOR}

T = TypeVar("T")


class Terms(msgspec.Struct):
    """NewOffer, NewDemand, NewProposal."""

    properties: object
    constraints: str


class Promotion(msgspec.Struct, rename="camel"):
    """AgreementProposal."""

    proposal_id: str
    valid_to: str


def routes(market: MarketService) -> list[Route]:
    """Return the market's table."""
    table: list[tuple[str, str, Handler]] = []
    for kind in (OFFER, DEMAND):
        side = _Side(market, kind)
        table += [
            ("POST", f"/{kind}s", side.publish),
            ("GET", f"/{kind}s", side.list),
            ("DELETE", f"/{kind}s/{{sub}}", side.withdraw),
            ("GET", f"/{kind}s/{{sub}}/events", side.events),
            ("GET", f"/{kind}s/{{sub}}/proposals/{{prop}}", side.proposal),
            ("POST", f"/{kind}s/{{sub}}/proposals/{{prop}}", side.counter),
            ("POST", f"/{kind}s/{{sub}}/proposals/{{prop}}/reject", side.reject),
        ]
    api = _Agreements(market)
    one = "/agreements/{agreement}"
    table += [
        ("POST", "/agreements", api.create),
        ("GET", "/agreements", api.list),
        ("GET", one, api.get),
        ("POST", f"{one}/confirm", api.confirm),
        ("POST", f"{one}/wait", api.wait),
        ("POST", f"{one}/approve", api.approve),
        ("POST", f"{one}/cancel", api.cancel),
        ("POST", f"{one}/reject", api.reject),
        ("POST", f"{one}/terminate", api.terminate),
        ("GET", f"{one}/terminate/reason", api.termination),
        ("GET", "/agreementEvents", api.events),
        ("POST", "/scan", _scan),
        ("GET", "/scan/{id}/events", _scan),
        ("DELETE", "/scan/{id}", _scan),
        ("DELETE", "/scan/{id}/events", _scan),
    ]
    return [route(method, BASE + path, handler) for method, path, handler in table]


class _Side:
    """What Offers and Demands have alike."""

    def __init__(self, market: MarketService, kind: str) -> None:
        self._market = market
        self._kind = kind
        self._role = ROLES[kind]

    async def publish(self, request: Request, who: Context) -> Response:
        properties, constraints = await _terms(request)
        created = await self._market.subscribe(who.caller, self._kind, properties, constraints)
        return json_reply(created, 201)

    async def list(self, request: Request, who: Context) -> Response:
        del request
        found = await self._market.subscriptions(who.caller, self._kind)
        return json_reply([subscription_form(item) for item in found])

    async def withdraw(self, request: Request, who: Context) -> Response:
        await self._market.unsubscribe(who.caller, self._kind, _subscription(request))
        return empty()

    async def events(self, request: Request, who: Context) -> Response:
        subscription_id = _subscription(request)
        timeout_s, most = _poll(request)
        return json_reply(
            await self._market.collect(
                who.caller, self._kind, subscription_id, timeout_s=timeout_s, most=most
            )
        )

    async def proposal(self, request: Request, who: Context) -> Response:
        subscription_id, wanted = _subscription(request), _proposal(request)
        found = await self._market.proposal(who.caller, self._role, subscription_id, wanted)
        return json_reply(proposal_form(found))

    async def counter(self, request: Request, who: Context) -> Response:
        subscription_id, countered = _subscription(request), _proposal(request)
        properties, constraints = await _terms(request)
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
        subscription_id, rejected = _subscription(request), _proposal(request)
        reason = await _reason(request)
        await self._market.reject_proposal(
            who.caller, self._role, subscription_id, rejected, reason=reason
        )
        return empty()


class _Agreements:
    """Agreements, their endings and their events."""

    def __init__(self, market: MarketService) -> None:
        self._market = market

    async def create(self, request: Request, who: Context) -> Response:
        body = await read_json(request, Promotion, plain_errors=False)
        valid_to_ns = _body_time(body.valid_to)
        try:
            promoted = parse_proposal_id(body.proposal_id)
        except UsageError as error:
            raise UsageError(f"Invalid Agreement id. {error.message}") from error
        return json_reply(await self._market.create_agreement(who.caller, promoted, valid_to_ns))

    async def list(self, request: Request, who: Context) -> Response:
        wanted = Filter(
            state=_state(query_text(request, "state")),
            before_ns=query_time(request, "beforeDate"),
            after_ns=query_time(request, "afterDate"),
            app_session_id=query_text(request, "appSessionId"),
        )
        found = await self._market.agreements(who.caller, wanted)
        return json_reply([agreement_entry(row) for row in found])

    async def get(self, request: Request, who: Context) -> Response:
        return json_reply(await self._market.agreement_of(who.caller, _agreement(request)))

    async def confirm(self, request: Request, who: Context) -> Response:
        await self._market.confirm(
            who.caller,
            _agreement(request),
            query_text(request, "appSessionId"),
            query_float(request, "timeout", CONFIRM_TIMEOUT_S),
        )
        return empty()

    async def wait(self, request: Request, who: Context) -> Response:
        timeout_s = query_float(request, "timeout", DEFAULT_TIMEOUT_S)
        await self._market.wait(who.caller, _agreement(request), timeout_s)
        return empty()

    async def approve(self, request: Request, who: Context) -> Response:
        await self._market.approve(
            who.caller,
            _agreement(request),
            query_text(request, "appSessionId"),
            query_float(request, "timeout", DEFAULT_TIMEOUT_S),
        )
        return empty()

    async def cancel(self, request: Request, who: Context) -> Response:
        await self._market.cancel(who.caller, _agreement(request), await _reason(request))
        return empty(200)

    async def reject(self, request: Request, who: Context) -> Response:
        await self._market.reject(who.caller, _agreement(request), await _reason(request))
        return empty(200)

    async def terminate(self, request: Request, who: Context) -> Response:
        await self._market.terminate(who.caller, _agreement(request), await _reason(request))
        return empty(200)

    async def termination(self, request: Request, who: Context) -> Response:
        event = await self._market.termination(who.caller, _agreement(request))
        return json_reply(agreement_event_form(event))

    async def events(self, request: Request, who: Context) -> Response:
        timeout_s, most = _poll(request)
        events = await self._market.agreement_events(
            who.caller,
            after_ns=_at_most(query_time(request, "afterTimestamp", EARLIEST_NS)),
            session=query_text(request, "appSessionId"),
            timeout_s=timeout_s,
            most=most,
        )
        return json_reply([agreement_event_form(event) for event in events])


async def _scan(request: Request, who: Context) -> Response:
    del request, who
    raise NotSupported("the scan API is not supported yet; subscribe a Demand instead")


async def _terms(request: Request) -> tuple[Json, str]:
    body = await read_json(request, Terms, plain_errors=False)
    return cast("Json", body.properties), body.constraints


async def _reason(request: Request) -> Reason | None:
    """Read a Reason, or null, which counts as none."""
    body = await read_json(request, object, plain_errors=False)
    if body is None:
        return None
    if not isinstance(body, dict) or not isinstance(body.get("message"), str):
        raise UsageError("Json deserialize error: missing field `message`")
    return cast("Reason", body)


def _parsed(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except UsageError as error:
        raise PathError(f"Path deserialize error: {error.message}") from error


def _subscription(request: Request) -> SubscriptionId:
    return _parsed(parse_subscription_id, request.path_params["sub"])


def _proposal(request: Request) -> ProposalId:
    return _parsed(parse_proposal_id, request.path_params["prop"])


def _agreement(request: Request) -> AgreementId:
    return parse_agreement_id(request.path_params["agreement"])


def _poll(request: Request) -> tuple[float, int]:
    timeout_s = query_float(request, "timeout", DEFAULT_TIMEOUT_S)
    most = query_int(request, "maxEvents", EVENTS_DEFAULT)
    return timeout_s, check_max_events(EVENTS_DEFAULT if most is None else most)


def _state(text: str | None) -> AgreementState | None:
    if text is None:
        return None
    if text not in STATES:
        expected = ", ".join(f"`{state}`" for state in STATES)
        raise Framework(
            f"Query deserialize error: unknown variant `{text}`, expected one of {expected}"
        )
    return AgreementState(text)


def _body_time(text: str) -> int:
    try:
        return _at_most(times.parse(text))
    except UsageError as error:
        raise UsageError(f"Json deserialize error: {error.message}") from error


def _at_most(ns: int | None) -> int:
    """Keep a client's time within what can be stored."""
    return max(0, min(ns or 0, TIME_MAX_NS))
