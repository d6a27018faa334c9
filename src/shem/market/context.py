"""What the parts of the market share: store, bus, outbox, identities, world.

`ask` is the only way to a peer's market. `Answers` lets a REST call wait a moment for the peer's
answer to a message that it left in the outbox: with the answer it can say more, without it the
call is done all the same. And it lets a message wait until an answer of ours has left.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from shem.bus.router import Bus
from shem.kernel.caller import Assurance, Caller
from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.market.match_index import MatchIndex
from shem.market.messages import encode
from shem.store.outbox import Outbox
from shem.store.unit import Store

CALL_TIMEOUT_S: Final = 10.0
"""One call to a peer's market; legacy nodes answer in milliseconds."""


class Identities(Protocol):
    """The part of `identity.service.IdentityService` that the market needs."""

    def owns(self, node_id: NodeId) -> bool: ...
    def is_usable(self, node_id: NodeId) -> bool: ...


class Answers:
    """Hands the outcome of a delivery to the call that waits for it, if one still does."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[object]] = {}
        self._leaving: dict[str, asyncio.Future[object]] = {}

    @contextmanager
    def expected(self, key: str) -> Iterator[asyncio.Future[object]]:
        """Open before the message is posted, so that a fast answer is not missed."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        try:
            yield future
        finally:
            if self._waiting.get(key) is future:
                del self._waiting[key]

    def settle(self, key: str, refusal: object | None) -> bool:
        """Tell the peer's answer: None when it took the message, else its error value.

        Return whether anybody waited for it.
        """
        future = self._waiting.get(key)
        if future is None or future.done():
            return False
        future.set_result(refusal)
        return True

    @contextmanager
    def leaving(self, key: str) -> Iterator[None]:
        """Note that an answer of ours is on its way out until the block ends."""
        future = self._leaving[key] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            future.set_result(None)
            if self._leaving.get(key) is future:
                del self._leaving[key]

    async def has_left(self, key: str, timeout_s: float) -> None:
        """Wait for an answer of ours that is on its way out, but not for ever."""
        if (future := self._leaving.get(key)) is not None:
            await within(future, timeout_s)


async def within(future: asyncio.Future[object], timeout_s: float) -> object | None:
    """Return what the future brings in time, else None; the future itself is left alone."""
    await asyncio.wait((future,), timeout=timeout_s)
    return future.result() if future.done() else None


@dataclass(frozen=True, slots=True)
class Context:
    """The node as the market sees it."""

    store: Store
    bus: Bus
    outbox: Outbox
    identities: Identities
    world: World
    answers: Answers = field(default_factory=Answers)
    index: MatchIndex = field(default_factory=MatchIndex)
    exact_failures: bool = False
    """What cannot be said to the peer at once fails, as it does with yagna (§8.3)."""

    def now_ns(self) -> int:
        return self.world.clock.wall_ns()

    async def ask(
        self,
        own: NodeId,
        peer: NodeId,
        path: str,
        message: Any,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> object:
        """Send one message and return the Ok value; RemoteError when the peer refuses."""
        address = f"/from/{own}/to/{peer}{path}/{message.NAME}"
        caller = Caller(own, Assurance.LOCAL)
        return await self.bus.request(caller, address, encode(message), timeout_s=timeout_s)
