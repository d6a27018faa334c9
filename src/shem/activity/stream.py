"""Runtime events as server-sent events, in the bytes yagna writes.

Rules (docs/protocol/activity-exeunit.md §2.5): `event`, `data`, `id` counted from 0 per connection,
then an empty line; once the ExeUnit has ended its stream, `:ping` every 15 s. Unlike yagna, which
stays silent for ever, a stream that fails ends the response. Nothing is replayed: JSON polling is
the durable way.
"""

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
        async with aclosing(events):
            number = 0
            async for event in events:
                yield encode_event(number, event)
                number += 1
    except ShemError as error:
        log.info("stream.failed", reason=error.message)
        return
    while True:
        yield PING
        await clock.sleep(PING_PERIOD_S)
