"""From a running command to its capture buffers and to those who watch live."""

import asyncio
import threading
from typing import Final

from shem.exeunit.capture import Capture
from shem.exeunit.commands import CaptureMode
from shem.exeunit.events import EventLog
from shem.kernel.world import World

PENDING_SIZE_MAX: Final = 1 << 20
"""Output that waits to be shown; beyond it a live subscriber misses some, the result does not."""


class OutputFeed:
    """Takes a program's output on any thread; shows it on the loop, joined to few events."""

    def __init__(
        self, world: World, live: EventLog, index: int, name: str, mode: CaptureMode | None
    ) -> None:
        self.capture = Capture(mode)
        self._world = world
        self._live = live
        self._index = index
        self._name = name
        self._binary = mode is not None and mode.binary
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._pending = bytearray()

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        with self._lock:
            first = not self._pending
            shown = self.capture.add(data)
            self._pending += shown[: PENDING_SIZE_MAX - len(self._pending)]
            wake = first and bool(self._pending)
        if wake:
            self._loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        with self._lock:
            data, self._pending = bytes(self._pending), bytearray()
        if data:
            now_ns = self._world.clock.wall_ns()
            self._live.output(self._index, self._name, data, now_ns, binary=self._binary)


class ProgressFeed:
    """Tells how far a transfer is, not more often than was asked for, and once at its end."""

    def __init__(self, world: World, live: EventLog, index: int, interval_s: float | None) -> None:
        self._world = world
        self._live = live
        self._index = index
        self._interval_s = interval_s
        self._told_s: float | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Note that `done` bytes of `total` have been moved."""
        if self._interval_s is None:
            return
        now_s = self._world.clock.monotonic()
        due = self._told_s is None or now_s - self._told_s >= self._interval_s
        if due or done == total:
            self._told_s = now_s
            self._live.progress(self._index, done, total, None, self._world.clock.wall_ns())

    def say(self, message: str) -> None:
        """Tell a word instead of a number."""
        if self._interval_s is not None:
            self._live.progress(self._index, 0, None, message, self._world.clock.wall_ns())
