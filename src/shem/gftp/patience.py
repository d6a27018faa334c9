"""How long a transfer puts up with nothing getting through: cuts are sat out, silence is not."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from shem.bus.types import GsbError
from shem.kernel.errors import ShemError, TimedOut, Unreachable
from shem.kernel.world import World

PATIENCE_S: Final = 120.0
"""Without any progress."""
PAUSE_FIRST_S: Final = 0.2
PAUSE_LAST_S: Final = 5.0
PASSING: Final = (Unreachable, TimedOut, GsbError)
"""What may be over at the next attempt: the peer, our node or the way between them is away."""

T = TypeVar("T")

log = structlog.get_logger()


class Patience:
    """Repeats what fails in passing until nothing has worked for a while."""

    def __init__(self, world: World, patience_s: float = PATIENCE_S) -> None:
        self._clock = world.clock
        self._patience_s = patience_s
        self._progress_s = world.clock.monotonic()
        self._is_told = False

    async def until_done(self, act: Callable[[], Awaitable[T]]) -> T:
        """Return what `act` returns at last; its error when it is final or has lasted too long."""
        pause_s = PAUSE_FIRST_S
        while True:
            try:
                done = await act()
            except PASSING as error:
                await self._wait(error, pause_s)
                pause_s = min(2 * pause_s, PAUSE_LAST_S)
            else:
                self._progress_s = self._clock.monotonic()
                self._is_told = False
                return done

    async def _wait(self, error: ShemError, pause_s: float) -> None:
        if self._clock.monotonic() - self._progress_s + pause_s > self._patience_s:
            raise error
        if not self._is_told:
            self._is_told = True
            log.info("gftp.interrupted", reason=error.message, patience_s=self._patience_s)
        await self._clock.sleep(pause_s)
