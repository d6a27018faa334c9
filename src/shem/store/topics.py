"""Wake pollers: a version per topic that grows with every committed change.

A poller reads the version, then the store, then waits for the version to differ: no change between
the two is missed. Versions live in memory only and mean nothing after a restart; what was promised
lies in the store. A topic that was forgotten to stay within the limit answers with a version at
least as new as its own, which wakes a poller once for nothing.
"""

import asyncio
from collections import OrderedDict
from typing import Final

TOPICS_MAX: Final = 10_000
TOPIC_LENGTH_MAX: Final = 300


class Topics:
    """Versions of topics, and those who wait for them."""

    def __init__(self) -> None:
        self._clock = 0
        self._floor = 0
        self._versions: OrderedDict[str, int] = OrderedDict()
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._closed = False

    def version(self, topic: str) -> int:
        return max(self._versions.get(topic, 0), self._floor)

    async def changed(self, topic: str, since: int, timeout_s: float) -> bool:
        """Wait until the topic's version differs from `since`; False when it did not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.version(topic) == since and not self._closed:
                    await self._next(topic)
        except TimeoutError:
            return False
        if self._closed:
            await asyncio.sleep(0)
        return self.version(topic) != since

    def bump(self, topic: str) -> None:
        """Tell the pollers of `topic` that something was committed."""
        self._clock += 1
        self._versions[topic] = self._clock
        self._versions.move_to_end(topic)
        if len(self._versions) > TOPICS_MAX:
            _, forgotten = self._versions.popitem(last=False)
            self._floor = max(self._floor, forgotten)
        self._wake(topic)

    def bump_all(self) -> None:
        """Tell all pollers: changes of another process may have been missed."""
        self._clock += 1
        self._floor = self._clock
        for topic in tuple(self._waiting):
            self._wake(topic)

    def close(self) -> None:
        """End all waiting; from now on nothing changes any more."""
        self._closed = True
        for topic in tuple(self._waiting):
            self._wake(topic)

    async def _next(self, topic: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(topic, set()).add(future)
        try:
            await future
        finally:
            waiters = self._waiting.get(topic)
            if waiters is not None:
                waiters.discard(future)
                if not waiters:
                    del self._waiting[topic]

    def _wake(self, topic: str) -> None:
        for future in self._waiting.pop(topic, ()):
            if not future.done():
                future.set_result(None)
