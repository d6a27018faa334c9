"""REST without sockets: a client's calls go into the node's application as uvicorn would send them.

A request is a task of the node's process; it goes on when its client is gone, and the client learns
that its connection broke when the node is.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote, urlencode

import msgspec
from starlette.types import ASGIApp

from shem.api.sessions import ClientSessions
from shem.kernel.world import SeededRng
from shem.rest.activity import Activities
from shem.rest.client import Identity, NetApi, RestClient
from shem.rest.errors import Disconnected, error_of_answer
from shem.rest.market import Market
from shem.rest.transport import CALL_TIMEOUT_S, POLL_MARGIN_S, Query, Transport
from tests.sim.process import Process, current

LATENCY_S = 0.002


class Door:
    """Where a node serves REST: closed while it is down."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self.sessions: ClientSessions | None = None
        self.process: Process | None = None
        self.crashes: list[str] = []
        self._connections = 0

    @property
    def is_open(self) -> bool:
        return self.app is not None and self.process is not None and self.process.alive

    @asynccontextmanager
    async def serve(
        self, app: ASGIApp, address: tuple[str, int], sessions: ClientSessions
    ) -> AsyncIterator[tuple[str, int]]:
        self.app, self.sessions, self.process = app, sessions, current()
        try:
            yield address
        finally:
            self.app = None

    def new_connection(self, client: str) -> tuple[str, int]:
        self._connections += 1
        return client, self._connections


class _Exchange:
    """One request and its answer."""

    def __init__(self, door: Door, scope: dict[str, Any], body: bytes) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.gone = asyncio.Event()
        self._door = door
        self._scope = scope
        self._body: bytes | None = body
        self._status = 0
        self._parts: list[bytes] = []

    async def run(self) -> None:
        app = self._door.app
        assert app is not None
        try:
            await app(self._scope, self._receive, self._send)
        except Exception as error:
            self._door.crashes.append(f"{self._scope['path']}: {error!r}")
            self.broke()

    def broke(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionResetError())

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            return
        self._parts.append(message.get("body", b""))
        if not message.get("more_body", False) and not self.answer.done():
            self.answer.set_result((self._status, b"".join(self._parts)))


class MemoryTransport(Transport):
    """The transport of `RestClient`, into a `Door`."""

    def __init__(self, door: Door, app_key: str, program: str, rng: SeededRng) -> None:
        super().__init__("http://memory", app_key)
        self._door = door
        self._key = app_key
        self._program = program
        self._rng = rng
        self._free: list[tuple[ClientSessions, tuple[str, int]]] = []
        self._busy: dict[tuple[str, int], tuple[ClientSessions, _Exchange]] = {}

    async def open(self) -> None:
        process = current()
        if process is not None:
            process.at_death.append(self._drop_all)

    async def close(self) -> None:
        self._drop_all()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = msgspec.UNSET,
        wait_s: float | None = None,
    ) -> bytes:
        name = f"{method} {path}"
        total_s = CALL_TIMEOUT_S if wait_s is None else wait_s + POLL_MARGIN_S
        await asyncio.sleep(self._rng.unit() * LATENCY_S)
        if not self._door.is_open:
            raise Disconnected("no node answers", sent=False, call=name)
        assert self._door.process is not None and self._door.sessions is not None
        connection = self._connection(self._door.sessions)
        scope = self._scope(method, path, query, connection, has_body=body is not msgspec.UNSET)
        data = b"" if body is msgspec.UNSET else msgspec.json.encode(body)
        exchange = _Exchange(self._door, scope, data)
        self._busy[connection] = (self._door.sessions, exchange)
        node = self._door.process
        node.at_death.append(exchange.broke)
        node.start(exchange.run())
        try:
            async with asyncio.timeout(total_s):
                status, answer = await asyncio.shield(exchange.answer)
        except TimeoutError as error:
            message = f"no answer within {total_s:g} s"
            raise Disconnected(message, sent=True, call=name) from error
        except ConnectionResetError as error:
            raise Disconnected("the connection broke", sent=True, call=name) from error
        finally:
            with suppress(ValueError):
                node.at_death.remove(exchange.broke)
            self._release(connection, exchange)
        await asyncio.sleep(self._rng.unit() * LATENCY_S)
        if status >= 400:
            raise error_of_answer(name, status, answer)
        return answer

    def _connection(self, sessions: ClientSessions) -> tuple[str, int]:
        while self._free:
            known, connection = self._free.pop()
            if known is sessions:
                return connection
        return self._door.new_connection(self._program)

    def _release(self, connection: tuple[str, int], exchange: _Exchange) -> None:
        sessions, _ = self._busy.pop(connection, (None, None))
        if sessions is None:
            return
        if exchange.answer.done() and exchange.answer.exception() is None:
            self._free.append((sessions, connection))
        else:
            self._hang_up(sessions, connection, exchange)

    def _drop_all(self) -> None:
        for sessions, connection in self._free:
            self._hang_up(sessions, connection, None)
        for connection, (sessions, exchange) in tuple(self._busy.items()):
            self._hang_up(sessions, connection, exchange)
        self._free.clear()
        self._busy.clear()

    def _hang_up(
        self, sessions: ClientSessions, connection: tuple[str, int], exchange: _Exchange | None
    ) -> None:
        node = self._door.process
        if node is None or not node.alive or sessions is not self._door.sessions:
            return
        name = f"{connection[0]}:{connection[1]}"
        if exchange is not None:
            node.run(exchange.gone.set)
        broken = exchange is not None
        node.run(lambda: sessions.closed(name, by_client=True, broken=broken))

    def _scope(
        self,
        method: str,
        path: str,
        query: Query | None,
        connection: tuple[str, int],
        *,
        has_body: bool,
    ) -> dict[str, Any]:
        given = {} if query is None else {k: str(v) for k, v in query.items() if v is not None}
        headers = [
            (b"authorization", f"Bearer {self._key}".encode()),
            (b"shem-program", self._program.encode()),
        ]
        if has_body:
            headers.append((b"content-type", b"application/json"))
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": urlencode(given).encode(),
            "headers": headers,
            "client": connection,
            "server": ("memory", 80),
        }


class MemoryRest(RestClient):
    """`RestClient` of a node in this process."""

    def __init__(self, door: Door, app_key: str, program: str, rng: SeededRng) -> None:
        super().__init__("http://memory", app_key)
        self.transport = MemoryTransport(door, app_key, program, rng)
        self.market = Market(self.transport)
        self.activity = Activities(self.transport)
        self.identity = Identity(self.transport)
        self.net = NetApi(self.transport)
