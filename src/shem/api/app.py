"""The web application: authentication, error bodies, unknown routes, and the table of all APIs.

yagna's habits that clients rely on (docs/protocol/gsb-identity.md §4): the key is looked at before
the path, so an unknown path without a key is 401; a wrong method is 404 with an empty body; errors
carry `{"message": …}`, to which we add a stable `code`.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
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
from shem.api.sessions import ClientSessions
from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId

log = structlog.get_logger()

PROGRAM_NAME_MAX: Final = 64
OPEN_PREFIXES: Final = ("/metrics-api", "/version/get", "/dashboard", "/openapi.json", "/docs")
"""Paths that need no key."""
VARY: Final = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


class Principal(Protocol):
    """What an application key stands for."""

    @property
    def identity(self) -> NodeId: ...
    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...


Lookup = Callable[[str], Awaitable[Principal | None]]


class Authentication:
    """Middleware: find the caller's identity by its key, or answer 401."""

    def __init__(self, app: ASGIApp, lookup: Lookup, sessions: ClientSessions) -> None:
        self._app = app
        self._lookup = lookup
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(OPEN_PREFIXES):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        key = _presented_key(request)
        if key is None:
            await text("Missing application key", 401)(scope, receive, send)
            return
        principal = await self._lookup(key)
        if principal is None:
            await text("Invalid application key", 401)(scope, receive, send)
            return
        client = self._sessions.seen(
            principal.name + _program_name(request),
            connection_name(scope.get("client")),
            one_shot=_is_one_shot(request),
        )
        request.state.who = Context(principal.identity, principal.name, principal.role, client)
        await self._app(scope, receive, send)


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


async def _shem_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ShemError)
    if error.status >= 500 and error.status != 501:
        log.warning("rest.failed", path=request.url.path, code=error.code, reason=error.message)
    if isinstance(error, (Framework, TooLarge)):
        return text(error.message, error.status)
    reply = json_reply({"message": error.message, "code": error.code}, error.status)
    if isinstance(error, PathError):
        reply.headers["content-type"] = PLAIN_TEXT
    return reply


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("rest.crashed", path=request.url.path, exc_info=error)
    body = {"message": "Internal error: see the node's log", "code": "internal"}
    return json_reply(body, 500)


async def _no_route(_request: Request, _error: Exception) -> Response:
    return empty(404)


class Vary:
    """Middleware: the header that yagna puts on every routed answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_vary(message: "dict[str, object]") -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", []))  # type: ignore[call-overload]
                message["headers"] = [*headers, (b"vary", VARY.encode())]
            await send(message)

        await self._app(scope, receive, with_vary)  # type: ignore[arg-type]


def build_app(
    routes: Sequence[Route], lookup: Lookup, sessions: ClientSessions | None = None
) -> ASGIApp:
    """Assemble the application from the APIs' tables; `sessions` are told when clients go."""
    app = Starlette(
        routes=list(routes),
        exception_handlers={
            ShemError: _shem_error,
            HTTPException: _no_route,
            Exception: _unexpected,
        },
    )
    app.router.redirect_slashes = False
    return Authentication(Vary(app), lookup, sessions or ClientSessions())
