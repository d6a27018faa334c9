"""What a requestor reads: results, the list of batches, running command, state and usage.

Results come from the store, which the puller fills; a poll waits for the store to change. While the
provider is away a poll ends as an empty one does. A batch without an answer is resolved by asking
for it. State and usage are asked of the provider while the activity lives, and remembered
(docs/protocol/activity-exeunit.md §2.3, §2.4, §8.2).
"""

import asyncio
from typing import Final

import structlog

from shem.activity import ledger, messages
from shem.activity.batches import SENDABLE, BatchState
from shem.activity.batchwork import BatchWork
from shem.activity.ledger import Batch
from shem.activity.messages import parse_usage, usage_body
from shem.activity.peer import ANSWER_GRACE_S, Peers
from shem.activity.puller import Puller, keep_state
from shem.activity.records import Activity, save_usage
from shem.activity.results import Result, parse_results, shown
from shem.activity.states import ActivityState, parse_state
from shem.kernel.errors import NotFound, ShemError, TimedOut, Unreachable
from shem.kernel.world import World
from shem.store.unit import Store
from shem.wire.errors import WireError

log = structlog.get_logger()

FRESHEN_S: Final = 1.0
"""A poll that does not wait asks the provider once, and so long at most."""
RESOLVE_S: Final = 2.0
"""How long the list of batches waits for each unanswered one."""


class Reading:
    """Answers from the store and, where it must, from the provider."""

    def __init__(
        self, store: Store, peers: Peers, work: BatchWork, puller: Puller, world: World
    ) -> None:
        self._store = store
        self._peers = peers
        self._work = work
        self._puller = puller
        self._world = world

    async def results(
        self, activity: Activity, batch_id: str, timeout_s: float, command_index: int | None
    ) -> list[Result]:
        """Return the results so far, once the wanted command has finished or the time is up."""
        deadline = self._world.clock.monotonic() + timeout_s
        batch = await ledger.load_batch(self._store.fetch, activity.activity_id, batch_id)
        if batch is None:
            return await self._results_of_elsewhere(activity, batch_id, timeout_s, command_index)
        if batch.state in SENDABLE:
            batch = await self._resolved(activity, batch, timeout_s)
        self._puller.watch(batch)
        if batch.open and timeout_s < FRESHEN_S:
            batch = await self._fresh(activity, batch)
        while True:
            version = self._store.topics.version(batch.topic)
            batch = await self._reload(batch)
            _require_run(batch)
            left_s = deadline - self._world.clock.monotonic()
            if batch.coverage.satisfies(command_index) or left_s <= 0:
                break
            await self._store.topics.changed(batch.topic, version, left_s)
        if command_index is not None and not batch.coverage.satisfies(command_index):
            raise TimedOut("Timeout")
        stored = await ledger.load_results(self._store.fetch, batch, command_index)
        return shown(stored, batch.commands, command_index)

    async def _reload(self, batch: Batch) -> Batch:
        known = await ledger.load_batch(self._store.fetch, batch.activity_id, batch.batch_id)
        assert known is not None
        return known

    async def _resolved(self, activity: Activity, batch: Batch, timeout_s: float) -> Batch:
        """Ask what became of an unanswered batch; while the provider is away nobody knows."""
        wait_s = max(timeout_s, FRESHEN_S)
        try:
            async with asyncio.timeout(wait_s):  # clients give up half a second later
                return await self._work.resolve(activity, batch, wait_s)
        except TimeoutError:
            return batch
        except ShemError as error:
            log.info("batch.not_resolved", batch=batch.batch_id, reason=error.message)
            return batch

    async def _fresh(self, activity: Activity, batch: Batch) -> Batch:
        try:
            return await self._puller.pull(activity, batch, 0.0)
        except ShemError:
            return batch

    async def _results_of_elsewhere(
        self, activity: Activity, batch_id: str, timeout_s: float, command_index: int | None
    ) -> list[Result]:
        """Pass on what the provider says of a batch that this node did not send."""
        reply = await self._peers.ask(
            activity.identity,
            activity.provider,
            f"exeunit/{activity.activity_id}/GetExecBatchResults",
            messages.get_results(activity.activity_id, batch_id, timeout_s, command_index),
            timeout_s=timeout_s + ANSWER_GRACE_S,
            transfer=True,
        )
        entries = parse_results(reply, None)
        assert isinstance(reply, list)
        for entry, said in zip(entries, reply, strict=True):
            entry["isBatchFinished"] = said.get("isBatchFinished") is True
        return entries

    async def batches(self, activity: Activity) -> list[dict[str, object]]:
        """List the activity's batches, oldest first; unanswered ones are asked for first."""
        for batch in await ledger.load_open(self._store.fetch, activity.activity_id):
            if batch.state not in SENDABLE:
                continue
            try:
                self._puller.watch(await self._work.resolve(activity, batch, RESOLVE_S))
            except (Unreachable, TimedOut):
                break
            except ShemError as error:
                log.info("batch.not_resolved", batch=batch.batch_id, reason=error.message)
        rows = await ledger.load_batches(self._store.fetch, activity.activity_id)
        return [ledger.listed(batch, script) for batch, script in rows]

    async def running_command(self, activity: Activity, timeout_s: float) -> list[object]:
        """Ask the ExeUnit what it runs; NotFound when nothing."""
        reply = await self._peers.ask(
            activity.identity,
            activity.provider,
            f"exeunit/{activity.activity_id}/GetRunningCommand",
            {"activityId": activity.activity_id, "timeout": timeout_s},
            timeout_s=timeout_s + ANSWER_GRACE_S,
        )
        if not isinstance(reply, list):
            raise WireError("GetRunningCommand is answered with a list")
        return reply

    async def state(self, activity: Activity, timeout_s: float) -> ActivityState:
        """Return the state as the provider tells it; after the end, as it was stored."""
        if activity.state.ended:
            return activity.state
        reply = await self._ask_about(activity, "GetActivityState", timeout_s)
        state = parse_state(reply)
        await keep_state(self._store, self._world, activity, state)
        if state.ended:
            await self._last_usage(activity, timeout_s)
        return state

    async def usage(self, activity: Activity, timeout_s: float) -> dict[str, object]:
        if activity.state.ended:
            return usage_body(activity.usage, activity.usage_ns)
        usage = parse_usage(await self._ask_about(activity, "GetActivityUsage", timeout_s))
        if usage.vector is None:
            return {"timestamp": usage.timestamp}
        async with self._store.unit(activity.activity_id) as unit:
            save_usage(unit, activity, usage.vector, self._world.clock.wall_ns())
        return {"currentUsage": list(usage.vector), "timestamp": usage.timestamp}

    async def _last_usage(self, activity: Activity, timeout_s: float) -> None:
        """Fetch the final usage: later reads answer from the store."""
        try:
            await self.usage(activity, timeout_s)
        except ShemError as error:
            log.info("activity.usage_failed", activity=activity.activity_id, reason=error.message)

    async def _ask_about(self, activity: Activity, message: str, timeout_s: float) -> object:
        return await self._peers.ask(
            activity.identity,
            activity.provider,
            f"activity/{message}",
            {"activityId": activity.activity_id, "timeout": timeout_s},
            timeout_s=timeout_s + ANSWER_GRACE_S,
        )


def _require_run(batch: Batch) -> None:
    """Raise NotFound for a batch that did not and will not run."""
    if batch.state is BatchState.NEVER:
        text = f"Not found: batch_id = {batch.batch_id}: it never ran and never will"
        raise NotFound(text, code="batch-never")
    if batch.state is BatchState.REFUSED:
        text = f"Not found: batch_id = {batch.batch_id}: refused ({batch.message})"
        raise NotFound(text, code="batch-refused")
