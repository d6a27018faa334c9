"""Broadcasts of ids: collected for a moment, sent in small pieces.

docs/protocol/market.md §5.2. At most eight ids go into one broadcast, so that it fits a datagram.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Final, Protocol

from shem.kernel.ids import SubscriptionId
from shem.kernel.tasks import TaskScope
from shem.kernel.world import Clock

IDS_PER_BROADCAST: Final = 8
PENDING_MAX: Final = 2_000
"""Ids that wait to be announced; more are left to the next round."""
PAUSE_S: Final = 0.05
"""Between two broadcasts."""
SENDING_MAX: Final = 16
"""Broadcasts under way at once."""


class Publishes(Protocol):
    """The part of `bus.broadcast.Broadcast` that sends."""

    def publish(self, topic: str, body: object) -> Coroutine[Any, Any, None]: ...


class Announcer:
    """Sends the ids of one topic; `run` is its loop."""

    def __init__(self, broadcast: Publishes, topic: str, clock: Clock) -> None:
        self._broadcast = broadcast
        self._topic = topic
        self._clock = clock
        self._due: dict[SubscriptionId, float] = {}
        self._again_s: dict[SubscriptionId, tuple[float, ...]] = {}
        self._wake = asyncio.Event()

    def add(
        self, ids: Iterable[SubscriptionId], delay_s: float, again_s: tuple[float, ...] = ()
    ) -> None:
        """Announce `ids` after `delay_s`, or sooner if they wait already, and after each pause."""
        due = self._clock.monotonic() + delay_s
        for item in ids:
            if len(self._due) < PENDING_MAX:
                self._due[item] = min(due, self._due.get(item, due))
                if again_s:
                    self._again_s[item] = again_s
        self._wake.set()

    def drop(self, item: SubscriptionId) -> None:
        """Announce it no more."""
        self._due.pop(item, None)
        self._again_s.pop(item, None)

    async def run(self) -> None:
        async with TaskScope() as sending:
            while True:
                self._wake.clear()
                now = self._clock.monotonic()
                ready = [item for item, due in self._due.items() if due <= now]
                if not ready or sending.size >= SENDING_MAX:
                    await self._sleep(now, PAUSE_S if ready else None)
                    continue
                chunk = ready[:IDS_PER_BROADCAST]
                for item in chunk:
                    self._said(item, now)
                # A neighbour that does not answer must not hold up what comes next.
                body = {"offerIds": chunk}
                sending.spawn(self._broadcast.publish(self._topic, body), self._topic)
                await self._clock.sleep(PAUSE_S)

    def _said(self, item: SubscriptionId, now: float) -> None:
        del self._due[item]
        pauses_s = self._again_s.pop(item, ())
        if pauses_s:
            self._due[item] = now + pauses_s[0]
            self._again_s[item] = pauses_s[1:]

    async def _sleep(self, now: float, pause_s: float | None) -> None:
        left = min(self._due.values()) - now if self._due else None
        left = pause_s if pause_s is not None else left
        try:
            async with asyncio.timeout(left):
                await self._wake.wait()
        except TimeoutError:
            return
