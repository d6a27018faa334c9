"""The REST server inside the daemon: one listening socket, no signals of its own."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Final, Protocol

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shem.api.app import connection_name
from shem.kernel.errors import UsageError

KEEP_ALIVE_S: Final = 75
"""How long an idle client connection is kept; SDKs reuse theirs between long polls."""
SHUTDOWN_S: Final = 2
"""How long requests under way may still run when the daemon stops."""
BACKLOG: Final = 2048


class _Server(uvicorn.Server):
    """uvicorn, whose signals are the daemon's business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"cannot serve REST on {host}:{port}: {error.strerror}; "
            "choose another address with --api-url or YAGNA_API_URL"
        ) from error
    listening.setblocking(False)
    return listening


class Closed(Protocol):
    """Is told of the end of a connection."""

    def closed(self, connection: str, *, by_client: bool, broken: bool) -> None: ...


def _reporting(listener: Closed) -> type[HttpToolsProtocol]:
    """Return the protocol of a connection that tells `listener` how it ended."""

    class Reporting(HttpToolsProtocol):
        left = False

        def eof_received(self) -> None:
            self.left = True
            super().eof_received()

        def connection_lost(self, exc: Exception | None) -> None:
            unanswered = self.cycle is not None and not self.cycle.response_complete
            super().connection_lost(exc)
            listener.closed(
                connection_name(self.client),
                by_client=self.left or exc is not None,
                broken=exc is not None or unanswered,
            )

    return Reporting


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, address: tuple[str, int], closed: Closed | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Serve `app` for as long as the block lasts; yields the address really bound."""
    listening = _listen(*address)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        loop="none",
        http=_reporting(closed) if closed else "httptools",
        ws="none",
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]), name="rest")
    host, port = listening.getsockname()[:2]
    try:
        yield host, port
    finally:
        server.should_exit = True
        await task
        listening.close()
