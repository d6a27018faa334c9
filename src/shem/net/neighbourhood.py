"""Whom a broadcast goes to (docs/protocol/net.md §9.6): some peers, filled up with neighbours."""

import asyncio
from collections.abc import Sequence
from typing import Final

from shem.kernel.errors import Unreachable
from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.net.types import NodeInfo

FAN_OUT: Final = 5
PUBLIC_FAN_OUT: Final = 30
CACHED_S: Final = 60.0
"""A yagna keeps its neighbours for 300 s; asking sooner finds newcomers whom nobody announced."""


class Neighbourhood:
    """The cached neighbours, and those who wait for the relay's answer about them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cached: tuple[float, list[NodeId]] | None = None
        self._waiters: list[asyncio.Future[Sequence[NodeInfo]]] = []

    def ask(self, loop: asyncio.AbstractEventLoop) -> "asyncio.Future[Sequence[NodeInfo]]":
        waiter: asyncio.Future[Sequence[NodeInfo]] = loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def answered(self, nodes: Sequence[NodeInfo] | None) -> None:
        """Wake all who wait; None means that the relay did not answer."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if waiter.done():
                continue
            if nodes is None:
                waiter.set_exception(Unreachable("the relay does not answer"))
            else:
                waiter.set_result(nodes)

    def cached(self, now: float) -> list[NodeId] | None:
        if self._cached is None or self._cached[0] < now:
            return None
        return self._cached[1]

    def keep(self, nodes: list[NodeId], now: float) -> None:
        """Remember them for a while; that nobody is there is asked again each time."""
        self._cached = (now + CACHED_S, nodes) if nodes else None

    def forget(self) -> None:
        self._cached = None

    @staticmethod
    def fan_out(*, is_public: bool) -> int:
        return PUBLIC_FAN_OUT if is_public else FAN_OUT

    def choose(
        self, peers: Sequence[NodeId], neighbours: Sequence[NodeId], count: int
    ) -> list[NodeId]:
        """Return at most `count` nodes: random peers first, then the nearest neighbours."""
        left = list(peers)
        chosen: list[NodeId] = []
        while left and len(chosen) < count:
            chosen.append(left.pop(self._world.rng.below(len(left))))
        known = set(chosen)
        chosen += [node_id for node_id in neighbours if node_id not in known]
        return chosen[:count]
