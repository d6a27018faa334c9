"""`/activity-api/v1`: yagna's paths, forms and status codes, and our list of batches.

Requests are translated to `ActivityService` and back; see docs/protocol/activity-exeunit.md §2.
Ours alone: `GET …/exec`, `POST …/takeup`, `GET …/absence`, `batchId` in an exec, `intentId` in a
create.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from shem.activity.eventlog import EVENTS_MAX, ProviderEvent
from shem.activity.proxy import HttpHead, build_call
from shem.activity.service import ActivityService
from shem.activity.stream import frames
from shem.api.activity_promises import PROMISES
from shem.api.kit import (
    DEFAULT_TIMEOUT_S,
    Context,
    Framework,
    Handler,
    json_reply,
    long_poll,
    promise,
    query_float,
    query_int,
    query_text,
    query_time,
    read_body,
    read_json,
    route,
)
from shem.kernel.errors import TimedOut, UsageError
from shem.kernel.ids import parse_activity_id, parse_batch_id, parse_node_id
from shem.market.ids import parse_agreement_id
from shem.wire.errors import WireError

BASE: Final = "/activity-api/v1"
INTENT_ID_MAX: Final = 64
SSE: Final = "text/event-stream"
OCTETS: Final = "application/octet-stream"
STREAMED: Final = frozenset({SSE, OCTETS})
"""What a proxied call must accept, to the letter, to get its answer as it comes."""

Served = Callable[[Request, Context], Awaitable[object]]


class CreateBody(msgspec.Struct, rename="camel"):
    """The object form of a create; `intentId` makes a repeat return the same activity."""

    agreement_id: str
    requestor_pub_key: str | None = None
    intent_id: str | None = None


class ExecBody(msgspec.Struct, rename="camel"):
    """An ExeScript, and optionally the client's own batch id."""

    text: str
    batch_id: str | None = None


class TakeUpBody(msgspec.Struct, rename="camel"):
    """What a ticket says of an activity that this node does not know."""

    agreement_id: str
    provider_id: str


def routes(activity: ActivityService) -> list[Route]:
    """Return the table of the activity API."""
    api = _Api(activity)
    one = f"{BASE}/activity/{{activity_id}}"
    methods = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
    table = [
        route("GET", f"{BASE}/events", api.events),
        route("GET", f"{BASE}/_monitor", api.monitor),
        route("POST", f"{BASE}/activity", _json(api.create)),
        route("GET", f"{BASE}/activity", _json(api.list_activities)),
        route("DELETE", one, _json(api.destroy)),
        route("POST", f"{one}/takeup", _json(api.take_up)),
        route("GET", f"{one}/state", _json(api.state)),
        route("PUT", f"{one}/state", _json(api.set_state)),
        route("GET", f"{one}/usage", _json(api.usage)),
        route("GET", f"{one}/agreement", _json(api.agreement)),
        route("GET", f"{one}/absence", _json(api.absence)),
        route("GET", f"{one}/command", _json(api.command)),
        route("POST", f"{one}/exec", _json(api.execute)),
        route("GET", f"{one}/exec", _json(api.batches)),
        route("GET", f"{one}/exec/{{batch_id}}", api.results),
        route("POST", f"{one}/encrypted", api.encrypted),
        *(route(method, f"{one}/proxy-http/{{url:path}}", api.proxy) for method in methods),
    ]
    promise(BASE, table, PROMISES)
    return table


def _json(served: Served) -> Handler:
    async def handler(request: Request, who: Context) -> Response:
        return json_reply(await served(request, who))

    return handler


def _id(request: Request) -> str:
    return str(request.path_params["activity_id"])


def _timeout_s(request: Request) -> float:
    return query_float(request, "timeout", DEFAULT_TIMEOUT_S)


def _count(request: Request, name: str) -> int | None:
    value = query_int(request, name)
    if value is not None and value < 0:
        raise Framework("Query deserialize error: invalid digit found in string")
    return value


def _with_head(response: Response, head: HttpHead, content_type: str | None) -> Response:
    """Give a response the headers of the service's answer; its type is as the client asked."""
    for name, value in head.headers:
        if name.lower() != "content-type" or content_type is None:
            response.headers.append(name, value)
    if content_type is not None:
        response.headers["content-type"] = content_type
    return response


async def _monitor_frames(items: AsyncGenerator[dict[str, object], None]) -> AsyncIterator[bytes]:
    async with aclosing(items):
        async for item in items:
            yield b"data: " + msgspec.json.encode(item) + b"\r\n\r\n"


class _Api:
    """The handlers."""

    def __init__(self, activity: ActivityService) -> None:
        self._activity = activity

    async def create(self, request: Request, who: Context) -> object:
        body = await read_json(request, str | CreateBody)  # type: ignore[arg-type]
        wanted = CreateBody(agreement_id=body) if isinstance(body, str) else body
        if wanted.intent_id is not None and not 0 < len(wanted.intent_id) <= INTENT_ID_MAX:
            raise UsageError(f"intentId has 1 to {INTENT_ID_MAX} characters")
        activity_id = await self._activity.create(
            who.caller,
            wanted.agreement_id,
            pub_key=wanted.requestor_pub_key,
            intent_id=wanted.intent_id,
            timeout_s=_timeout_s(request),
        )
        return activity_id if isinstance(body, str) else {"activityId": activity_id}

    async def destroy(self, request: Request, who: Context) -> object:
        await self._activity.destroy(who.caller, _id(request), _timeout_s(request))
        return None

    async def take_up(self, request: Request, who: Context) -> object:
        body = await read_json(request, TakeUpBody)
        await self._activity.take_up(
            who.caller,
            parse_activity_id(_id(request)),
            parse_agreement_id(body.agreement_id),
            parse_node_id(body.provider_id),
        )
        return None

    async def execute(self, request: Request, who: Context) -> object:
        body = await read_json(request, ExecBody)
        chosen = None if body.batch_id is None else parse_batch_id(body.batch_id)
        return await self._activity.execute(
            who.caller, _id(request), body.text, chosen, _timeout_s(request)
        )

    async def batches(self, request: Request, who: Context) -> object:
        return await self._activity.batches(who.caller, _id(request))

    async def results(self, request: Request, who: Context) -> Response:
        batch_id = str(request.path_params["batch_id"])
        if request.headers.get("accept") == SSE:
            events = await self._activity.stream(who.caller, _id(request), batch_id)
            return StreamingResponse(frames(events, self._activity.world.clock), media_type=SSE)
        found = await self._activity.results(
            who.caller,
            _id(request),
            batch_id,
            timeout_s=query_float(request, "timeout", 0.0),
            command_index=_count(request, "commandIndex"),
        )
        return json_reply(found)

    async def proxy(self, request: Request, who: Context) -> Response:
        call = build_call(
            request.method,
            str(request.path_params["url"]).removeprefix("/"),
            request.url.query,
            request.headers.items(),
            await read_body(request),
        )
        accept = request.headers.get("accept")
        if accept in STREAMED:
            head, chunks = await self._activity.proxy_stream(who.caller, _id(request), call)
            return _with_head(StreamingResponse(chunks, head.status), head, accept)
        head, body = await self._activity.proxy(who.caller, _id(request), call)
        return _with_head(Response(body, head.status), head, None)

    async def encrypted(self, request: Request, who: Context) -> Response:
        message = await read_body(request)
        answer = await self._activity.sealed(who.caller, _id(request), message, _timeout_s(request))
        return Response(answer, media_type=OCTETS)

    async def monitor(self, request: Request, who: Context) -> Response:
        del request
        items = _monitor_frames(self._activity.overview(who.caller))
        return StreamingResponse(items, media_type=SSE, headers={"cache-control": "no-cache"})

    async def command(self, request: Request, who: Context) -> object:
        return await self._activity.running_command(who.caller, _id(request), _timeout_s(request))

    async def state(self, request: Request, who: Context) -> object:
        state = await self._activity.state(who.caller, _id(request), _timeout_s(request))
        return state.wire()

    async def set_state(self, request: Request, who: Context) -> object:
        body = await read_json(request, dict[str, object])
        try:
            await self._activity.set_state(who.caller, _id(request), body)
        except WireError as error:
            raise Framework(f"Json deserialize error: {error.message}") from error
        return None

    async def usage(self, request: Request, who: Context) -> object:
        return await self._activity.usage(who.caller, _id(request), _timeout_s(request))

    async def absence(self, request: Request, who: Context) -> object:
        return await self._activity.standing(who.caller, _id(request))

    async def agreement(self, request: Request, who: Context) -> object:
        return await self._activity.agreement_of(who.caller, _id(request))

    async def list_activities(self, request: Request, who: Context) -> object:
        agreement_id = query_text(request, "agreementId")
        if agreement_id is None:
            raise Framework("Query deserialize error: missing field `agreementId`")
        return await self._activity.activities_of(who.caller, agreement_id)

    async def events(self, request: Request, who: Context) -> Response:
        after_ns = query_time(request, "afterTimestamp")
        if after_ns is None:
            raise Framework("Query deserialize error: missing field `afterTimestamp`")
        session = query_text(request, "appSessionId")
        most = _count(request, "maxEvents")

        async def fetch() -> list[ProviderEvent]:
            limit = EVENTS_MAX if most is None else most
            return await self._activity.events(who.caller, after_ns, session, limit)

        found = await long_poll(
            fetch,
            topics=self._activity.store.topics,
            topic=self._activity.events_topic(who.identity),
            timeout_s=_timeout_s(request),
            clock=self._activity.world.clock,
        )
        if not found:
            raise TimedOut("Timeout")
        return json_reply([event.json() for event in found])
