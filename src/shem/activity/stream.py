"""Runtime events as server-sent events, in the bytes yagna writes.

Rules (docs/protocol/activity-exeunit.md §2.5): `event`, `data`, `id` counted from 0 per connection,
then an empty line; once the ExeUnit has ended its stream, `:ping` every 15 s. Unlike yagna we also
send the ping (a comment, to readers of such streams) while a command says nothing for so long, and
a stream that fails ends the response instead of being silent for ever.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

import msgspec
import structlog

from shem.kernel.errors import ShemError
from shem.kernel.world import Clock
from shem.wire.errors import WireError

log = structlog.get_logger()

PING: Final = b":ping\n"
PING_PERIOD_S: Final = 15.0
_END: Final = object()
_FIELDS: Final = ("batch_id", "index", "timestamp", "kind")


def encode_event(number: int, event: object) -> bytes:
    """Return the frame of one RuntimeEvent; WireError when it is none."""
    if not isinstance(event, dict) or any(name not in event for name in _FIELDS):
        raise WireError("a RuntimeEvent has batch_id, index, timestamp and kind")
    data = msgspec.json.encode({name: event[name] for name in _FIELDS})
    return b"event: runtime\ndata: " + data + b"\nid: " + str(number).encode() + b"\n\n"


async def frames(events: AsyncGenerator[object, None], clock: Clock) -> AsyncIterator[bytes]:
    """Yield the body of the response."""
    try:
        async with aclosing(with_pings(events)) as pinged:
            number = 0
            async for event in pinged:
                if event is None:
                    yield PING
                    continue
                yield encode_event(number, event)
                number += 1
    except ShemError as error:
        log.info("stream.failed", reason=error.message)
        return
    while True:
        yield PING
        await clock.sleep(PING_PERIOD_S)


async def with_pings(events: AsyncGenerator[object, None]) -> AsyncGenerator[object, None]:
    """Yield the events, and None whenever there was none for `PING_PERIOD_S`."""
    waiting: asyncio.Future[object] | None = None
    async with aclosing(events):
        try:
            while True:
                waiting = asyncio.ensure_future(anext(events, _END))
                while not (await asyncio.wait({waiting}, timeout=PING_PERIOD_S))[0]:
                    yield None
                event = waiting.result()
                if event is _END:
                    return
                yield event
        finally:
            if waiting is not None and waiting.cancel():
                await asyncio.gather(waiting, return_exceptions=True)
