"""An event loop in a background thread, for callers that wait.

A KeyboardInterrupt while waiting cancels what was waited for; as everywhere in the SDK, that ends
nothing remote.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Final, TypeVar

from shem.kernel.errors import UsageError

T = TypeVar("T")

STOP_TIMEOUT_S: Final = 10.0


class BackgroundLoop:
    """One loop with its thread; `close` ends both."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="shem.sync", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the background and return what it returns."""
        if threading.current_thread() is self._thread:
            work.close()
            raise UsageError("a waiting call cannot be made from the loop's own thread")
        if self._loop.is_closed():
            work.close()
            raise UsageError("this Golem is closed: use `with Golem(…) as golem`")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                concurrent.futures.wait([future], STOP_TIMEOUT_S)
            raise

    def each(self, items: AsyncIterator[T]) -> Iterator[T]:
        """Iterate in the foreground over what is made in the background."""

        async def take() -> tuple[T] | None:
            try:
                return (await anext(items),)
            except StopAsyncIteration:
                return None

        async def close() -> None:
            if hasattr(items, "aclose"):
                await items.aclose()

        try:
            while (found := self.wait(take())) is not None:
                yield found[0]
        finally:
            if not self._loop.is_closed():
                self.wait(close())

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self.wait(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_TIMEOUT_S)
        self._loop.close()
