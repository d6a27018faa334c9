"""Sending batches at most once, and finding out what became of one.

The order is the point (docs/protocol/activity-exeunit.md §5.7): the intent is committed, then Exec
is sent, again and again under the same id while the call's time lasts; a provider runs an id at
most once, so a repeat is harmless. Without an answer the batch is `unknown`, until somebody asks:
`resolve` lets a shem ExeUnit note down its final word. Failpoints: `exec.intent_committed`,
`exec.answered`.
"""

import asyncio
from typing import Final
from weakref import WeakValueDictionary

import structlog

from shem.activity import ledger, messages
from shem.activity.batches import SENDABLE, BatchState, News, learn
from shem.activity.ledger import Batch
from shem.activity.messages import (
    DUPLICATE_WORDS,
    FEATURE_RESOLVE,
    NEVER_WORDS,
    EndpointGone,
    RemoteGsbError,
)
from shem.activity.peer import ANSWER_GRACE_S, Peers
from shem.activity.records import Activity
from shem.activity.results import parse_results
from shem.activity.script import Script
from shem.kernel import failpoints
from shem.kernel.errors import (
    Conflict,
    NotFound,
    ShemError,
    TimedOut,
    Unreachable,
    UsageError,
)
from shem.kernel.ids import BatchId
from shem.kernel.world import World
from shem.store.unit import Store
from shem.wire.errors import WireError

log = structlog.get_logger()

ATTEMPT_S: Final = 2.0
"""One Exec waits so long for its answer before it is repeated."""
RESOLVE_S: Final = 5.0
PAUSE_S: Final = 0.25
"""Between attempts while the provider is unreachable."""


class BatchWork:
    """The requestor's half of a batch's acceptance."""

    def __init__(self, store: Store, peers: Peers, world: World) -> None:
        self._store = store
        self._peers = peers
        self._world = world
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def _lock(self, activity_id: str, batch_id: str) -> asyncio.Lock:
        """One exec or resolution of a batch at a time."""
        return self._locks.setdefault((activity_id, batch_id), asyncio.Lock())

    async def recover(self) -> None:
        """Whether an earlier run sent its last intents is not known."""
        for batch in await ledger.load_open(self._store.fetch):
            if batch.state is BatchState.INTENT:
                await self.learned(batch, News.SILENCE)

    async def execute(
        self, activity: Activity, script: Script, batch_id: BatchId, timeout_s: float
    ) -> Batch:
        """Have the script accepted under `batch_id`; TimedOut leaves it unknown."""
        deadline = self._world.clock.monotonic() + timeout_s + ANSWER_GRACE_S
        try:
            async with asyncio.timeout(timeout_s + ANSWER_GRACE_S):
                lock = self._lock(activity.activity_id, batch_id)
                await lock.acquire()
        except TimeoutError as error:
            raise TimedOut(f"Timeout: another exec of batch {batch_id} is under way") from error
        try:
            batch = await self._intend(activity, script, batch_id)
            if batch.state in SENDABLE:
                return await self._send(activity, batch, script, deadline)
            return _settled(batch)
        finally:
            lock.release()

    async def _intend(self, activity: Activity, script: Script, batch_id: BatchId) -> Batch:
        """Commit the intent, or return what an earlier call with this id left."""
        fresh = Batch(
            activity_id=activity.activity_id,
            batch_id=batch_id,
            identity=activity.identity,
            agreement_id=activity.agreement_id,
            state=BatchState.INTENT,
            digest=script.digest,
            commands=len(script.commands),
            stored=0,
            failed=False,
            finished=False,
            message=None,
            created_ns=self._world.clock.wall_ns(),
        )
        async with self._store.unit(activity.activity_id) as unit:
            known = await ledger.load_batch(unit.fetch, activity.activity_id, batch_id)
            if known is None:
                ledger.save_batch(unit, fresh, script.text)
        if known is None:
            failpoints.passing("exec.intent_committed")
            return fresh
        if known.digest != script.digest:
            raise UsageError(f"Bad request: Batch {batch_id} already exists", code="batch-exists")
        if known.state is BatchState.INTENT:
            # its call was cancelled: whether anything was sent is not known
            return await self.learned(known, News.SILENCE)
        return known

    async def _send(
        self, activity: Activity, batch: Batch, script: Script, deadline: float
    ) -> Batch:
        clock = self._world.clock
        error: ShemError | None = None
        while (left_s := deadline - clock.monotonic()) > 0:
            started = clock.monotonic()
            news, error = await self._attempt(activity, batch, script, left_s)
            if news is not News.SILENCE:
                failpoints.passing("exec.answered")
            batch = await self.learned(batch, news, None if error is None else error.message)
            if batch.state is BatchState.ACCEPTED:
                return batch
            if news in (News.REFUSED, News.GONE):
                assert error is not None
                if batch.state is BatchState.UNKNOWN and news is News.REFUSED:
                    raise unanswered(batch.batch_id, error)
                raise error
            if batch.state is BatchState.NEVER:
                raise refusal(batch)
            spent_s = clock.monotonic() - started
            await clock.sleep(min(max(PAUSE_S - spent_s, 0.0), max(left_s - spent_s, 0.0)))
        raise unanswered(batch.batch_id)

    async def _attempt(
        self, activity: Activity, batch: Batch, script: Script, left_s: float
    ) -> tuple[News, ShemError | None]:
        """Send one Exec and say what its answer means."""
        body = messages.exec_batch(
            activity.activity_id,
            batch.batch_id,
            script.commands,
            max(left_s - ANSWER_GRACE_S, 0.0),
        )
        path = f"exeunit/{activity.activity_id}/Exec"
        wait_s = min(left_s, ATTEMPT_S)
        try:
            await self._peers.ask(
                activity.identity, activity.provider, path, body, timeout_s=wait_s
            )
        except (TimedOut, Unreachable) as error:
            return News.SILENCE, error
        except UsageError as error:
            if DUPLICATE_WORDS in error.message:
                return await self._duplicate(activity), error
            if NEVER_WORDS in error.message:  # a ResolveBatch whose answer did not reach us
                return News.NEVER, error
            return News.REFUSED, error
        except RemoteGsbError as error:
            # only an empty place proves that nothing ran: others may fail after the fact
            return News.GONE if isinstance(error, EndpointGone) else News.SILENCE, error
        except ShemError as error:
            return News.REFUSED, error
        return News.ACCEPTED, None

    async def _duplicate(self, activity: Activity) -> News:
        """Say what it means that the id exists: only a shem ExeUnit has compared the scripts."""
        resolves = await self._peers.can(activity.provider, FEATURE_RESOLVE)
        if resolves is None:
            return News.SILENCE
        return News.REFUSED if resolves else News.ACCEPTED

    async def learned(self, batch: Batch, news: News, message: str | None = None) -> Batch:
        """Commit what is known now; news against what was proven is not believed."""
        async with self._store.unit(batch.activity_id) as unit:
            known = await ledger.load_batch(unit.fetch, batch.activity_id, batch.batch_id)
            assert known is not None
            state = learn(known.state, news)
            if state is None:
                log.warning(
                    "batch.contradiction",
                    activity=batch.activity_id,
                    batch=batch.batch_id,
                    known=known.state.value,
                    news=news.value,
                )
            elif state is not known.state:
                why = message if state is BatchState.REFUSED else None
                known = ledger.save_batch_state(unit, known, state, why)
        return known

    async def resolve(self, activity: Activity, batch: Batch, timeout_s: float) -> Batch:
        """Ask the provider what became of a batch without an answer; returns what is known then."""
        lock = self._lock(batch.activity_id, batch.batch_id)
        if lock.locked():
            return batch
        async with lock:
            known = await ledger.load_batch(self._store.fetch, batch.activity_id, batch.batch_id)
            assert known is not None
            if known.state not in SENDABLE:
                return known
            if known.state is BatchState.INTENT:
                known = await self.learned(known, News.SILENCE)
            news = await self._ask(activity, known, timeout_s)
            return known if news is None else await self.learned(known, news)

    async def resolve_all(self, activity: Activity) -> None:
        """Settle every batch without an answer, before the ExeUnit that knows it is gone.

        Raises while the provider cannot be asked.
        """
        for batch in await ledger.load_open(self._store.fetch, activity.activity_id):
            if batch.state not in SENDABLE:
                continue
            try:
                await self.resolve(activity, batch, RESOLVE_S)
            except (Unreachable, TimedOut):
                raise
            except ShemError as error:
                log.info("batch.not_resolved", batch=batch.batch_id, reason=error.message)

    async def _ask(self, activity: Activity, batch: Batch, timeout_s: float) -> News | None:
        resolves = await self._peers.can(activity.provider, FEATURE_RESOLVE)
        if resolves is None:
            raise Unreachable(f"provider {activity.provider} cannot be asked now")
        if resolves:
            return await self._ask_resolve(activity, batch, timeout_s)
        body = messages.get_results(activity.activity_id, batch.batch_id, 0.0, None)
        path = f"exeunit/{activity.activity_id}/GetExecBatchResults"
        try:
            reply = await self._peers.ask(
                activity.identity,
                activity.provider,
                path,
                body,
                timeout_s=timeout_s + ANSWER_GRACE_S,
                transfer=True,
            )
        except NotFound:
            # an Exec under way may still arrive there: this proves nothing
            return None
        parse_results(reply, batch.commands)
        return News.ACCEPTED

    async def _ask_resolve(self, activity: Activity, batch: Batch, timeout_s: float) -> News:
        path = f"exeunit/{activity.activity_id}/ResolveBatch"
        body = {"activityId": activity.activity_id, "batchId": batch.batch_id}
        reply = await self._peers.ask(
            activity.identity,
            activity.provider,
            path,
            body,
            timeout_s=timeout_s + ANSWER_GRACE_S,
        )
        accepted = reply.get("accepted") if isinstance(reply, dict) else None
        if not isinstance(accepted, bool):
            raise WireError("ResolveBatch was not answered with `accepted`")
        return News.ACCEPTED if accepted else News.NEVER


def _settled(batch: Batch) -> Batch:
    """Return an accepted batch; raise what was learned of any other."""
    if batch.state is BatchState.ACCEPTED:
        return batch
    raise refusal(batch)


def unanswered(batch_id: str, later: ShemError | None = None) -> TimedOut:
    """Return the error of a batch that may have been accepted, whatever came `later`."""
    words = "" if later is None else f" at first, then: {later.message}"
    return TimedOut(f"Timeout: batch {batch_id} got no answer{words}; ask for it before repeating")


def refusal(batch: Batch) -> ShemError:
    """Return the error of a batch that did not run."""
    if batch.state is BatchState.NEVER:
        return Conflict(
            f"Batch {batch.batch_id} never ran and never will: use a new id", code="batch-never"
        )
    return Conflict(
        f"Batch {batch.batch_id} was refused: {batch.message or 'no reason given'}",
        code="batch-refused",
    )
