"""The runtime events of a batch: live from its ExeUnit, or retold from what this node has kept.

Streams are best effort (GAP-17): what was emitted while nobody listened is not replayed by us. But
a batch whose results are all here is told from them, whatever became of its ExeUnit, and a stream
that cannot begin is an error of the call and not an endless silence (docs/protocol/
activity-exeunit.md §2.5, §8.3).
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import msgspec

from shem.activity import ledger
from shem.activity.ledger import Batch
from shem.activity.peer import Peers
from shem.activity.records import Activity
from shem.activity.results import Result
from shem.store.unit import Store

FIRST_S: Final = 1.0
"""How long the answer waits for the first event, which shows that the stream has begun."""
_EXIT_CODE: Final = re.compile(r"exited with code (-?\d{1,10})")

Event = dict[str, Any]


class Live:
    """Follows batches."""

    def __init__(self, store: Store, peers: Peers) -> None:
        self._store = store
        self._peers = peers

    async def events(self, activity: Activity, batch_id: str) -> AsyncGenerator[object, None]:
        """Return the events of a batch; raises when they cannot be had at all."""
        batch = await ledger.load_batch(self._store.fetch, activity.activity_id, batch_id)
        if batch is not None and batch.finished:
            return _each(await self._retold(batch))
        stream = self._peers.stream(
            activity.identity,
            activity.provider,
            f"exeunit/{activity.activity_id}/StreamExecBatchResults",
            {"activity_id": activity.activity_id, "batch_id": batch_id},
        )
        first = asyncio.ensure_future(anext(stream, None))
        try:
            await asyncio.wait({first}, timeout=FIRST_S)
            if first.done():
                first.result()
        except BaseException:
            first.cancel()
            await stream.aclose()
            raise
        return _continued(first, stream)

    async def _retold(self, batch: Batch) -> list[Event]:
        rows = await ledger.load_batches(self._store.fetch, batch.activity_id)
        script = next(text for known, text in rows if known.batch_id == batch.batch_id)
        commands = msgspec.json.decode(script)
        results = await ledger.load_results(self._store.fetch, batch)
        return [event for result in results for event in retell(batch.batch_id, commands, result)]


def retell(batch_id: str, commands: list[object], result: Result) -> list[Event]:
    """Return the events that led to a stored result."""
    index = result["index"]
    kinds: list[Event] = [{"started": {"command": commands[index]}}]
    kinds += [
        {stream: result[stream]} for stream in ("stdout", "stderr") if result[stream] is not None
    ]
    message = result["message"]
    kinds.append({"finished": {"return_code": _return_code(result), "message": message}})
    moment = str(result["eventDate"]).removesuffix("Z")
    return [
        {"batch_id": batch_id, "index": index, "timestamp": moment, "kind": kind} for kind in kinds
    ]


def _return_code(result: Result) -> int:
    if result["result"] == "Ok":
        return 0
    said = _EXIT_CODE.search(result["message"] or "")
    return int(said.group(1)) if said else -1


async def _each(events: list[Event]) -> AsyncGenerator[object, None]:
    for event in events:
        yield event


async def _continued(
    first: "asyncio.Future[object]", stream: AsyncGenerator[object, None]
) -> AsyncGenerator[object, None]:
    try:
        async with aclosing(stream):
            item = await first
            while item is not None:
                yield item
                item = await anext(stream, None)
    finally:
        first.cancel()
