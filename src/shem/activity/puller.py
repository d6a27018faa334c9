"""Pulls the results of every open batch into the store, so that they outlive program and ExeUnit.

One task per accepted, unfinished batch: first a poll for everything so far, then a long poll for
each next command. An outage is sat out (0.5 s … 30 s, cut short by a sign of life). When the
activity has ended and its ExeUnit is gone, the batch gets a last entry that says so: the outcome of
that command is unknown, and nobody polls for ever (docs/protocol/activity-exeunit.md §5.7, §8.2).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from shem.activity import ledger, messages
from shem.activity.batches import BatchState
from shem.activity.ledger import Batch
from shem.activity.messages import EndpointGone, ProviderTimedOut
from shem.activity.peer import ANSWER_GRACE_S, Peers
from shem.activity.records import Activity, Role, load_activity, save_state
from shem.activity.results import Result, fresh_results, interrupted, parse_results
from shem.activity.states import ActivityState, State, parse_state
from shem.kernel.errors import ShemError, TimedOut, Unreachable
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.store.unit import Store, StoreClosed

log = structlog.get_logger()

LONG_POLL_S: Final = 20.0
CATCH_UP_S: Final = 5.0
"""Bound of a poll that does not wait for anything new."""
STATE_TIMEOUT_S: Final = 5.0
BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
PULLS_MAX: Final = 64
"""Long polls under way at once; further batches wait for their turn."""


class Puller:
    """Keeps the ledger's results up to date."""

    def __init__(
        self,
        store: Store,
        peers: Peers,
        world: World,
        agreement_over: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._store = store
        self._peers = peers
        self._agreement_over = agreement_over
        self._world = world
        self._scope: TaskScope | None = None
        self._watched: set[tuple[str, str]] = set()
        self._slots = asyncio.Semaphore(PULLS_MAX)

    async def start(self, scope: TaskScope) -> None:
        """Take up the open batches of an earlier run."""
        self._scope = scope
        for batch in await ledger.load_open(self._store.fetch):
            self.watch(batch)

    def peer_alive(self, node_id: NodeId) -> None:
        """A sign of life: those who wait for this peer try again now."""
        self._store.topics.bump(_alive_topic(node_id))

    def watch(self, batch: Batch) -> None:
        """Pull an accepted batch until it is finished; watching twice is the same."""
        key = (batch.activity_id, batch.batch_id)
        if self._scope is None or not batch.open or key in self._watched:
            return
        self._watched.add(key)
        self._scope.spawn(self._follow(batch), f"pull {batch.batch_id}")

    async def _follow(self, batch: Batch) -> None:
        try:
            activity = await load_activity(self._store.fetch, batch.activity_id, Role.REQUESTOR)
            if activity is not None:
                await self._pull_to_the_end(activity, batch)
        except StoreClosed:
            return
        except ShemError as error:
            log.warning("batch.pull_stopped", batch=batch.batch_id, reason=error.message)
        finally:
            self._watched.discard((batch.activity_id, batch.batch_id))

    async def _pull_to_the_end(self, activity: Activity, batch: Batch) -> None:
        backoff_s = BACKOFF_MIN_S
        waiting = False
        topics = self._store.topics
        while batch.open:
            alive = topics.version(_alive_topic(activity.provider))
            try:
                async with self._slots:
                    before, started = batch.stored, self._world.clock.monotonic()
                    batch = await self.pull(activity, batch, LONG_POLL_S if waiting else 0.0)
                brief = self._world.clock.monotonic() - started < BACKOFF_MIN_S
                idle = waiting and brief and batch.stored == before
                waiting = True
                if not idle:
                    backoff_s = BACKOFF_MIN_S
                    continue
            except EndpointGone:
                waiting = False
                if await self._is_over(activity):
                    await self._conclude(activity, batch)
                    return
            except ShemError as error:
                waiting = False
                log.info("batch.pull_failed", batch=batch.batch_id, reason=error.message)
            jitter = 0.8 + 0.4 * self._world.rng.unit()
            await topics.changed(_alive_topic(activity.provider), alive, backoff_s * jitter)
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    async def pull(self, activity: Activity, batch: Batch, wait_s: float) -> Batch:
        """Poll once and store what is new: for the next command, or for all without waiting."""
        index = batch.stored if wait_s > 0 else None
        body = messages.get_results(batch.activity_id, batch.batch_id, wait_s, index)
        try:
            reply = await self._peers.ask(
                activity.identity,
                activity.provider,
                f"exeunit/{batch.activity_id}/GetExecBatchResults",
                body,
                timeout_s=(wait_s or CATCH_UP_S) + ANSWER_GRACE_S,
                transfer=True,
            )
        except ProviderTimedOut:
            return batch
        return await self._store_results(batch, parse_results(reply, batch.commands), index)

    async def _store_results(self, batch: Batch, entries: list[Result], index: int | None) -> Batch:
        async with self._store.unit(batch.activity_id) as unit:
            known = await ledger.load_batch(unit.fetch, batch.activity_id, batch.batch_id)
            assert known is not None
            fresh = fresh_results(known.coverage, entries, index)
            if fresh:
                ledger.save_results(unit, known, fresh)
        return await self._reload(batch)

    async def _reload(self, batch: Batch) -> Batch:
        known = await ledger.load_batch(self._store.fetch, batch.activity_id, batch.batch_id)
        assert known is not None
        return known

    async def pull_all(self, activity: Activity) -> None:
        """Fetch what there is for every open batch of an activity that is about to end.

        Raises while the provider cannot be asked; what it refuses to give is not waited for.
        """
        for batch in await ledger.load_open(self._store.fetch, activity.activity_id):
            if batch.state is not BatchState.ACCEPTED:
                continue
            try:
                await self.pull(activity, batch, 0.0)
            except (Unreachable, TimedOut):
                raise
            except ShemError as error:
                log.info("batch.last_pull_failed", batch=batch.batch_id, reason=error.message)

    async def refresh_state(self, activity: Activity) -> ActivityState:
        """Ask the provider for the state and remember it."""
        body = {"activityId": activity.activity_id, "timeout": STATE_TIMEOUT_S}
        reply = await self._peers.ask(
            activity.identity,
            activity.provider,
            "activity/GetActivityState",
            body,
            timeout_s=STATE_TIMEOUT_S + ANSWER_GRACE_S,
        )
        state = parse_state(reply)
        await keep_state(self._store, self._world, activity, state)
        return state

    async def _is_over(self, activity: Activity) -> bool:
        """Tell whether an ExeUnit that is not there will not come back."""
        known = await load_activity(self._store.fetch, activity.activity_id, Role.REQUESTOR)
        if known is not None and known.state.ended:
            return True
        if await self._agreement_over(activity.agreement_id):
            return True
        try:
            return (await self.refresh_state(activity)).current is State.TERMINATED
        except ShemError as error:
            log.info("activity.state_failed", activity=activity.activity_id, reason=error.message)
            return False

    async def _conclude(self, activity: Activity, batch: Batch) -> None:
        """Note that the rest of a batch will never be known."""
        known = await load_activity(self._store.fetch, activity.activity_id, Role.REQUESTOR)
        state = activity.state if known is None else known.state
        why = f"the activity ended ({state.reason or state.error_message or 'no reason given'})"
        log.info("batch.interrupted", activity=batch.activity_id, batch=batch.batch_id)
        async with self._store.unit(batch.activity_id) as unit:
            fresh = await ledger.load_batch(unit.fetch, batch.activity_id, batch.batch_id)
            assert fresh is not None
            if fresh.open:
                last = interrupted(fresh.stored, why, self._world.clock.wall_ns())
                ledger.save_results(unit, fresh, [last])


async def keep_state(store: Store, world: World, activity: Activity, state: ActivityState) -> None:
    """Store what the provider said of a requestor's activity; the end is never taken back."""
    async with store.unit(activity.activity_id) as unit:
        known = await load_activity(unit.fetch, activity.activity_id, Role.REQUESTOR)
        if known is not None and not known.state.ended and known.state != state:
            save_state(unit, known, state, world.clock.wall_ns())


def _alive_topic(node_id: NodeId) -> str:
    return f"activity.peer:{node_id}"
