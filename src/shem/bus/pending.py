"""Calls that wait for replies from elsewhere, matched by request id.

Shared by everything that sends CallRequests: to other nodes, and over a socket in either
direction. A reply is offered to its call; one that nobody waits for is dropped.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

from shem.bus.types import GsbCode, GsbError, Reply
from shem.kernel.errors import ShemError
from shem.kernel.world import Rng
from shem.wire.gsb import CallReply, Code, ReplyType

PENDING_MAX: Final = 65_536
BACKLOG_MAX: Final = 1_024
"""Items of one stream that its reader has not taken yet."""
REQUEST_ID_MAX: Final = 1 << 53
ERROR_TEXT_MAX: Final = 4_096

K = TypeVar("K")


class PendingCall(Generic[K]):
    """One call on its way: whom it was sent to, and what came back."""

    def __init__(self, request_id: str, asked: K) -> None:
        self.request_id = request_id
        self.asked = asked
        self._replies: asyncio.Queue[CallReply | ShemError] = asyncio.Queue(BACKLOG_MAX)

    def offer(self, reply: CallReply) -> None:
        try:
            self._replies.put_nowait(reply)
        except asyncio.QueueFull:
            self.fail(GsbError("the reader of the stream is too slow"))

    def fail(self, error: ShemError) -> None:
        if self._replies.full():
            self._replies.get_nowait()
        self._replies.put_nowait(error)

    async def replies(self) -> AsyncGenerator[Reply, None]:
        """Yield what comes back up to the final reply; raise what it says went wrong."""
        while True:
            reply = await self._replies.get()
            if isinstance(reply, ShemError):
                raise reply
            if reply.code is not Code.OK:
                text = reply.data[:ERROR_TEXT_MAX].decode(errors="replace")
                raise GsbError(text, GsbCode(reply.code))
            final = reply.reply_type is ReplyType.FULL
            yield Reply(reply.data, final)
            if final:
                return


class PendingCalls(Generic[K]):
    """All calls under way of one sender; `K` tells who was asked."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._calls: dict[str, PendingCall[K]] = {}

    @contextmanager
    def open(self, asked: K) -> Iterator[PendingCall[K]]:
        """Have a request id and its replies for the length of the block."""
        if len(self._calls) >= PENDING_MAX:
            raise GsbError("too many calls are under way")
        request_id = self.new_request_id()
        pending = self._calls[request_id] = PendingCall(request_id, asked)
        try:
            yield pending
        finally:
            del self._calls[request_id]

    def new_request_id(self) -> str:
        """Return the decimal text of a random 53-bit number, as the real nodes use."""
        while True:
            request_id = str(self._rng.below(REQUEST_ID_MAX))
            if request_id not in self._calls:
                return request_id

    def find(self, request_id: str) -> PendingCall[K] | None:
        return self._calls.get(request_id)

    def fail(self, error: ShemError, where: Callable[[K], bool] = lambda _: True) -> None:
        """Fail all calls whose addressee fits."""
        for pending in tuple(self._calls.values()):
            if where(pending.asked):
                pending.fail(error)
