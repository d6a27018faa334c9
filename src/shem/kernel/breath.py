"""Long work on the event loop, cut into slices: others get their turn between two of them."""

import asyncio
from typing import Final

from shem.kernel.world import Clock

SLICE_S: Final = 0.004
"""Work without a pause; one step beyond it is what others wait for at most."""


class Breath:
    """One piece of work: `await breath.draw()` between its steps."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.monotonic()

    async def draw(self) -> None:
        """Let others run if it is their turn."""
        if self._clock.monotonic() - self._since >= SLICE_S:
            await asyncio.sleep(0)
            self._since = self._clock.monotonic()
