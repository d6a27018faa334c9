"""The bus socket: where other processes of this machine reach the node's bus, and it them.

What a client registers becomes an endpoint of the in-process `Bus`, what it calls is delivered from
there (docs/protocol/gsb-identity.md §1). Whoever can open the socket acts as a process of this node
(`Assurance.LOCAL`, the node's default identity), whatever caller it names; hence the socket file is
the owner's alone. A connection that ends takes its registrations, subscriptions and calls with it.
"""

import asyncio
import socket
from types import TracebackType
from typing import Final, Self

import structlog

from shem.bus.link import READ_SIZE, Link
from shem.bus.router import Binding, Bus
from shem.bus.types import LOCAL_CALLER
from shem.kernel.caller import Caller
from shem.kernel.config import GsbAddress
from shem.kernel.errors import Conflict, ShemError, UsageError
from shem.kernel.tasks import TaskScope
from shem.kernel.version import shem_version
from shem.kernel.world import World
from shem.wire.errors import WireError
from shem.wire.gsb import (
    BroadcastReply,
    BroadcastRequest,
    CallReply,
    CallRequest,
    Code,
    Hello,
    Packet,
    Ping,
    Pong,
    RegisterReply,
    RegisterRequest,
    SubscribeReply,
    SubscribeRequest,
    UnregisterReply,
    UnregisterRequest,
    UnsubscribeReply,
    UnsubscribeRequest,
)

log = structlog.get_logger()

CONNECTIONS_MAX: Final = 1_024
SERVICES_MAX: Final = 4_096
"""Registrations of one connection."""
TOPICS_MAX: Final = 1_024
"""Subscriptions of one connection."""
PING_INTERVAL_S: Final = 10.0
PING_TIMEOUT_S: Final = 20.0
NAME: Final = "shem-router"
_SOCKET_MODE: Final = 0o600


class SocketServer:
    """Listens on the bus socket while its `async with` block lasts."""

    def __init__(
        self,
        bus: Bus,
        address: GsbAddress,
        *,
        world: World | None = None,
        caller: Caller = LOCAL_CALLER,
        ping_interval_s: float = PING_INTERVAL_S,
        ping_timeout_s: float = PING_TIMEOUT_S,
    ) -> None:
        self.bus = bus
        self.caller = caller
        self.world = world or World()
        self.keep_alive_s = (ping_interval_s, ping_timeout_s)
        self.tasks = TaskScope()
        self.hello = Hello(NAME, shem_version(), self.world.rng.token(16))
        self._address = address
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    @property
    def address(self) -> GsbAddress:
        """Where it listens, with the port the system chose if that was 0."""
        if self._address.path is None and self._server is not None:
            return GsbAddress(
                host=self._address.host, port=self._server.sockets[0].getsockname()[1]
            )
        return self._address

    async def __aenter__(self) -> Self:
        listener = _listen(self._address)
        await self.tasks.__aenter__()
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=READ_SIZE)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self._connections):
            connection.link.close()
        await self.tasks.__aexit__(kind, error, trace)
        if self._address.path is not None:
            self._address.path.unlink(missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or len(self._connections) >= CONNECTIONS_MAX:
            log.warning("bus.connection_refused", limit=CONNECTIONS_MAX)
            writer.close()
            return
        connection = _Connection(self, Link(reader, writer, self.world))
        self._connections.add(connection)
        self.tasks.spawn(self._serve(connection), "bus connection")

    async def _serve(self, connection: "_Connection") -> None:
        try:
            async with TaskScope() as tasks:
                tasks.spawn(connection.link.keep_alive(*self.keep_alive_s), "keep alive")
                try:
                    await connection.run(tasks)
                except ShemError as error:
                    log.info("bus.connection_failed", error=error.message)
        finally:
            self._connections.discard(connection)
            connection.close()

    def displace(self, newcomer: "_Connection", instance_id: bytes) -> None:
        """Close the older connection of the same process: it came back."""
        for connection in tuple(self._connections):
            if connection is not newcomer and connection.instance_id == instance_id:
                connection.close()

    def publish(self, broadcast: BroadcastRequest) -> None:
        for connection in self._connections:
            if broadcast.topic in connection.topics:
                connection.link.offer(broadcast)


class _Connection:
    """One client: its registrations and subscriptions."""

    def __init__(self, server: SocketServer, link: Link) -> None:
        self._server = server
        self.link = link
        self.instance_id: bytes | None = None
        self.topics: set[str] = set()
        self._bindings: dict[str, Binding] = {}

    async def run(self, tasks: TaskScope) -> None:
        """Serve until the client goes or breaks the protocol."""
        await self.link.send(self._server.hello)
        async for packet in self.link.packets():
            if isinstance(packet, CallRequest):
                await self.link.take_request(packet, self._server.bus, self._server.caller, tasks)
            elif isinstance(packet, CallReply):
                self.link.take_reply(packet)
            elif isinstance(packet, Hello):
                self._greet(packet)
            else:
                reply = self._control(packet)
                if reply is not None:
                    await self.link.send(reply)

    def close(self) -> None:
        self.link.close()
        self.topics.clear()
        while self._bindings:
            self._bindings.popitem()[1].close()

    def _greet(self, hello: Hello) -> None:
        if self.instance_id is not None:
            raise WireError("a second Hello on one connection")
        self.instance_id = hello.instance_id
        if hello.instance_id:
            self._server.displace(self, hello.instance_id)

    def _control(self, packet: Packet) -> Packet | None:  # noqa: PLR0911 - one row per packet
        match packet:
            case Ping():
                return Pong()
            case Pong():
                return None
            case RegisterRequest(service_id):
                return self._register(service_id)
            case UnregisterRequest(service_id):
                binding = self._bindings.pop(service_id, None)
                if binding is None:
                    return UnregisterReply(Code.NOT_FOUND)
                binding.close()
                return UnregisterReply()
            case SubscribeRequest(topic):
                if len(self.topics) >= TOPICS_MAX:
                    return SubscribeReply(Code.BAD_REQUEST, "too many subscriptions")
                self.topics.add(topic)
                return SubscribeReply()
            case UnsubscribeRequest(topic):
                known = topic in self.topics
                self.topics.discard(topic)
                return UnsubscribeReply(Code.OK if known else Code.NOT_FOUND)
            case BroadcastRequest():
                self._server.publish(packet)
                return BroadcastReply()
            case _:
                raise WireError(f"a client does not send {type(packet).__name__}")

    def _register(self, service_id: str) -> RegisterReply:
        if len(self._bindings) >= SERVICES_MAX:
            return RegisterReply(Code.BAD_REQUEST, "too many registrations")
        try:
            self._bindings[service_id] = self._server.bus.attach(service_id, self.link.ask)
        except Conflict:
            return RegisterReply(Code.CONFLICT)
        except UsageError as error:
            return RegisterReply(Code.BAD_REQUEST, error.message)
        return RegisterReply()


def _listen(address: GsbAddress) -> socket.socket:
    """Return the bound socket; Conflict when another process listens there already."""
    if address.path is None:
        return _listen_tcp(address.host, address.port)
    path = address.path
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                path.unlink(missing_ok=True)  # left behind by a process that was killed
            else:
                raise Conflict(f"another process serves the bus at {path}")
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(_SOCKET_MODE)  # nobody can connect before it listens
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot serve the bus at {path}: {error}") from error
    return listener


def _listen_tcp(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise UsageError(f"cannot serve the bus at {host}:{port}: {error}") from error
