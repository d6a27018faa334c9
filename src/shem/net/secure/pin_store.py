"""Keeps pins over restarts: loaded at the start, written in the background, dropped when old.

A pin that could not be written is lost with the process, which costs the memory of one meeting and
not the meeting. Spec: docs/protocol/encryption.md §5.
"""

import asyncio
from types import TracebackType
from typing import Final, Self

import structlog

from shem.kernel.errors import ShemError
from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.net.secure.pins import PINS_MAX, Pins
from shem.store.unit import Store

PIN_LIFETIME_NS: Final = 30 * 86_400 * 1_000_000_000
"""A peer not met for so long may have gone back to a node that knows no encryption."""
_KEY: Final = "net:pins"
_DROP: Final = "DELETE FROM net_pin WHERE pinned_ns < :oldest"
_LOAD: Final = """
    SELECT node_id FROM net_pin WHERE pinned_ns >= :oldest ORDER BY pinned_ns DESC LIMIT :most
"""
_PIN: Final = """
    INSERT INTO net_pin (node_id, pinned_ns) VALUES (:node_id, :pinned_ns)
    ON CONFLICT (node_id) DO UPDATE SET pinned_ns = excluded.pinned_ns
"""

log = structlog.get_logger()


class PinStore:
    """While its block lasts, `pins` are kept in the store."""

    def __init__(self, store: Store, world: World) -> None:
        self.pins = Pins()
        self._store = store
        self._world = world
        self._writes = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        oldest = self._world.clock.wall_ns() - PIN_LIFETIME_NS
        async with self._store.unit(_KEY) as unit:
            unit.execute(_DROP, oldest=oldest)
        rows = await self._store.fetch(_LOAD, oldest=oldest, most=PINS_MAX)
        self.pins = Pins((NodeId(row["node_id"]) for row in reversed(rows)), self._on_pinned)
        await self._writes.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._writes.__aexit__(kind, error, trace)

    def _on_pinned(self, identities: tuple[NodeId, ...]) -> None:
        self._writes.create_task(self._write(identities), name="net.pin")

    async def _write(self, identities: tuple[NodeId, ...]) -> None:
        try:
            async with self._store.unit(_KEY) as unit:
                for node_id in identities:
                    unit.execute(_PIN, node_id=node_id, pinned_ns=self._world.clock.wall_ns())
        except ShemError as error:
            log.warning("secure.pin_unwritten", reason=error.message)
