"""Pulls the results of every open batch into the store, so that they outlive program and ExeUnit.

One task per unfinished batch: first a poll for everything so far, then a long poll for each next
command. An outage is sat out (0.5 s … 30 s, cut short by a sign of life). A batch without an answer
is looked for in the same way: results prove that it was accepted, their absence proves nothing, and
it stays unknown until somebody asks. When the activity has ended and its ExeUnit is gone, the batch
gets a last entry that says so: the outcome of that command is unknown, and nobody polls for ever
(docs/protocol/activity-exeunit.md §5.7, §8.2).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from shem.activity import ledger, messages
from shem.activity.batches import BatchState, News, learn
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

GONE_S: Final = 2.0
"""So long nobody answers for an ended activity before its results are lost: an agent at a yagna
takes the place of its ExeUnit."""
LONG_POLL_S: Final = 20.0
CATCH_UP_S: Final = 5.0
"""Bound of a poll that does not wait for anything new."""
STATE_TIMEOUT_S: Final = 5.0
BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
CATCH_UPS_MAX: Final = 16
"""Polls for what was missed under way at once, oldest batch first: their answers may be large."""
LONG_POLLS_MAX: Final = 4_096
"""Polls that wait for the next result; further batches wait for their turn."""


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
        self._pulls: dict[tuple[str, str], _Pull] = {}
        self._catch_ups = asyncio.Semaphore(CATCH_UPS_MAX)
        self._long_polls = asyncio.Semaphore(LONG_POLLS_MAX)
        self._has_more = False
        """Whether there are open batches that nobody pulls yet."""

    async def start(self, scope: TaskScope) -> None:
        """Take up the unfinished batches of an earlier run."""
        self._scope = scope
        await self._take_up()

    async def _take_up(self) -> None:
        """Pull the oldest open batches, as many as are looked at together."""
        batches = await ledger.load_open(self._store.fetch)
        self._has_more = len(batches) >= ledger.OPEN_MAX
        for batch in batches:
            if (batch.activity_id, batch.batch_id) not in self._pulls:
                self.watch(batch)

    def peer_alive(self, node_id: NodeId) -> None:
        """A sign of life: those who wait for this peer try again now."""
        for pull in self._pulls.values():
            if pull.provider == node_id:
                pull.wake.set()

    def watch(self, batch: Batch) -> None:
        """Pull a batch until it is finished; watching again makes a waiting pull try now."""
        key = (batch.activity_id, batch.batch_id)
        if key in self._pulls:
            self._pulls[key].wake.set()
        elif self._scope is not None and batch.pullable:
            pull = self._pulls[key] = _Pull()
            self._scope.spawn(self._follow(batch, pull), f"pull {batch.batch_id}")

    async def _follow(self, batch: Batch, pull: "_Pull") -> None:
        try:
            activity = await load_activity(self._store.fetch, batch.activity_id, Role.REQUESTOR)
            if activity is not None:
                pull.provider = activity.provider
                await self._pull_to_the_end(activity, batch, pull)
        except StoreClosed:
            return
        except ShemError as error:
            log.warning("batch.pull_stopped", batch=batch.batch_id, reason=error.message)
        finally:
            del self._pulls[batch.activity_id, batch.batch_id]
        if self._has_more and len(self._pulls) < ledger.OPEN_MAX // 2:
            await self._take_up()

    async def _pull_to_the_end(self, activity: Activity, batch: Batch, pull: "_Pull") -> None:
        backoff_s = BACKOFF_MIN_S
        waiting = False
        gone_at: float | None = None
        while batch.pullable:
            pull.wake.clear()
            try:
                async with self._long_polls if waiting else self._catch_ups:
                    before, started = batch.stored, self._world.clock.monotonic()
                    batch = await self.pull(activity, batch, LONG_POLL_S if waiting else 0.0)
                brief = self._world.clock.monotonic() - started < BACKOFF_MIN_S
                idle = waiting and brief and batch.stored == before
                waiting, gone_at = True, None
                if not idle:
                    backoff_s = BACKOFF_MIN_S
                    continue
            except EndpointGone:
                waiting = False
                now = self._world.clock.monotonic()
                gone_at = now if gone_at is None else gone_at
                if await self._is_over(activity) and now - gone_at >= GONE_S:
                    await self._conclude(activity, batch)
                    return
            except ShemError as error:
                waiting = False
                log.info("batch.pull_failed", batch=batch.batch_id, reason=error.message)
            await pull.pause(backoff_s * (0.8 + 0.4 * self._world.rng.unit()))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
            batch = await self._reload(batch)

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
            # an empty answer may be the node's, for an ExeUnit that is not there: no proof
            if entries and learn(known.state, News.ACCEPTED) is BatchState.ACCEPTED:
                if known.state is not BatchState.ACCEPTED:
                    ledger.save_batch_state(unit, known, BatchState.ACCEPTED, None)
                if fresh := fresh_results(known.coverage, entries, index):
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
            if not batch.pullable:
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


@dataclass(slots=True)
class _Pull:
    """One batch's task: whom it asks, and what cuts its waiting short."""

    provider: NodeId | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            return
