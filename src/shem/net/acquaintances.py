"""Whom we heard of lately: connected again when this node comes back.

A legacy peer that knew us before our restart holds streams that are dead, and a peer of any kind
may be waiting for us. So whenever the relay has (again) registered us, those heard within the last
hour get a sign of life, most recent first. They are kept over restarts; one that could not be
written is met again when it calls. Spec: docs/protocol/net.md §6.7.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self

import structlog

from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.net.types import Channel, Peer
from shem.store.unit import Store

MET_WITHIN_NS: Final = 3_600 * NS_PER_S
WRITE_AGAIN_NS: Final = 300 * NS_PER_S
"""How old the stored time of a peer that is heard may get."""
KEPT_MAX: Final = 1_024
SOUGHT_MAX: Final = 64
"""Peers connected again at a return."""
SEEK_PAUSE_S: Final = 0.02
"""Between two of them, so that the relay is not flooded."""
_KEY: Final = "net:acquaintances"
_DROP: Final = "DELETE FROM net_acquaintance WHERE met_ns < :oldest"
_LOAD: Final = """
    SELECT node_id, met_ns FROM net_acquaintance WHERE met_ns >= :oldest
    ORDER BY met_ns DESC LIMIT :most
"""
_MEET: Final = """
    INSERT INTO net_acquaintance (node_id, met_ns) VALUES (:node_id, :met_ns)
    ON CONFLICT (node_id) DO UPDATE SET met_ns = excluded.met_ns
"""

log = structlog.get_logger()


class Society(Protocol):
    """What this module needs of `service.Net`."""

    def on_message(self, fn: Callable[[Peer, Channel, bytes], None]) -> None: ...
    def on_online(self, fn: Callable[[], None]) -> None: ...
    def seek(self, node_id: NodeId) -> None: ...


class Acquaintances:
    """While its block lasts, who is heard is remembered and sought after each return."""

    def __init__(self, net: Society, store: Store, world: World) -> None:
        self._net = net
        self._store = store
        self._world = world
        self._met: dict[NodeId, int] = {}
        """Wall-clock time; the most recently written is last."""
        self._scope = TaskScope()
        self._returning: asyncio.Event = asyncio.Event()
        self._unwritten: set[NodeId] = set()
        self._to_write: asyncio.Event = asyncio.Event()
        net.on_message(self._on_message)
        net.on_online(self._returning.set)

    async def __aenter__(self) -> Self:
        oldest = self._world.clock.wall_ns() - MET_WITHIN_NS
        async with self._store.unit(_KEY) as unit:
            unit.execute(_DROP, oldest=oldest)
        rows = await self._store.fetch(_LOAD, oldest=oldest, most=KEPT_MAX)
        stored = {NodeId(row["node_id"]): row["met_ns"] for row in reversed(rows)}
        self._met = stored | self._met
        await self._scope.__aenter__()
        self._scope.spawn(self._seek(), "net.seek")
        self._scope.spawn(self._write(), "net.acquaintances")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._scope.__aexit__(kind, error, trace)

    def _on_message(self, peer: Peer, channel: Channel, message: bytes) -> None:
        now_ns = self._world.clock.wall_ns()
        if now_ns - self._met.get(peer.node_id, 0) < WRITE_AGAIN_NS:
            return
        self._met.pop(peer.node_id, None)
        self._met[peer.node_id] = now_ns
        if len(self._met) > KEPT_MAX:
            del self._met[next(iter(self._met))]
        self._unwritten.add(peer.node_id)
        self._to_write.set()

    async def _seek(self) -> None:
        while True:
            await self._returning.wait()
            self._returning.clear()
            oldest = self._world.clock.wall_ns() - MET_WITHIN_NS
            recent = [each for each, met_ns in reversed(self._met.items()) if met_ns >= oldest]
            for node_id in recent[:SOUGHT_MAX]:
                self._net.seek(node_id)
                await self._world.clock.sleep(SEEK_PAUSE_S)

    async def _write(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            met = {each: self._met[each] for each in self._unwritten if each in self._met}
            self._unwritten.clear()
            try:
                async with self._store.unit(_KEY) as unit:
                    for node_id, met_ns in met.items():
                        unit.execute(_MEET, node_id=node_id, met_ns=met_ns)
            except ShemError as error:
                log.warning("acquaintances.unwritten", reason=error.message)
