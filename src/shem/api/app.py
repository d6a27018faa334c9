"""The web application: authentication, error bodies, unknown routes, and the table of all APIs.

yagna's habits that clients rely on (docs/protocol/gsb-identity.md §4): the key is looked at before
the path, so an unknown path without a key is 401; a wrong method is 404 with an empty body; errors
carry `{"message": …}`, to which we add a stable `code`.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from shem.api.kit import (
    PLAIN_TEXT,
    Context,
    Framework,
    PathError,
    TooLarge,
    empty,
    json_reply,
    text,
)
from shem.api.paths import Paths
from shem.api.sessions import ClientSessions
from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId

log = structlog.get_logger()

PROGRAM_NAME_MAX: Final = 64
OPEN_PREFIXES: Final = ("/metrics-api", "/version/get", "/dashboard", "/openapi.json", "/docs")
"""Paths that need no key."""
VARY: Final = b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
"""The header that yagna puts on every routed answer."""


class Principal(Protocol):
    """What an application key stands for."""

    @property
    def identity(self) -> NodeId: ...
    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...


Lookup = Callable[[str], Awaitable[Principal | None]]


class Application:
    """Everything behind the socket: who asks, for what, and what errors become."""

    def __init__(self, routes: Sequence[Route], lookup: Lookup, sessions: ClientSessions) -> None:
        self._paths = Paths(routes)
        self._lookup = lookup
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        if not scope["path"].startswith(OPEN_PREFIXES):
            who = await self._authenticated(request)
            if isinstance(who, Response):
                await who(scope, receive, send)
                return
            request.state.who = who
        crash: Exception | None = None
        try:
            response = await self._answer(request)
        except ShemError as error:
            response = _shem_error(request, error)
        except Exception as error:
            response, crash = _unexpected(request, error), error
        response.raw_headers.append((b"vary", VARY))
        await response(scope, receive, send)
        if crash is not None:
            raise crash

    async def _authenticated(self, request: Request) -> Context | Response:
        """Find the caller's identity by its key, or answer 401."""
        key = _presented_key(request)
        if key is None:
            return text("Missing application key", 401)
        principal = await self._lookup(key)
        if principal is None:
            return text("Invalid application key", 401)
        client = self._sessions.seen(
            principal.name + _program_name(request),
            connection_name(request.scope.get("client")),
            one_shot=_is_one_shot(request),
        )
        return Context(principal.identity, principal.name, principal.role, client)

    async def _answer(self, request: Request) -> Response:
        found = self._paths.find(request.scope["method"], request.scope["path"])
        if found is None:
            return empty(404)
        route, request.scope["path_params"] = found
        response: Response = await route.endpoint(request)
        return response


def connection_name(address: tuple[str, int] | None) -> str:
    """Return how a connection is called while it is open."""
    return "" if address is None else f"{address[0]}:{address[1]}"


def _program_name(request: Request) -> str:
    """Return what tells apart programs that share a key, when they say it."""
    name = request.headers.get("shem-program")
    return "" if name is None else f"\n{name[:PROGRAM_NAME_MAX]}"


def _is_one_shot(request: Request) -> bool:
    """Tell whether the client will close its connection after the answer."""
    wish = request.headers.get("connection", "").lower()
    return "close" in wish or (request.scope["http_version"] == "1.0" and "keep-alive" not in wish)


def _presented_key(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme == "Bearer" and key:
        return key
    return request.query_params.get("authToken")


def _shem_error(request: Request, error: ShemError) -> Response:
    if error.status >= 500 and error.status != 501:
        log.warning("rest.failed", path=request.url.path, code=error.code, reason=error.message)
    if isinstance(error, (Framework, TooLarge)):
        return text(error.message, error.status)
    reply = json_reply({"message": error.message, "code": error.code}, error.status)
    if isinstance(error, PathError):
        reply.headers["content-type"] = PLAIN_TEXT
    return reply


def _unexpected(request: Request, error: Exception) -> Response:
    log.error("rest.crashed", path=request.url.path, exc_info=error)
    body = {"message": "Internal error: see the node's log", "code": "internal"}
    return json_reply(body, 500)


def build_app(
    routes: Sequence[Route], lookup: Lookup, sessions: ClientSessions | None = None
) -> ASGIApp:
    """Assemble the application from the APIs' tables; `sessions` are told when clients go."""
    return Application(routes, lookup, sessions or ClientSessions())
