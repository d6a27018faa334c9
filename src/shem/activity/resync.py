"""What a requestor's node asks after an absence, so that it tells the present and not the past.

For every provider of living activities, when this node starts and whenever the provider shows up,
is lost, or leaves a create without an answer: first the intents that it left unanswered, then state
and usage of each activity, oldest first and a few at a time; once in a run also which batches there
are, lest the store was put back to an earlier state. (Missed results are the puller's; it
is woken by the session that the first answer brings.) A provider that is away is tried again, every
few seconds, and at once when it shows a sign of life. Memory: one task per provider, a page of
activities each; interactive calls come in between.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog

from shem.activity.creator import Creator
from shem.activity.intents import load_unanswering
from shem.activity.reading import Reading
from shem.activity.records import Activity, alive_at, providers_of_alive
from shem.activity.takeup import TakeUp
from shem.kernel.errors import ShemError, TimedOut, Unreachable
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.store.unit import Store, StoreClosed

log = structlog.get_logger()

PROVIDERS_MAX: Final = 1_000
AT_ONCE_MAX: Final = 64
"""Questions under way, over all providers."""
PAGE_MAX: Final = 100
ASK_TIMEOUT_S: Final = 5.0
PERIOD_MIN_S: Final = 10.0
"""Between two looks at one provider, however often it shows up."""
LOOKS_MAX: Final = 360
"""For the batches of an activity whose ExeUnit did not tell them: an hour."""
BACKOFF_MIN_S: Final = 1.0
BACKOFF_MAX_S: Final = 4.0


@dataclass(slots=True)
class _Meeting:
    """One provider's task."""

    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Resync:
    """Looks after what was missed."""

    def __init__(
        self, store: Store, reading: Reading, creator: Creator, takeup: TakeUp, world: World
    ) -> None:
        self._store = store
        self._reading = reading
        self._creator = creator
        self._takeup = takeup
        self._news = asyncio.Event()
        self._met: set[NodeId] = set()
        """Providers that were asked about everything in this run."""
        self._world = world
        self._scope: TaskScope | None = None
        self._meetings: dict[NodeId, _Meeting] = {}
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)

    async def start(self, scope: TaskScope) -> None:
        """Begin with all providers that this node has to do with."""
        self._scope = scope
        fetch = self._store.fetch
        known = [*await load_unanswering(fetch), *await providers_of_alive(fetch)]
        for provider in dict.fromkeys(known):
            self.peer_changed(provider)

    def peer_changed(self, node_id: NodeId) -> None:
        """A node showed up, was lost, or left us without an answer: ask it until it has answered.

        Nodes that are no providers of ours are not asked anything.
        """
        meeting = self._meetings.get(node_id)
        if meeting is not None:
            meeting.wake.set()
        elif self._scope is not None and len(self._meetings) < PROVIDERS_MAX:
            meeting = self._meetings[node_id] = _Meeting()
            self._scope.spawn(self._meet(node_id, meeting), f"resync with {node_id}")

    async def _meet(self, provider: NodeId, meeting: _Meeting) -> None:
        backoff_s = BACKOFF_MIN_S
        try:
            while True:
                meeting.wake.clear()
                try:
                    await self._look(provider)
                except (Unreachable, TimedOut) as error:
                    log.debug("resync.away", peer=provider, reason=error.message)
                    await self._pause(meeting, backoff_s * (0.8 + 0.4 * self._world.rng.unit()))
                    backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
                    continue
                await self._world.clock.sleep(PERIOD_MIN_S)
                if not meeting.wake.is_set():
                    return
                backoff_s = BACKOFF_MIN_S
        except StoreClosed:
            return
        except ShemError as error:
            log.warning("resync.failed", peer=provider, reason=error.message)
        finally:
            del self._meetings[provider]
            self._tell()

    async def _pause(self, meeting: _Meeting, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await meeting.wake.wait()
        except TimeoutError:
            return

    async def _look(self, provider: NodeId) -> None:
        """Ask about everything once; raises when the provider cannot be asked."""
        await self._creator.reconcile(provider)
        cursor, seen = (0, ""), 0
        while page := await alive_at(self._store.fetch, provider, cursor, PAGE_MAX):
            if not seen:  # one question shows whether it is there; those who are not take no turn
                await self._refresh(page[0])
            await _all(self._in_turn(activity) for activity in page[0 if seen else 1 :])
            cursor, seen = (page[-1].created_ns, page[-1].activity_id), seen + len(page)
        if len(self._met) < PROVIDERS_MAX:
            self._met.add(provider)
        self._tell()
        if seen:
            log.info("resync.done", peer=provider, activities=seen)

    async def _in_turn(self, activity: Activity) -> None:
        async with self._slots:
            await self._refresh(activity)

    async def _refresh(self, activity: Activity) -> None:
        try:
            state = await self._reading.state(activity, ASK_TIMEOUT_S)
            if not state.ended:
                await self._reading.usage(activity, ASK_TIMEOUT_S)
            if activity.provider not in self._met:
                await self._look_behind(activity)
        except (Unreachable, TimedOut, StoreClosed):
            raise
        except ShemError as error:
            log.info("resync.not_told", activity=activity.activity_id, reason=error.message)

    async def _look_behind(self, activity: Activity) -> None:
        """Find unknown batches.

        An ExeUnit that hangs holds up nobody else; what an ended one left may still be on its way.
        """
        try:
            await self._takeup.look_behind(activity)
        except TimedOut:
            assert self._scope is not None
            if self._scope.size < PROVIDERS_MAX:
                name = f"batches of {activity.activity_id}"
                self._scope.spawn(self._look_again(activity), name)

    async def _look_again(self, activity: Activity) -> None:
        for _ in range(LOOKS_MAX):
            await self._world.clock.sleep(PERIOD_MIN_S)
            try:
                await self._takeup.look_behind(activity)
            except (Unreachable, TimedOut):
                continue
            except ShemError as error:
                log.info("batches.not_told", activity=activity.activity_id, reason=error.message)
            return

    async def caught_up(self, provider: NodeId, within_s: float) -> None:
        """Wait until the provider was asked about everything in this run, if that is under way."""
        try:
            async with asyncio.timeout(within_s):
                while provider in self._meetings and provider not in self._met:
                    await self._news.wait()
        except TimeoutError:
            return

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


async def _all(works: Iterable[Coroutine[object, object, None]]) -> None:
    """Run all; the first failure ends the others and comes out as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
