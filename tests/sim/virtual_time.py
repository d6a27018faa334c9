"""An event loop whose time jumps to the next timer: hours pass in milliseconds, always alike."""

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH_NS = 1_800_000_000 * 1_000_000_000


class _JumpingSelector(selectors.DefaultSelector):
    """Polls without waiting, and moves the loop's time instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("deadlock: nothing is ready and no timer is set")
            self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs code that uses timers, and neither threads nor real sockets."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    @property
    def _clock_resolution(self) -> float:
        """Within which a timer may be early: not at all.

        Two loops that wait for a moment less than asyncio's nanosecond ahead would wake each other
        for ever, and time, which moves when nobody is awake, would stand still.
        """
        return math.ulp(self._jumping.now)

    @_clock_resolution.setter
    def _clock_resolution(self, _resolution: float) -> None:
        """asyncio sets that of the machine's clock."""


class VirtualClock:
    """The clock of a `World` on a virtual loop."""

    def wall_ns(self) -> int:
        return EPOCH_NS + int(asyncio.get_running_loop().time() * 1e9)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run_virtually(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
