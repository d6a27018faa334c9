"""Messages to peers: stored with the act that causes them, delivered until the peer has them.

`Unit.post` leaves a row; this service delivers it at least once. Rows of one lane (identity, peer,
lane) are delivered one after another in the order of their commits; lanes never wait for each
other. A failed delivery is repeated after 0.5 s, doubling up to 60 s; a sign of life of the peer
(`peer_alive`) shortens the wait to 2 s since the last attempt. The receiver makes repeats harmless
by the keys in the messages. A delivered row is remembered for a day, so that posting it again
changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from shem.kernel import failpoints
from shem.kernel.errors import ShemError, StorageFault
from shem.kernel.ids import NodeId
from shem.kernel.tasks import TaskScope
from shem.kernel.times import NS_PER_S
from shem.kernel.world import World
from shem.store.lane import BACKOFF_MIN_S, Lane, LaneKey
from shem.store.unit import OUTBOX_TOPIC, Row, Store, StoreClosed, Unit

log = structlog.get_logger()

ATTEMPT_MAX_S: Final = 120.0
"""A guard: deliverers have their own, shorter timeouts."""
RETRIES_AT_ONCE_MAX: Final = 64
"""Retries and what a start finds share these; new rows and those of a peer come alive do not."""
SCAN_ROWS: Final = 1_000
SCAN_INTERVAL_S: Final = 60.0
PENDING_MAX: Final = 1_000
DONE_KEPT_NS: Final = 24 * 3600 * NS_PER_S
DEAD_KEPT_NS: Final = 30 * 24 * 3600 * NS_PER_S
PURGE_ROWS: Final = 1_000
PURGE_INTERVAL_S: Final = 3600.0

_COLUMNS: Final = "id, identity, peer, lane, kind, key, payload, attempts, created_ns"
_NEW: Final = """
    SELECT id, identity, peer, lane FROM outbox
    WHERE state = 'ready' AND id > :seen ORDER BY id LIMIT :limit
"""
_NEXT: Final = f"""
    SELECT {_COLUMNS} FROM outbox
    WHERE identity = :identity AND peer = :peer AND lane = :lane AND state = 'ready' AND id > :last
    ORDER BY id LIMIT 1
"""
_SETTLE: Final = """
    UPDATE outbox SET state = :state, payload = 'null', attempts = attempts + 1,
        last_error = :reason, settled_ns = :now_ns
    WHERE id = :id AND state = 'ready'
"""
_FAILED: Final = """
    UPDATE outbox SET attempts = attempts + 1, last_error = :reason
    WHERE id = :id AND state = 'ready'
"""
_PURGE: Final = """
    DELETE FROM outbox WHERE id IN (
        SELECT id FROM outbox
        WHERE (state = 'done' AND settled_ns < :done) OR (state = 'dead' AND settled_ns < :dead)
        LIMIT :limit)
"""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One message; `attempts` counts those whose end was recorded."""

    id: int
    identity: NodeId
    peer: NodeId
    lane: str
    kind: str
    key: str
    payload: Any
    attempts: int
    created_ns: int


@dataclass(frozen=True, slots=True)
class Done:
    """The peer has it; `note` writes what else is to be kept with that."""

    note: Callable[[Unit], None] | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """It is not known whether the peer has it: say it again later."""

    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """It can never be delivered: give up, and let the lane go on."""

    reason: str


DONE: Final = Done()
Outcome = Done | Retry | Drop
Deliver = Callable[[OutboxRow], Awaitable[Outcome]]


class Outbox:
    """Delivers what units of work posted; `run` is its service loop."""

    def __init__(self, store: Store, world: World) -> None:
        self._store = store
        self._world = world
        self._deliverers: dict[str, Deliver] = {}
        self._lanes: dict[LaneKey, Lane] = {}
        self._peers: dict[NodeId, set[LaneKey]] = {}
        self._retrying = 0
        self._queued: dict[LaneKey, Lane] = {}
        self._purge_due = 0.0

    def register(self, kind: str, deliver: Deliver) -> None:
        """Name the deliverer of a kind of message."""
        if kind in self._deliverers:
            raise ValueError(f"messages of kind {kind!r} have a deliverer already")
        self._deliverers[kind] = deliver
        for lane in self._lanes.values():
            lane.kick()

    def peer_alive(self, node_id: NodeId) -> None:
        """Deliver soon what waits for this peer; cheap when nothing does."""
        for key in self._peers.get(node_id, ()):
            self._lanes[key].kick()

    async def pending(self, **filters: str) -> list[OutboxRow]:
        """Return undelivered rows, oldest first, by identity, peer, lane, kind or key."""
        unknown = filters.keys() - {"identity", "peer", "lane", "kind", "key"}
        if unknown:
            raise TypeError(f"no such filter: {sorted(unknown)}")
        conditions = "".join(f" AND {name} = :{name}" for name in filters)
        sql = f"SELECT {_COLUMNS} FROM outbox WHERE state = 'ready'{conditions} ORDER BY id"
        rows = await self._store.fetch(f"{sql} LIMIT :limit", limit=PENDING_MAX, **filters)
        return [_row(row) for row in rows]

    async def run(self) -> None:
        """Deliver until the store is closed."""
        topics = self._store.topics
        seen = 0
        recovered = True
        async with TaskScope() as scope:
            while True:
                version = topics.version(OUTBOX_TOPIC)
                try:
                    seen = await self._start_lanes(scope, seen, recovered)
                    await self._purge()
                except StoreClosed:
                    return
                except StorageFault as fault:
                    log.warning("outbox.scan_failed", reason=fault.message)
                    await self._world.clock.sleep(BACKOFF_MIN_S)
                    continue
                recovered = False
                await topics.changed(OUTBOX_TOPIC, version, SCAN_INTERVAL_S)

    async def _start_lanes(self, scope: TaskScope, seen: int, recovered: bool) -> int:
        """Start a worker for each lane with rows newer than `seen`; return the newest."""
        rows: list[Row] | None = None
        while rows is None or len(rows) >= SCAN_ROWS:
            rows = await self._store.fetch(_NEW, seen=seen, limit=SCAN_ROWS)
            for row in rows:
                seen = row["id"]
                key = LaneKey(row["identity"], row["peer"], row["lane"])
                if key in self._lanes:
                    self._lanes[key].more = True
                    continue
                lane = self._lanes[key] = Lane(key, recovered)
                self._peers.setdefault(key.peer, set()).add(key)
                scope.spawn(self._work(lane), f"outbox {key.peer} {key.lane}")
        return seen

    async def _work(self, lane: Lane) -> None:
        """Deliver the rows of one lane in order; ends when there are none."""
        while lane.more:
            lane.more = False
            try:
                row = await self._next(lane.key)
                while row is not None:
                    row = await self._step(lane, row)
            except StoreClosed:
                break
            except StorageFault as fault:
                log.warning("outbox.store_failed", peer=lane.key.peer, reason=fault.message)
                lane.more = True
                lane.failed(self._world.rng.unit())
                await lane.pause(self._world.clock.monotonic)
        del self._lanes[lane.key]
        lanes = self._peers[lane.key.peer]
        lanes.discard(lane.key)
        if not lanes:
            del self._peers[lane.key.peer]

    async def _next(self, key: LaneKey, last: int = 0) -> OutboxRow | None:
        rows = await self._store.fetch(_NEXT, **key._asdict(), last=last)
        return _row(rows[0]) if rows else None

    async def _step(self, lane: Lane, row: OutboxRow) -> OutboxRow | None:
        """Attempt one delivery, record its outcome and return what to deliver next."""
        hurry = lane.kicked or (lane.failures == 0 and not lane.recovered)
        if not hurry and self._retrying >= RETRIES_AT_ONCE_MAX:
            await self._queue_up(lane)
            return row
        lane.kicked = False
        self._retrying += not hurry
        try:
            outcome = await self._attempt(row)
        finally:
            if not hurry:
                self._hand_on()
        failpoints.passing("outbox.delivered_before_settled")
        if isinstance(outcome, Retry):
            lane.failed(self._world.rng.unit())
            log.info("outbox.retry", peer=row.peer, kind=row.kind, reason=outcome.reason)
            async with self._store.unit(f"outbox:{row.id}") as unit:
                unit.execute(_FAILED, id=row.id, reason=outcome.reason)
            await lane.pause(self._world.clock.monotonic)
            return await self._next(lane.key)
        reason = outcome.reason if isinstance(outcome, Drop) else None
        if reason is not None:
            log.warning("outbox.dropped", peer=row.peer, kind=row.kind, reason=reason)
        following = await self._next(lane.key, row.id)
        async with self._store.unit(f"outbox:{row.id}", patient=following is None) as unit:
            if isinstance(outcome, Done) and outcome.note is not None:
                outcome.note(unit)
            unit.execute(
                _SETTLE,
                id=row.id,
                state="done" if reason is None else "dead",
                reason=reason,
                now_ns=self._world.clock.wall_ns(),
            )
        lane.failures = 0
        lane.recovered = False
        return following

    async def _queue_up(self, lane: Lane) -> None:
        """Wait until another retry has ended, or for a sign of life."""
        self._queued[lane.key] = lane
        lane.wake.clear()
        await lane.wake.wait()
        self._queued.pop(lane.key, None)

    def _hand_on(self) -> None:
        self._retrying -= 1
        if self._queued:
            self._queued.pop(next(iter(self._queued))).wake.set()

    async def _attempt(self, row: OutboxRow) -> Outcome:
        deliver = self._deliverers.get(row.kind)
        if deliver is None:
            return Retry(f"nobody delivers messages of kind {row.kind!r} yet")
        try:
            async with asyncio.timeout(ATTEMPT_MAX_S):
                return await deliver(row)
        except ShemError as error:
            return Retry(error.message)
        except TimeoutError:
            return Retry(f"no outcome within {ATTEMPT_MAX_S:.0f} s")
        except Exception as error:
            log.exception("outbox.deliverer_failed", peer=row.peer, kind=row.kind)
            return Retry(repr(error))

    async def _purge(self) -> None:
        """Forget now and then what was settled long ago."""
        if self._world.clock.monotonic() < self._purge_due:
            return
        self._purge_due = self._world.clock.monotonic() + PURGE_INTERVAL_S
        now_ns = self._world.clock.wall_ns()
        async with self._store.unit("outbox:purge") as unit:
            unit.execute(
                _PURGE, limit=PURGE_ROWS, done=now_ns - DONE_KEPT_NS, dead=now_ns - DEAD_KEPT_NS
            )


def _row(row: Row) -> OutboxRow:
    return OutboxRow(**{**row, "payload": msgspec.json.decode(row["payload"])})
