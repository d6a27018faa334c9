"""Ending an activity from the requestor's side, also while the provider is away.

The wish is committed with its message to the provider; the outbox delivers it, at once or when the
provider is back, and each delivery first pulls the results that would be lost. A REST call waits
for the first outcome within its own time (docs/protocol/activity-exeunit.md §5.2, §5.7).
Failpoints: `destroy.posted`, `destroy.answered`.
"""

import asyncio
from typing import Final

import structlog

from shem.activity import messages
from shem.activity.batchwork import BatchWork
from shem.activity.messages import ProviderTimedOut, parse_usage
from shem.activity.peer import ANSWER_GRACE_S, Peers
from shem.activity.puller import Puller, keep_state
from shem.activity.records import Activity, Role, load_activity, save_destroy, save_usage
from shem.activity.states import ActivityState, State
from shem.kernel import failpoints
from shem.kernel.errors import Denied, NotFound, ShemError, TimedOut, Unreachable, UsageError
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.store.outbox import DONE, Drop, Outbox, OutboxRow, Outcome, Retry
from shem.store.unit import Store

log = structlog.get_logger()

KIND: Final = "activity.destroy"
DEFAULT_TIMEOUT_S: Final = 5.0
USAGE_TIMEOUT_S: Final = 2.0
GIVE_UP_NS: Final = 7 * 24 * 3600 * NS_PER_S
"""A provider that answers `timeout` for so long will not end it for being told once more."""


class Destroyer:
    """Posts and delivers DestroyActivity."""

    def __init__(
        self,
        store: Store,
        peers: Peers,
        outbox: Outbox,
        *,
        work: BatchWork,
        puller: Puller,
        world: World,
    ) -> None:
        self._store = store
        self._peers = peers
        self._outbox = outbox
        self._work = work
        self._puller = puller
        self._world = world
        self._waiting: dict[str, set[asyncio.Future[ShemError | None]]] = {}
        outbox.register(KIND, self._deliver)

    async def destroy(self, activity: Activity, timeout_s: float) -> None:
        """End the activity; returns also when the provider is away and will be told later."""
        if activity.state.ended:
            return
        future: asyncio.Future[ShemError | None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(activity.activity_id, set())
        waiting.add(future)
        try:
            await self._post(activity, timeout_s)
            failpoints.passing("destroy.posted")
            self._outbox.peer_alive(activity.provider)
            await asyncio.wait((future,), timeout=timeout_s + ANSWER_GRACE_S)
        finally:
            waiting.discard(future)
            if not waiting and self._waiting.get(activity.activity_id) is waiting:
                del self._waiting[activity.activity_id]
        error = future.result() if future.done() else None
        if error is None or isinstance(error, Unreachable):
            return
        if isinstance(error, TimedOut) and not isinstance(error, ProviderTimedOut):
            return
        raise error

    async def _post(self, activity: Activity, timeout_s: float) -> None:
        async with self._store.unit(activity.activity_id) as unit:
            known = await load_activity(unit.fetch, activity.activity_id, Role.REQUESTOR)
            if known is None or known.state.ended:
                return
            destroy_ns = known.destroy_ns
            if destroy_ns is None:
                destroy_ns = self._world.clock.wall_ns()
                save_destroy(unit, known, destroy_ns)
            unit.post(
                identity=known.identity,
                peer=known.provider,
                lane=f"activity:{known.activity_id}",
                kind=KIND,
                key=f"{known.activity_id}:{destroy_ns}",
                payload={"activityId": known.activity_id, "timeout": timeout_s},
            )

    async def _deliver(self, row: OutboxRow) -> Outcome:
        activity = await load_activity(self._store.fetch, row.payload["activityId"], Role.REQUESTOR)
        if activity is None:
            return Drop("no such activity here")
        outcome, error = await self._attempt(activity, row)
        for future in self._waiting.get(activity.activity_id, ()):
            if not future.done():
                future.set_result(error)
        return outcome

    async def _attempt(
        self, activity: Activity, row: OutboxRow
    ) -> tuple[Outcome, ShemError | None]:
        if activity.state.ended:
            return DONE, None
        timeout_s = float(row.payload["timeout"])
        body = messages.destroy_activity(activity.agreement_id, activity.activity_id, timeout_s)
        try:
            await self._work.resolve_all(activity)
            await self._puller.pull_all(activity)
            await self._peers.ask(
                activity.identity,
                activity.provider,
                "activity/DestroyActivity",
                body,
                timeout_s=timeout_s + ANSWER_GRACE_S,
            )
        except (Denied, NotFound, UsageError) as error:
            await self._take_back(activity)
            return Drop(error.message), error
        except ShemError as error:
            if "Not found: agreement id for activity" not in error.message:
                old = self._world.clock.wall_ns() - row.created_ns > GIVE_UP_NS
                return (Drop if old else Retry)(error.message), error
            log.info("destroy.unknown_to_provider", activity=activity.activity_id)
        failpoints.passing("destroy.answered")
        await self._last_usage(activity)
        await keep_state(self._store, self._world, activity, ActivityState(State.TERMINATED))
        return DONE, None

    async def _take_back(self, activity: Activity) -> None:
        async with self._store.unit(activity.activity_id) as unit:
            save_destroy(unit, activity, None)

    async def _last_usage(self, activity: Activity) -> None:
        """Read the final usage, which nobody could ask for afterwards."""
        body = {"activityId": activity.activity_id, "timeout": USAGE_TIMEOUT_S}
        try:
            reply = await self._peers.ask(
                activity.identity,
                activity.provider,
                "activity/GetActivityUsage",
                body,
                timeout_s=USAGE_TIMEOUT_S,
            )
            usage = parse_usage(reply)
        except ShemError as error:
            log.info("destroy.usage_failed", activity=activity.activity_id, reason=error.message)
            return
        if usage.vector is not None:
            async with self._store.unit(activity.activity_id) as unit:
                save_usage(unit, activity, usage.vector, self._world.clock.wall_ns())
