"""Market API: agreements, their endings and their events (docs/protocol/market.md §3.4, §4.2)."""

from typing import Final, get_args

from starlette.requests import Request
from starlette.responses import Response

from shem.api import contract
from shem.api.contract import AgreementIdText, Body, Promise
from shem.api.kit import Context, Line, empty, json_reply, read_json
from shem.api.market_models import (
    Agreement,
    AgreementEvents,
    AgreementListEntry,
    AgreementTerminatedEvent,
    Promotion,
    Reason,
    StateName,
)
from shem.api.market_reading import (
    MAX_EVENTS,
    PATHS,
    SESSION,
    TIMEOUT,
    agreement_of,
    body_time,
    poll_of,
    read_reason,
    storable_time,
)
from shem.kernel import times
from shem.kernel.errors import UsageError
from shem.market.agreements import LISTED_MAX, Filter
from shem.market.forms import agreement_entry, agreement_event_form
from shem.market.ids import parse_proposal_id
from shem.market.service import CONFIRM_TIMEOUT_S, MarketService
from shem.market.states import AgreementState

EARLIEST_NS: Final = times.parse("2016-11-11T15:12:00Z")
"""Where reading agreement events starts without a cursor."""
NEWEST_FIRST: Final = "-timestamp"
OLDEST_FIRST: Final = "timestamp"

STATE: Final = contract.choice("state", get_args(StateName), "Only agreements in this state.")
BEFORE: Final = contract.moment("beforeDate", "Only agreements created before.")
AFTER: Final = contract.moment("afterDate", "Only agreements created after.")
SORT: Final = contract.choice("sort", (NEWEST_FIRST, OLDEST_FIRST), "Newest first if not given.")
LIMIT: Final = contract.count(
    "limit", LISTED_MAX, "The most agreements in the answer.", minimum=1, maximum=LISTED_MAX
)
AFTER_TIMESTAMP: Final = contract.moment(
    "afterTimestamp", "Only later events: the `eventDate` of the last one that was read."
)
CONFIRM_TIMEOUT: Final = contract.seconds(
    "timeout", CONFIRM_TIMEOUT_S, "How long to try to reach the provider, in seconds."
)
REFUSED: Final = (400, 404, 409, 410, 500)


def table(market: MarketService) -> list[Line]:
    """Return the lines of the market's table that are about agreements."""
    return [*_making(_Agreements(market)), *_ending(_Agreements(market))]


def _making(api: "_Agreements") -> list[Line]:
    one = "/agreements/{agreement}"
    return [
        (
            "POST",
            "/agreements",
            api.create,
            Promise(
                "Promote the provider's last proposal to an agreement",
                {200: AgreementIdText},
                (400, 409),
                body=Promotion,
            ),
        ),
        (
            "GET",
            "/agreements",
            api.list,
            Promise(
                "The caller's agreements, in either role",
                {200: list[AgreementListEntry]},
                query=(STATE, BEFORE, AFTER, SESSION, SORT, LIMIT),
            ),
        ),
        ("GET", one, api.get, Promise("One agreement", {200: Agreement}, (404,), paths=PATHS)),
        (
            "POST",
            f"{one}/confirm",
            api.confirm,
            Promise(
                "Send an agreement to the provider (requestor)",
                {204: Body.EMPTY},
                REFUSED,
                query=(SESSION, CONFIRM_TIMEOUT),
                paths=PATHS,
            ),
        ),
        (
            "POST",
            f"{one}/wait",
            api.wait,
            Promise(
                "Wait for the approval (requestor)",
                {204: Body.EMPTY},
                (404, 408, 410),
                query=(TIMEOUT,),
                paths=PATHS,
            ),
        ),
        (
            "POST",
            f"{one}/approve",
            api.approve,
            Promise(
                "Approve an agreement (provider)",
                {204: Body.EMPTY},
                REFUSED,
                query=(SESSION, TIMEOUT),
                paths=PATHS,
            ),
        ),
    ]


def _ending(api: "_Agreements") -> list[Line]:
    one = "/agreements/{agreement}"
    done = {200: Body.EMPTY}
    return [
        (
            "POST",
            f"{one}/cancel",
            api.cancel,
            Promise("Take an agreement back (requestor)", done, REFUSED, body=Reason, paths=PATHS),
        ),
        (
            "POST",
            f"{one}/reject",
            api.reject,
            Promise("Refuse an agreement (provider)", done, REFUSED, body=Reason, paths=PATHS),
        ),
        (
            "POST",
            f"{one}/terminate",
            api.terminate,
            Promise("End an agreement in force", done, REFUSED, body=Reason, paths=PATHS),
        ),
        (
            "GET",
            f"{one}/terminate/reason",
            api.termination,
            Promise(
                "How an agreement was terminated",
                {200: AgreementTerminatedEvent},
                (404,),
                paths=PATHS,
            ),
        ),
        (
            "GET",
            "/agreementEvents",
            api.events,
            Promise(
                "Events of all the caller's agreements, after a cursor",
                {200: AgreementEvents},
                query=(TIMEOUT, MAX_EVENTS, SESSION, AFTER_TIMESTAMP),
            ),
        ),
    ]


class _Agreements:
    """The handlers."""

    def __init__(self, market: MarketService) -> None:
        self._market = market

    async def create(self, request: Request, who: Context) -> Response:
        body = await read_json(request, Promotion, plain_errors=False)
        valid_to_ns = body_time(body.valid_to)
        try:
            promoted = parse_proposal_id(body.proposal_id)
        except UsageError as error:
            raise UsageError(f"Invalid Agreement id. {error.message}") from error
        return json_reply(await self._market.create_agreement(who.caller, promoted, valid_to_ns))

    async def list(self, request: Request, who: Context) -> Response:
        state = STATE.of(request)
        limit = LIMIT.of(request)
        if not 1 <= limit <= LISTED_MAX:
            raise UsageError(f"Invalid limit '{limit}', should be between 1 and {LISTED_MAX}.")
        wanted = Filter(
            state=None if state is None else AgreementState(state),
            before_ns=BEFORE.of(request),
            after_ns=AFTER.of(request),
            app_session_id=SESSION.of(request),
            oldest_first=SORT.of(request) == OLDEST_FIRST,
            limit=limit,
        )
        found = await self._market.agreements(who.caller, wanted)
        return json_reply([agreement_entry(entry) for entry in found])

    async def get(self, request: Request, who: Context) -> Response:
        return json_reply(await self._market.agreement_of(who.caller, agreement_of(request)))

    async def confirm(self, request: Request, who: Context) -> Response:
        agreement_id, session = agreement_of(request), SESSION.of(request)
        timeout_s = CONFIRM_TIMEOUT.of(request)
        await self._market.confirm(who.caller, agreement_id, session, timeout_s)
        return empty()

    async def wait(self, request: Request, who: Context) -> Response:
        timeout_s = TIMEOUT.of(request)
        await self._market.wait(who.caller, agreement_of(request), timeout_s)
        return empty()

    async def approve(self, request: Request, who: Context) -> Response:
        agreement_id, session = agreement_of(request), SESSION.of(request)
        await self._market.approve(who.caller, agreement_id, session, TIMEOUT.of(request))
        return empty()

    async def cancel(self, request: Request, who: Context) -> Response:
        await self._market.cancel(who.caller, agreement_of(request), await read_reason(request))
        return empty(200)

    async def reject(self, request: Request, who: Context) -> Response:
        await self._market.reject(who.caller, agreement_of(request), await read_reason(request))
        return empty(200)

    async def terminate(self, request: Request, who: Context) -> Response:
        await self._market.terminate(who.caller, agreement_of(request), await read_reason(request))
        return empty(200)

    async def termination(self, request: Request, who: Context) -> Response:
        event = await self._market.termination(who.caller, agreement_of(request))
        return json_reply(agreement_event_form(event))

    async def events(self, request: Request, who: Context) -> Response:
        timeout_s, most = poll_of(request)
        after_ns = AFTER_TIMESTAMP.of(request)
        events = await self._market.agreement_events(
            who.caller,
            after_ns=EARLIEST_NS if after_ns is None else storable_time(after_ns),
            session=SESSION.of(request),
            timeout_s=timeout_s,
            most=most,
        )
        return json_reply([agreement_event_form(event) for event in events])
