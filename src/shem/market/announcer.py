"""Broadcasts of ids: collected for a moment, sent in small pieces.

docs/protocol/market.md §5.2. At most eight ids go into one broadcast, so that it fits a datagram.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

from shem.kernel.ids import SubscriptionId
from shem.kernel.world import Clock

IDS_PER_BROADCAST: Final = 8
PENDING_MAX: Final = 2_000
"""Ids that wait to be announced; more are left to the next round."""
PAUSE_S: Final = 0.05
"""Between two broadcasts."""


class Publishes(Protocol):
    """The part of `bus.broadcast.Broadcast` that sends."""

    async def publish(self, topic: str, body: object) -> None: ...


class Announcer:
    """Sends the ids of one topic; `run` is its loop."""

    def __init__(self, broadcast: Publishes, topic: str, clock: Clock) -> None:
        self._broadcast = broadcast
        self._topic = topic
        self._clock = clock
        self._due: dict[SubscriptionId, float] = {}
        self._wake = asyncio.Event()

    def add(self, ids: Iterable[SubscriptionId], delay_s: float) -> None:
        """Announce `ids` after `delay_s`, or sooner if they wait already."""
        due = self._clock.monotonic() + delay_s
        for item in ids:
            if len(self._due) < PENDING_MAX:
                self._due[item] = min(due, self._due.get(item, due))
        self._wake.set()

    async def run(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock.monotonic()
            ready = [item for item, due in self._due.items() if due <= now][:IDS_PER_BROADCAST]
            if not ready:
                await self._sleep(now)
                continue
            for item in ready:
                del self._due[item]
            await self._broadcast.publish(self._topic, {"offerIds": list(ready)})
            await self._clock.sleep(PAUSE_S)

    async def _sleep(self, now: float) -> None:
        left = min(self._due.values()) - now if self._due else None
        try:
            async with asyncio.timeout(left):
                await self._wake.wait()
        except TimeoutError:
            return
