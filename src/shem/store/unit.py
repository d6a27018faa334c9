"""A unit of work: state, events for pollers and messages for peers in one transaction.

    async with store.unit(agreement_id) as unit:
        rows = await unit.fetch("SELECT … WHERE agreement_id = :id", id=agreement_id)
        unit.execute("UPDATE …", expect=1, id=agreement_id)
        unit.post(…)
        unit.notify(f"market.agreement:{agreement_id}")

One unit at a time runs per key, so what it read still holds when it writes. Writes are buffered
(reads do not see them) and run together on leaving the block, which returns after they are durable;
only then do pollers wake and messages leave. An exception in the block discards everything. Units
do not nest, and nothing from outside is awaited inside one. A caller that is cancelled during the
commit learns of it when the commit is done.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import msgspec
import structlog

from shem.kernel.errors import StorageFault, UsageError
from shem.kernel.ids import NodeId
from shem.store.sql import Value, clean
from shem.store.topics import TOPIC_LENGTH_MAX, Topics

log = structlog.get_logger()

Row = dict[str, Any]

STATEMENTS_MAX: Final = 10_000
PAYLOAD_SIZE_MAX: Final = 4 << 20
ROWS_MAX: Final = 100_000
OUTBOX_TOPIC: Final = "outbox"
_POST: Final = """
    INSERT INTO outbox (identity, peer, lane, kind, key, payload, state, attempts, created_ns)
    VALUES (:identity, :peer, :lane, :kind, :key, :payload, 'ready', 0, :created_ns)
    ON CONFLICT (identity, peer, kind, key) DO NOTHING
"""

T = TypeVar("T")


class StorageFull(StorageFault):
    """There is no room: nothing of the unit of work was kept, and it may be tried again."""

    status = 507
    code = "storage-full"

    def __init__(self) -> None:
        super().__init__("the disk is full")


class StoreClosed(StorageFault):
    """The store was closed by its owner."""

    code = "storage-closed"

    def __init__(self) -> None:
        super().__init__("the store is closed")


class Fetch(Protocol):
    """Reads committed state."""

    async def __call__(self, sql: str, /, **params: object) -> list[Row]: ...


class Store(Protocol):
    """What both engines offer."""

    topics: Topics

    async def fetch(self, sql: str, /, **params: object) -> list[Row]:
        """Read committed state: short, with a LIMIT by the caller."""
        ...

    def unit(self, key: str, *, patient: bool = False) -> "AbstractAsyncContextManager[Unit]":
        """Open the one unit of work of `key`; waits for the one before.

        The commit of a `patient` one may take a little longer, to share its sync with others.
        """
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Statement:
    """One buffered write."""

    sql: str
    params: dict[str, Value]
    expect: int | None = None


class Unit:
    """What one unit of work reads and will write."""

    def __init__(self, fetch: Fetch, now_ns: Callable[[], int]) -> None:
        self._fetch = fetch
        self._now_ns = now_ns
        self._sealed = False
        self.statements: list[Statement] = []
        self.serials: set[str] = set()
        self.topics: list[str] = []
        self._actions: list[Callable[[], None]] = []

    async def fetch(self, sql: str, /, **params: object) -> list[Row]:
        """Read committed state under the key's lock; the unit's own writes are not in it."""
        self._require_open()
        return await self._fetch(sql, **params)

    def execute(self, sql: str, /, *, expect: int | None = None, **params: object) -> None:
        """Buffer a write; `expect` rows must be touched, else Conflict and nothing is kept."""
        self._require_open()
        if len(self.statements) >= STATEMENTS_MAX:
            raise UsageError(f"a unit of work holds at most {STATEMENTS_MAX} statements")
        self.statements.append(Statement(sql, clean(sql, params), expect))

    def serialise(self, key: str) -> None:
        """Commit in turn with all units that name `key`: for numbers that readers follow."""
        self._require_open()
        self.serials.add(key)

    def post(
        self, *, identity: NodeId, peer: NodeId, lane: str, kind: str, key: str, payload: object
    ) -> None:
        """Leave a message for a peer in the outbox; the same kind and key again is a no-op."""
        encoded = msgspec.json.encode(payload)
        if len(encoded) > PAYLOAD_SIZE_MAX:
            raise UsageError(f"message of {len(encoded)} bytes exceeds {PAYLOAD_SIZE_MAX}")
        self.serialise(OUTBOX_TOPIC)
        self.execute(
            _POST,
            expect=None,
            identity=identity,
            peer=peer,
            lane=lane,
            kind=kind,
            key=key,
            payload=encoded.decode(),
            created_ns=self._now_ns(),
        )
        self.notify(OUTBOX_TOPIC)

    def notify(self, topic: str) -> None:
        """Wake the pollers of `topic` after the commit."""
        self._require_open()
        if len(topic) > TOPIC_LENGTH_MAX:
            raise UsageError(f"topic of {len(topic)} characters exceeds {TOPIC_LENGTH_MAX}")
        if topic not in self.topics:
            self.topics.append(topic)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` after the commit; it cannot undo it, so a failure is only logged."""
        self._require_open()
        self._actions.append(action)

    def seal(self) -> None:
        """Take no more: the block was left."""
        self._sealed = True

    def run_actions(self) -> None:
        for action in self._actions:
            try:
                action()
            except Exception:
                log.exception("store.after_commit_failed")

    def _require_open(self) -> None:
        if self._sealed:
            raise RuntimeError("this unit of work has ended")


async def to_the_end(work: Awaitable[T]) -> T:
    """Await what cannot be called back (a commit); a cancellation is raised after its end."""
    future = asyncio.ensure_future(work)
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return future.result()
