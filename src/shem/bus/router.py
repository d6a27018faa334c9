"""The bus of one process: who answers which address, and the calls to them.

Rules (docs/protocol/gsb-identity.md §1.6, §1.7): the longest bound prefix of whole path components
answers; the delivered address is the complete one. A guard sees every call under its prefix first,
wherever it came from, and passes it on or refuses. The node's own services are bound here; sockets
(`socket_server`) and other nodes (`remote`) are just further endpoints and callers.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog

from shem.bus.outcome import closing, items, only, timed_items, within
from shem.bus.typed import ErrorForm, Serve, as_message, typed, unwrap
from shem.bus.types import (
    Call,
    Endpoint,
    GsbCode,
    GsbError,
    Guard,
    Handler,
    NoSuchEndpoint,
    Reply,
    StreamGuard,
    StreamHandler,
)
from shem.kernel.caller import Caller
from shem.kernel.errors import Conflict, ShemError, UsageError
from shem.wire.flexbuffers import pack

log = structlog.get_logger()

ADDRESS_SIZE_MAX: Final = 1024
"""Characters of an address; the longest honest ones have some 150."""
BINDINGS_MAX: Final = 65_536

T = TypeVar("T")


class Binding:
    """A bound prefix; `close` frees it and may be repeated."""

    def __init__(self, bus: "Bus", prefix: str, endpoint: Endpoint) -> None:
        self._bus = bus
        self.prefix = prefix
        self.endpoint = endpoint

    def close(self) -> None:
        self._bus.unbind(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Guarding:
    """A guard, and the message names whose calls are streams."""

    unary: Guard
    stream: StreamGuard | None
    streams: frozenset[str]


class Bus:
    """Routes calls to handlers by the prefix of their address."""

    def __init__(self) -> None:
        self._bindings: dict[str, Binding] = {}
        self._guards: dict[str, _Guarding] = {}
        self._on_bound: list[tuple[str, Callable[[str], None]]] = []
        self._on_unbound: list[tuple[str, Callable[[str], None]]] = []

    def bind(self, prefix: str, handler: Handler) -> Binding:
        """Answer all calls under `prefix`; Conflict when it is taken."""
        return self.attach(prefix, _answer_once(handler))

    def bind_stream(self, prefix: str, handler: StreamHandler) -> Binding:
        """Answer all calls under `prefix` with streams."""
        return self.attach(prefix, _answer_in_parts(handler))

    def serve(self, address: str, fn: Serve, *, error: ErrorForm = as_message) -> Binding:
        """Answer with values: `fn`'s result is the Ok value, a ShemError becomes `error(it)`."""
        return self.bind(address, typed(fn, error))

    def attach(self, prefix: str, endpoint: Endpoint) -> Binding:
        """Bind what answers with replies of its own making: a socket's client, another node."""
        if not prefix or len(prefix) > ADDRESS_SIZE_MAX:
            raise UsageError(f"an address prefix has 1 to {ADDRESS_SIZE_MAX} characters")
        if prefix in self._bindings:
            raise Conflict(f"address {prefix} is already bound")
        if len(self._bindings) >= BINDINGS_MAX:
            raise Conflict(f"more than {BINDINGS_MAX} addresses are bound")
        binding = self._bindings[prefix] = Binding(self, prefix, endpoint)
        _tell(self._on_bound, prefix)
        return binding

    def unbind(self, binding: Binding) -> None:
        """Free the prefix, if the binding still holds it."""
        if self._bindings.get(binding.prefix) is binding:
            del self._bindings[binding.prefix]
            _tell(self._on_unbound, binding.prefix)

    def guard(
        self,
        prefix: str,
        guard: Guard,
        stream_guard: StreamGuard | None = None,
        *,
        streams: Collection[str] = (),
    ) -> None:
        """Let `guard` see every call under `prefix` first, `stream_guard` those to be streamed.

        `streams` names the messages (last components) that are answered by streams: a caller
        outside of this process does not say what it expects.
        """
        if (stream_guard is None) != (not streams):
            raise UsageError("a stream guard needs the names of the messages it is for")
        if prefix in self._guards:
            raise Conflict(f"address {prefix} is already guarded")
        self._guards[prefix] = _Guarding(guard, stream_guard, frozenset(streams))

    def is_bound(self, prefix: str) -> bool:
        """Tell whether exactly this prefix is bound."""
        return prefix in self._bindings

    def on_bound(self, prefix: str, fn: Callable[[str], None]) -> None:
        """Call `fn(bound prefix)` whenever something at or under `prefix` is bound."""
        self._on_bound.append((prefix, fn))

    def on_unbound(self, prefix: str, fn: Callable[[str], None]) -> None:
        self._on_unbound.append((prefix, fn))

    async def call(
        self,
        caller: Caller,
        address: str,
        data: bytes,
        *,
        timeout_s: float,
        past_guard: bool = False,
    ) -> bytes:
        """Return the one answer; GsbError, Unreachable or TimedOut when there is none.

        `past_guard` is for the guard's own service, which need not ask itself.
        """
        call = Call(caller, address, data, caller_text=caller.node_id, timeout_s=timeout_s)
        replies = self._deliver(call) if past_guard else self.replies(call)
        return await within(only(replies), timeout_s, address)

    async def stream(
        self,
        caller: Caller,
        address: str,
        data: bytes,
        *,
        timeout_s: float,
        past_guard: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the answers; `timeout_s` limits the wait for each of them."""
        call = Call(caller, address, data, caller_text=caller.node_id, timeout_s=timeout_s)
        replies = self._deliver(call) if past_guard else self.replies(call)
        async with aclosing(timed_items(replies, timeout_s, address)) as found:
            async for item in found:
                yield item

    async def push(self, caller: Caller, address: str, data: bytes) -> None:
        """Deliver without wanting an answer; that nobody listens is no error."""
        call = Call(caller, address, data, no_reply=True, caller_text=caller.node_id)
        try:
            async with aclosing(self.replies(call)) as replies:
                async for _ in replies:
                    return
        except ShemError as error:
            log.debug("bus.push_failed", address=address, error=error.message)

    async def request(
        self, caller: Caller, address: str, body: object, *, timeout_s: float
    ) -> object:
        """Call with a value and return the Ok value; RemoteError when the service says Err."""
        answer = await self.call(caller, address, pack(body), timeout_s=timeout_s)
        return unwrap(answer, address)

    async def replies(self, call: Call) -> AsyncGenerator[Reply, None]:
        """Deliver a call and yield what comes back, as it comes: the way in for transports."""
        if len(call.address) > ADDRESS_SIZE_MAX:
            raise GsbError("address too long", GsbCode.BAD_REQUEST)
        guarding = _longest(self._guards, call.address)
        if guarding is None:
            async with aclosing(self._deliver(call)) as replies:
                async for reply in replies:
                    yield reply
        elif guarding.stream and call.address.rpartition("/")[2] in guarding.streams:
            async with closing(guarding.stream(call, self._forward_stream)) as found:
                async for item in found:
                    yield Reply(item, final=False)
        else:
            yield Reply(await guarding.unary(call, self._forward), final=True)

    def _deliver(self, call: Call) -> AsyncGenerator[Reply, None]:
        binding = _longest(self._bindings, call.address)
        if binding is None:
            raise NoSuchEndpoint
        return binding.endpoint(call)

    async def _forward(self, call: Call) -> bytes:
        return await only(self._deliver(call))

    def _forward_stream(self, call: Call) -> AsyncIterator[bytes]:
        return items(self._deliver(call))


def _longest(table: Mapping[str, T], address: str) -> T | None:
    """Return the entry whose key is the longest prefix of whole components."""
    while True:
        found = table.get(address)
        if found is not None:
            return found
        cut = address.rfind("/")
        if cut <= 0:
            return None
        address = address[:cut]


def _tell(listeners: list[tuple[str, Callable[[str], None]]], bound: str) -> None:
    for prefix, fn in listeners:
        if bound == prefix or bound.startswith(prefix + "/"):
            fn(bound)


def _answer_once(handler: Handler) -> Endpoint:
    async def endpoint(call: Call) -> AsyncGenerator[Reply, None]:
        yield Reply(await handler(call), final=True)

    return endpoint


def _answer_in_parts(handler: StreamHandler) -> Endpoint:
    async def endpoint(call: Call) -> AsyncGenerator[Reply, None]:
        async with closing(handler(call)) as found:
            async for item in found:
                yield Reply(item, final=False)

    return endpoint
