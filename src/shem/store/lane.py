"""One lane of the outbox: when its next attempt is due.

Pure but for the waiting itself. After a failure the lane waits 0.5 s, doubling up to 60 s; a sign
of life of the peer shortens the wait to 2 s, also for an attempt that is under way and fails.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from shem.kernel.ids import NodeId

BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 60.0
BACKOFF_AFTER_SIGN_OF_LIFE_S: Final = 2.0
FAILURES_AFTER_SIGN_OF_LIFE: Final = 2
JITTER: Final = 0.2


class LaneKey(NamedTuple):
    """Whose messages to whom, in which order of their own."""

    identity: NodeId
    peer: NodeId
    lane: str


@dataclass(slots=True)
class Lane:
    """A lane with something to deliver: when its next attempt is due."""

    key: LaneKey
    recovered: bool
    """Found at start: does not hurry."""
    more: bool = True
    failures: int = 0
    kicked: bool = False
    delay_s: float = 0.0
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def kick(self) -> None:
        """The peer is alive: try soon."""
        self.kicked = True
        self.failures = min(self.failures, FAILURES_AFTER_SIGN_OF_LIFE)
        self.delay_s = min(self.delay_s, BACKOFF_AFTER_SIGN_OF_LIFE_S)
        self.wake.set()

    def failed(self, jitter: float) -> None:
        """Set the delay after one more failure; `jitter` is between 0 and 1."""
        doubled = BACKOFF_MIN_S * 2.0 ** min(self.failures, 16)
        ceiling = BACKOFF_AFTER_SIGN_OF_LIFE_S if self.kicked else BACKOFF_MAX_S
        self.delay_s = min(doubled, ceiling) * (1 - JITTER + 2 * JITTER * jitter)
        self.failures += 1

    async def pause(self, clock: Callable[[], float]) -> None:
        """Wait out the delay, which a sign of life may shorten meanwhile."""
        start = clock()
        while (left := start + self.delay_s - clock()) > 0:
            self.wake.clear()
            try:
                async with asyncio.timeout(left):
                    await self.wake.wait()
            except TimeoutError:
                return
