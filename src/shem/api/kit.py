"""What every REST handler uses: routes, typed bodies and queries, replies, long polls.

Rules: a handler takes `(request, who)`; errors are raised as `ShemError` and become
`{"message", "code"}` with their status; malformed queries and (outside the market) malformed bodies
are plain text, as yagna's framework answers them (docs/protocol/gsb-identity.md §5).
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shem.api.sessions import Client
from shem.kernel import times
from shem.kernel.caller import Assurance, Caller
from shem.kernel.errors import ShemError, UsageError
from shem.kernel.ids import NodeId
from shem.kernel.world import Clock

if TYPE_CHECKING:
    from shem.api.contract import Promise

BODY_SIZE_MAX: Final = 2_097_152
"""yagna's limit; a larger body is answered 413."""
DEFAULT_TIMEOUT_S: Final = 5.0
PLAIN_TEXT: Final = "text/plain; charset=utf-8"
TIMEOUT_MAX_S: Final = 3_600.0
"""The longest a client may ask us to wait in one call."""

T = TypeVar("T")


class Framework(ShemError):
    """An error that the web framework of yagna would have raised: its body is plain text."""

    status = 400
    code = "bad-request"


class PathError(ShemError):
    """A malformed id in a market path: a JSON body that yagna labels as plain text."""

    status = 400
    code = "bad-request"


class TooLarge(ShemError):
    """The body exceeds BODY_SIZE_MAX."""

    status = 413
    code = "too-large"


@dataclass(frozen=True, slots=True)
class Context:
    """Who makes this REST call: the identity bound to the application key, and the program."""

    identity: NodeId
    name: str
    role: str
    client: Client | None = None

    @property
    def caller(self) -> Caller:
        return Caller(self.identity, Assurance.LOCAL)


Handler = Callable[[Request, Context], Awaitable[Response]]
Line = tuple[str, str, Handler, "Promise"]
"""One line of a table: method, path, handler, and what it promises."""


class Changes(Protocol):
    """The part of `store.Topics` that a long poll needs."""

    def version(self, topic: str) -> int: ...
    async def changed(self, topic: str, since: int, timeout_s: float) -> bool: ...


def json_reply(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def text(body: str, status: int = 200) -> Response:
    return Response(body, status, media_type=PLAIN_TEXT)


def empty(status: int = 204) -> Response:
    return Response(b"", status)


class ApiRoute(Route):
    """A route that says what it promises, if that is written down."""

    promise: "Promise | None" = None


def route(method: str, path: str, handler: Handler, promise: "Promise | None" = None) -> Route:
    """One line of an API's table. GETs are cancelled when their client goes away."""

    async def endpoint(request: Request) -> Response:
        await read_body(request)
        work = handler(request, request.state.who)
        return await (_until_disconnect(request, work) if method == "GET" else work)

    made = ApiRoute(path, endpoint, methods=[method], name=f"{method} {path}")
    made.methods = {method}
    made.promise = promise
    return made


def open_route(
    path: str,
    answer: Callable[[Request], Awaitable[Response]],
    promise: "Promise | None" = None,
) -> Route:
    """One GET that needs no application key (see `app.OPEN_PREFIXES`)."""
    made = ApiRoute(path, answer, methods=["GET"], name=f"GET {path}")
    made.methods = {"GET"}
    made.promise = promise
    return made


def promise(base: str, routes: "list[Route]", table: "Mapping[tuple[str, str], Promise]") -> None:
    """Give routes under `base` what the table promises by method and path."""
    for made in routes:
        if isinstance(made, ApiRoute):
            for method in made.methods or ():
                made.promise = table.get((method, made.path.removeprefix(base)), made.promise)


async def _until_disconnect(request: Request, work: Awaitable[Response]) -> Response:
    """Await `work`, but cancel it (and so consume no event) once the client has gone."""
    task = asyncio.current_task()
    assert task is not None
    has_gone = False

    async def watch() -> None:
        nonlocal has_gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        has_gone = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not has_gone or task.uncancel():
            raise
        return empty(499)
    finally:
        watching.cancel()


async def read_body(request: Request) -> bytes:
    """Return the whole body; TooLarge above BODY_SIZE_MAX. Later calls return the same bytes."""
    cached: bytes | None = getattr(request.state, "body", None)
    if cached is not None:
        return cached
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_SIZE_MAX:
            raise TooLarge(f"the body is larger than {BODY_SIZE_MAX} bytes")
        parts.append(part)
    body = b"".join(parts)
    request.state.body = body
    return body


async def read_json(request: Request, kind: type[T], *, plain_errors: bool = True) -> T:
    """Decode the body as `kind`. The market passes `plain_errors=False` for JSON error bodies."""
    error_type = Framework if plain_errors else UsageError
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise error_type("Content type error")
    try:
        return msgspec.json.decode(await read_body(request), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise error_type(f"Json deserialize error: {error}") from error


def query_text(request: Request, name: str, default: str | None = None) -> str | None:
    return request.query_params.get(name, default)


def query_float(request: Request, name: str, default: float) -> float:
    """Read seconds or the like; not a number is a 400, negative counts as 0, too large is a 400."""
    raw = request.query_params.get(name)
    if raw is None:
        return default
    try:
        value = float(raw)
    except ValueError as error:
        raise Framework("Query deserialize error: invalid float literal") from error
    if math.isnan(value) or value > TIMEOUT_MAX_S:
        raise Framework(f"Query deserialize error: {name} must be at most {TIMEOUT_MAX_S:g}")
    return max(value, 0.0)


def query_int(request: Request, name: str, default: int | None = None) -> int | None:
    raw = request.query_params.get(name)
    if raw is None:
        return default
    try:
        return int(raw)
    except ValueError as error:
        words = "invalid digit found in string" if raw else "cannot parse integer from empty string"
        raise Framework(f"Query deserialize error: {words}") from error


def query_time(request: Request, name: str, default: int | None = None) -> int | None:
    """Read an RFC 3339 time with a zone, as nanoseconds."""
    raw = request.query_params.get(name)
    if raw is None:
        return default
    try:
        parsed = times.parse(raw)
    except UsageError as error:
        raise Framework("Query deserialize error: input contains invalid characters") from error
    if raw[-6:-5] not in {"+", "-"} and not raw.endswith(("Z", "z")):
        raise Framework("Query deserialize error: premature end of input")
    return parsed


async def long_poll(
    fetch: Callable[[], Awaitable[list[T]]],
    *,
    topics: Changes,
    topic: str,
    timeout_s: float,
    clock: Clock,
) -> list[T]:
    """Return what `fetch` finds, waiting for `topic` to change until `timeout_s` has passed."""
    deadline = clock.monotonic() + timeout_s
    while True:
        version = topics.version(topic)
        if found := await fetch():
            return found
        left = deadline - clock.monotonic()
        if left <= 0 or not await topics.changed(topic, version, left):
            return []
