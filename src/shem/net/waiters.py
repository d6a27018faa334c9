"""Who waits for the cores of the net: senders for a route, and who asked where a node is."""

import asyncio
from collections.abc import Callable
from typing import Final

from shem.kernel.errors import NotFound, Unreachable
from shem.kernel.ids import NodeId
from shem.net import outputs as out
from shem.net.types import NodeInfo

ROUTE_WAITERS_MAX: Final = 10_000
"""Senders that wait for a route at a time; further ones are refused."""
LOOK_UPS_MAX: Final = 1_000
"""Look-ups of different nodes at a time; further ones are refused."""
LOOK_UP_TIMEOUT_S: Final = 4.0


class RouteWaiters:
    """Senders that wait for a route, by the identity that they want to reach.

    `default_of` names the default identity of a node, `is_ready` says whether a route proves the
    identity asked for: both as the cores know it at that moment.
    """

    def __init__(
        self, default_of: Callable[[NodeId], NodeId], is_ready: Callable[[NodeId], bool]
    ) -> None:
        self._default_of = default_of
        self._is_ready = is_ready
        self._waiting: dict[NodeId, list[asyncio.Future[None]]] = {}
        self._count = 0

    async def wait(self, target: NodeId, begin: Callable[[], None]) -> None:
        """Call `begin`, then wait for news of a route; Unreachable when there is none.

        What was ready when the news came may be gone when the caller runs: it looks again.
        """
        if self._count >= ROUTE_WAITERS_MAX:
            raise Unreachable("too many senders wait for routes")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(target, []).append(waiter)
        self._count += 1
        try:
            begin()
            await waiter
        finally:
            self._count -= 1
            waiters = self._waiting[target]
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[target]

    def on_up(self, node_id: NodeId) -> None:
        """There is a route to a node: it goes on, or its identity was not what was asked for."""
        for target in self._towards(node_id):
            if self._is_ready(target):
                self._end(target, None)
            else:
                reason = f"{node_id} answers for {target}, and does not prove to be it"
                self._end(target, reason)

    def on_failed(self, node_id: NodeId, reason: str) -> None:
        for target in self._towards(node_id):
            self._end(target, f"{target} cannot be reached: {reason}")

    def look_again(self) -> None:
        """The relay has registered us: what has waited for that goes on."""
        for target in self._waiting:
            if self._is_ready(target):
                self._end(target, None)

    def give_up(self, reason: str) -> None:
        for target in self._waiting:
            self._end(target, reason)

    def _towards(self, node_id: NodeId) -> list[NodeId]:
        return [target for target in self._waiting if node_id in (target, self._default_of(target))]

    def _end(self, target: NodeId, reason: str | None) -> None:
        for waiter in self._waiting[target]:
            if waiter.done():
                continue
            if reason is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(Unreachable(reason))


class LookUps:
    """Questions to the relay about nodes, each answered once for all who have asked it."""

    def __init__(self) -> None:
        self._waiting: dict[NodeId, list[asyncio.Future[NodeInfo]]] = {}

    async def ask(self, node_id: NodeId, begin: Callable[[], None]) -> NodeInfo:
        """Call `begin`, then wait; NotFound, or Unreachable when the relay does not answer."""
        if len(self._waiting) >= LOOK_UPS_MAX:
            raise Unreachable("too many nodes are looked up at once")
        waiter: asyncio.Future[NodeInfo] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(node_id, []).append(waiter)
        try:
            async with asyncio.timeout(LOOK_UP_TIMEOUT_S):
                begin()
                return await waiter
        except TimeoutError:
            raise Unreachable("the relay does not answer") from None
        finally:
            self._drop(node_id, waiter)

    def on_found(self, found: out.NodeFound) -> None:
        for waiter in self._waiting.pop(found.node_id, ()):
            if waiter.done():
                continue
            if found.info is not None:
                waiter.set_result(found.info)
            elif found.reason.startswith("Request failed"):
                waiter.set_exception(NotFound(found.reason))
            else:
                waiter.set_exception(Unreachable(found.reason))

    def give_up(self, reason: str) -> None:
        for waiters in self._waiting.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(Unreachable(reason))

    def _drop(self, node_id: NodeId, waiter: "asyncio.Future[NodeInfo]") -> None:
        """Forget one who waits no more: an answer has dropped it already."""
        waiters = self._waiting.get(node_id, [])
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[node_id]
