"""One unit of work at a time per key, and none inside another."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary


class KeyLocks:
    """Locks by key within this process; a key that nobody holds costs nothing."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._holders: set[asyncio.Task[object] | None] = set()

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Hold the lock of `key`; a task that already holds one would wait for itself."""
        task = asyncio.current_task()
        if task in self._holders:
            raise RuntimeError(f"unit of work {key!r} opened inside another one")
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            self._holders.add(task)
            try:
                yield
            finally:
                self._holders.discard(task)
