"""Answers for an ExeUnit that is not there: from what the provider's node keeps of its activity.

Once all results are here every message but a new Exec has its answer, the ExeUnit's own: results,
the list of batches, what was accepted, that nothing runs. While they are only promised, a poll
times out, so that nobody takes a result for lost that is on its way (docs/protocol/
activity-exeunit.md §5.7, §8.2).
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from shem.activity.keptrows import (
    Keeping,
    KeptBatch,
    count_kept_batches,
    load_kept,
    load_kept_batch,
    load_kept_batches,
    load_kept_results,
)
from shem.activity.live import retell
from shem.activity.messages import Body, usage_body
from shem.activity.records import Activity, Role, load_activity
from shem.activity.results import shown
from shem.activity.script import script_digest
from shem.bus.types import GsbCode, GsbError, NoSuchEndpoint
from shem.kernel.errors import NotFound, TimedOut, UsageError
from shem.store.unit import Store

Answer = Callable[[Activity, Body, object], Awaitable[object]]


class Aftermath:
    """Speaks for ExeUnits that have ended."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._answers: dict[str, Answer] = {
            "Exec": self._exec,
            "GetExecBatchResults": self._results,
            "ListBatches": self._list,
            "ResolveBatch": self._resolve,
            "GetRunningCommand": self._running,
            "GetActivityState": self._state,
            "GetActivityUsage": self._usage,
        }

    async def keeping(self, activity_id: str) -> Keeping | None:
        """Tell how far an activity's results are here; None when they are not and will not be."""
        kept = await load_kept(self._store.fetch, activity_id)
        return None if kept is None or kept.state is Keeping.DROPPING else kept.state

    async def answer(self, activity: Activity, message: str, body: object) -> object:
        """Return what the ExeUnit would have answered; NoSuchEndpoint when nobody can know."""
        known = await load_activity(self._store.fetch, activity.activity_id, Role.PROVIDER)
        keeping = await self.keeping(activity.activity_id)
        if keeping is Keeping.PROMISED:
            return _not_yet(message)
        answer = self._answers.get(message)
        if keeping is None or answer is None:
            raise NoSuchEndpoint
        return await answer(known or activity, Body(body), body)

    async def events(self, activity: Activity, body: object) -> list[dict[str, Any]]:
        """Return the events of a batch as its results tell them."""
        if await self.keeping(activity.activity_id) is not Keeping.KEPT:
            raise NoSuchEndpoint
        batch_id = Body(body).text("batch_id")
        batch = await load_kept_batch(self._store.fetch, activity.activity_id, batch_id)
        if batch is None:
            raise GsbError(f"Unknown batch: {batch_id}", GsbCode.BAD_REQUEST)
        results = await load_kept_results(self._store.fetch, batch, None)
        return [event for result in results for event in retell(batch_id, batch.script, result)]

    async def _batch(self, activity: Activity, body: Body) -> KeptBatch | None:
        return await load_kept_batch(self._store.fetch, activity.activity_id, body.text("batchId"))

    async def _exec(self, activity: Activity, body: Body, raw: object) -> object:
        """Answer a repeat again; what was never accepted is told that nobody is there."""
        batch = await self._batch(activity, body)
        if batch is None:
            raise NoSuchEndpoint
        script = raw.get("exeScript") if isinstance(raw, dict) else None
        if script_digest(batch.script) != script_digest(script):
            raise UsageError(f"Batch {batch.batch_id} already exists")
        return batch.batch_id

    async def _results(self, activity: Activity, body: Body, _raw: object) -> object:
        batch = await self._batch(activity, body)
        if batch is None:
            raise NotFound(f"batch_id = {body.text('batchId')}")
        index = body.optional_count("commandIndex")
        results = await load_kept_results(self._store.fetch, batch, index)
        return shown(results, batch.commands, index)

    async def _list(self, activity: Activity, body: Body, _raw: object) -> object:
        first = body.optional_count("from") or 0
        found = [
            {
                "batchId": batch.batch_id,
                "script": batch.script,
                "acceptedNs": batch.accepted_ns,
                "results": batch.stored,
            }
            for batch in await load_kept_batches(self._store.fetch, activity.activity_id, first)
        ]
        return {
            "batches": found,
            "total": await count_kept_batches(self._store.fetch, activity.activity_id),
        }

    async def _resolve(self, activity: Activity, body: Body, _raw: object) -> object:
        """What is not here was never accepted, and there is no ExeUnit that could still do it."""
        return {"accepted": await self._batch(activity, body) is not None}

    async def _running(self, activity: Activity, _body: Body, _raw: object) -> object:
        raise NotFound(f"No running command within activity: {activity.activity_id}")

    async def _state(self, activity: Activity, _body: Body, _raw: object) -> object:
        return activity.state.wire()

    async def _usage(self, activity: Activity, _body: Body, _raw: object) -> object:
        return usage_body(activity.usage, activity.usage_ns)


def _not_yet(message: str) -> object:
    """Answer while the results are still to come: an empty list would say that it was accepted."""
    if message in WAITED_FOR:
        raise TimedOut("Timeout")
    raise NoSuchEndpoint


WAITED_FOR: Final = frozenset({"GetExecBatchResults", "ResolveBatch", "ListBatches"})
"""What the results will answer."""
