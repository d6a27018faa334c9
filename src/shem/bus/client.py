"""A process's connection to its node's bus: for ExeUnits, the provider agent, the command line.

Bindings live in a `Bus` of this process and are registered at the node's router
(docs/protocol/gsb-identity.md §1.6, §1.9). With `reconnect` a lost connection is made anew with
back-off and everything bound is registered again, for ever; calls wait for the connection within
their own time-out. A call that was under way when the connection broke fails as Unreachable: it may
or may not have been done.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Final, Self

import structlog

from shem.bus.link import Link, open_streams
from shem.bus.outcome import only, timed_items, within
from shem.bus.router import Binding, Bus
from shem.bus.typed import ErrorForm, Serve, as_message, typed, unwrap
from shem.bus.types import LOCAL_CALLER, Call, GsbError, Handler, Reply, StreamHandler
from shem.kernel.config import GsbAddress
from shem.kernel.errors import Conflict, ShemError, Unreachable, UsageError
from shem.kernel.tasks import TaskScope
from shem.kernel.version import shem_version
from shem.kernel.world import World
from shem.wire.errors import WireError
from shem.wire.flexbuffers import pack
from shem.wire.gsb import (
    CallReply,
    CallRequest,
    Code,
    Hello,
    Packet,
    Ping,
    Pong,
    RegisterReply,
    RegisterRequest,
    UnregisterReply,
    UnregisterRequest,
)

log = structlog.get_logger()

CONNECT_TIMEOUT_S: Final = 3.0
BACK_OFF_FIRST_S: Final = 0.1
BACK_OFF_LAST_S: Final = 0.5
"""The router is on this machine: an ExeUnit is back soon after its node."""
REGISTER_AGAIN_S: Final = 1.0
"""After a conflict on reconnection: the router has yet to notice that the old one is dead."""
PING_INTERVAL_S: Final = 10.0
PING_TIMEOUT_S: Final = 60.0
"""The router pings a silent client every ten seconds, but a stopped node is no dead one."""


class BusClient:
    """One process's connection to the bus, kept up while its `async with` block lasts."""

    def __init__(
        self,
        address: GsbAddress,
        *,
        name: str = "shem",
        caller: str = "local",
        reconnect: bool = True,
        world: World | None = None,
    ) -> None:
        self._address = address
        self._caller = caller
        self._reconnect = reconnect
        self._world = world or World()
        self._hello = Hello(name, shem_version(), self._world.rng.token(16))
        self._bus = Bus()
        self._bindings: dict[str, Binding] = {}
        self._registered: set[str] = set()
        self._registering = asyncio.Lock()
        self._waiting: dict[type, deque[asyncio.Future[Packet | None]]] = {}
        """Control packets that wait for their replies; None: the connection broke."""
        self._link: Link | None = None
        self._changed = asyncio.Event()
        self._ended = False
        self._tasks = TaskScope()
        self._on_connected: list[Callable[[], None]] = []

    async def __aenter__(self) -> Self:
        link = None if self._reconnect else await self._connect()
        await self._tasks.__aenter__()
        self._tasks.spawn(self._run(link), "bus connection")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        await self._tasks.__aexit__(kind, error, trace)

    @property
    def is_connected(self) -> bool:
        return self._link is not None

    def on_connected(self, fn: Callable[[], None]) -> None:
        """Call `fn` after every connection once all bindings are registered."""
        self._on_connected.append(fn)

    async def connected(self) -> None:
        """Wait until there is a connection; Unreachable when there will be none."""
        while self._link is None:
            if self._ended:
                raise Unreachable(f"no node serves the bus at {self._address}")
            self._changed.clear()
            await self._changed.wait()

    async def bind(self, prefix: str, handler: Handler) -> None:
        """Answer all calls under `prefix`; Conflict when another process does."""
        await self._announce(self._bus.bind(prefix, handler))

    async def bind_stream(self, prefix: str, handler: StreamHandler) -> None:
        """Answer all calls under `prefix` with streams."""
        await self._announce(self._bus.bind_stream(prefix, handler))

    async def serve(self, address: str, fn: Serve, *, error: ErrorForm = as_message) -> None:
        """Answer with values, as `Bus.serve` does."""
        await self.bind(address, typed(fn, error))

    async def unbind(self, prefix: str) -> None:
        """Answer there no longer."""
        binding = self._bindings.pop(prefix, None)
        if binding is None:
            return
        binding.close()
        async with self._registering:
            if self._link is not None and prefix in self._registered:
                self._registered.discard(prefix)
                with suppress(ShemError):  # a broken connection unregisters as well
                    await self._control(self._link, UnregisterRequest(prefix), UnregisterReply)

    async def call(self, address: str, data: bytes, *, timeout_s: float) -> bytes:
        """Return the one answer; Unreachable, TimedOut or GsbError when there is none."""
        replies, left_s = await self._ask(address, data, timeout_s)
        return await within(only(replies), left_s, address)

    async def stream(
        self, address: str, data: bytes, *, timeout_s: float
    ) -> AsyncGenerator[bytes, None]:
        """Yield the answers; `timeout_s` limits the wait for each of them."""
        replies, _ = await self._ask(address, data, timeout_s)
        async with aclosing(timed_items(replies, timeout_s, address)) as found:
            async for item in found:
                yield item

    async def push(self, address: str, data: bytes) -> None:
        """Deliver without wanting an answer, if there is a connection."""
        if self._link is not None:
            call = Call(LOCAL_CALLER, address, data, no_reply=True, caller_text=self._caller)
            async for _ in self._link.ask(call):
                return

    async def request(self, address: str, body: object, *, timeout_s: float) -> object:
        """Call with a value and return the Ok value; RemoteError when the service says Err."""
        return unwrap(await self.call(address, pack(body), timeout_s=timeout_s), address)

    async def _ask(
        self, address: str, data: bytes, timeout_s: float
    ) -> tuple[AsyncGenerator[Reply, None], float]:
        started = self._world.clock.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                await self.connected()
        except TimeoutError as error:
            raise Unreachable(f"no node serves the bus at {self._address}") from error
        left_s = max(0.0, timeout_s - (self._world.clock.monotonic() - started))
        call = Call(LOCAL_CALLER, address, data, caller_text=self._caller, timeout_s=timeout_s)
        assert self._link is not None
        return self._link.ask(call), left_s

    async def _run(self, link: Link | None) -> None:
        back_off_s = BACK_OFF_FIRST_S
        while True:
            try:
                link = link or await self._connect()
            except Unreachable:
                await self._world.clock.sleep(back_off_s * (0.5 + self._world.rng.unit() / 2))
                back_off_s = min(2 * back_off_s, BACK_OFF_LAST_S)
                continue
            back_off_s = BACK_OFF_FIRST_S
            try:
                await self._session(link)
            finally:
                self._disconnected(link)
            link = None
            if not self._reconnect:
                self._ended = True
                self._changed.set()
                return
            log.info("bus.disconnected", address=str(self._address))

    async def _connect(self) -> Link:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await open_streams(self._address)
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"no node serves the bus at {self._address}") from error
        return Link(reader, writer, self._world)

    async def _session(self, link: Link) -> None:
        """Serve one connection until it ends."""
        async with TaskScope() as tasks:
            tasks.spawn(link.keep_alive(PING_INTERVAL_S, PING_TIMEOUT_S), "keep alive")
            try:
                await self._serve(link, tasks)
            except ShemError as error:
                log.warning("bus.connection_failed", error=error.message)

    async def _serve(self, link: Link, tasks: TaskScope) -> None:
        await link.send(self._hello)
        self._link = link
        self._changed.set()
        tasks.spawn(self._register_all(link), "registrations")
        async for packet in link.packets():
            if isinstance(packet, CallReply):
                link.take_reply(packet)
            elif isinstance(packet, CallRequest):
                await link.take_request(packet, self._bus, LOCAL_CALLER, tasks)
            elif isinstance(packet, Ping):
                await link.send(Pong())
            elif isinstance(packet, RegisterReply | UnregisterReply):
                self._take_control(packet)

    def _disconnected(self, link: Link) -> None:
        link.close()
        self._link = None
        self._registered.clear()
        for queue in self._waiting.values():
            while queue:
                future = queue.popleft()
                if not future.done():
                    future.set_result(None)

    async def _announce(self, binding: Binding) -> None:
        self._bindings[binding.prefix] = binding
        if self._link is None and not self._ended:
            return  # registered as soon as there is a connection
        try:
            await self.connected()
            assert self._link is not None
            await self._register(self._link, binding.prefix)
        except Unreachable:
            if not self._reconnect:
                self._drop(binding)
                raise
        except (Conflict, UsageError):
            self._drop(binding)
            raise

    def _drop(self, binding: Binding) -> None:
        self._bindings.pop(binding.prefix, None)
        binding.close()

    async def _register_all(self, link: Link) -> None:
        """Register everything bound; what the router still counts as taken again and again."""
        try:
            for prefix in tuple(self._bindings):
                while prefix in self._bindings:
                    try:
                        await self._register(link, prefix)
                        break
                    except (Conflict, UsageError) as error:
                        log.warning("bus.not_registered", prefix=prefix, error=error.message)
                        await self._world.clock.sleep(REGISTER_AGAIN_S)
        except ShemError:
            return  # the connection broke: the next one registers them
        for fn in self._on_connected:
            fn()

    async def _register(self, link: Link, prefix: str) -> None:
        async with self._registering:
            if prefix in self._registered or link is not self._link:
                return
            reply = await self._control(link, RegisterRequest(prefix), RegisterReply)
            assert isinstance(reply, RegisterReply)
            if reply.code is Code.CONFLICT:
                raise Conflict(f"address {prefix} is served by another process")
            if reply.code is not Code.OK:
                raise UsageError(f"the node refuses address {prefix}: {reply.message}")
            self._registered.add(prefix)

    async def _control(self, link: Link, packet: Packet, kind: type) -> Packet:
        """Send a packet whose reply carries no id: replies come in order of the requests."""
        future: asyncio.Future[Packet | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(kind, deque()).append(future)
        try:
            await link.send(packet)
        except GsbError as error:
            raise Unreachable(error.message) from error
        reply = await future
        if reply is None:
            raise Unreachable("lost connection")
        return reply

    def _take_control(self, packet: Packet) -> None:
        queue = self._waiting.get(type(packet))
        if not queue:
            raise WireError(f"{type(packet).__name__} was not asked for")
        future = queue.popleft()
        if not future.done():
            future.set_result(packet)
