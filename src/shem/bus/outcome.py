"""What a caller makes of the replies to its call: one answer, or the items of a stream, in time."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import TypeVar

from shem.bus.types import GsbError, Reply
from shem.kernel.errors import TimedOut

T = TypeVar("T")


def closing(found: AsyncIterator[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]:
    """End an iterator of others with the block, if it is one that can be ended."""
    return aclosing(found) if isinstance(found, AsyncGenerator) else nullcontext(found)


async def only(replies: AsyncGenerator[Reply, None]) -> bytes:
    """Return the one final reply."""
    async with aclosing(replies):
        async for reply in replies:
            if not reply.final:
                raise GsbError("streaming response")
            return reply.data
    raise GsbError("empty response from remote service")


async def items(replies: AsyncGenerator[Reply, None]) -> AsyncGenerator[bytes, None]:
    """Yield the items of a stream; an empty final reply is its end only."""
    async with aclosing(replies):
        async for reply in replies:
            if reply.data or not reply.final:
                yield reply.data
            if reply.final:
                return


async def within(work: Awaitable[T], timeout_s: float, address: str) -> T:
    """Await with a deadline that is told from time-outs of the work itself."""
    try:
        async with asyncio.timeout(timeout_s) as scope:
            return await work
    except TimeoutError as error:
        if scope.expired():
            raise TimedOut(f"Timeout calling `{address}` service") from error
        raise


async def timed_items(
    replies: AsyncGenerator[Reply, None], timeout_s: float, address: str
) -> AsyncGenerator[bytes, None]:
    """Yield the items of a stream, each of which has `timeout_s` to come."""
    async with aclosing(items(replies)) as found:
        while (item := await within(anext(found, None), timeout_s, address)) is not None:
            yield item
