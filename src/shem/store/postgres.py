"""The engine for more than one process or machine: PostgreSQL.

A unit of work is a transaction that first takes an advisory lock of its key, so that one unit at a
time runs per key across all processes. Keys of `Unit.serialise` are locked at the commit, in their
order and in a space of their own, so that no two units wait for each other in a circle. Committed
topics are announced with NOTIFY, which only wakes pollers; when the listening connection was lost,
all of them are woken.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any, Final

import asyncpg
import structlog

from shem.kernel import failpoints
from shem.kernel.errors import Conflict, ShemError, StorageFault
from shem.kernel.world import World
from shem.store import schema
from shem.store.locks import KeyLocks
from shem.store.sql import clean, ddl_for_postgres, for_postgres, require_query
from shem.store.topics import Topics
from shem.store.unit import ROWS_MAX, Row, StorageFull, StoreClosed, Unit, to_the_end

log = structlog.get_logger()

READERS_MAX: Final = 4
WRITERS_MAX: Final = 8
CONNECT_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 5.0
ACQUIRE_TIMEOUT_S: Final = 30.0
COMMAND_TIMEOUT_S: Final = 30.0
LOCK_TIMEOUT_MS: Final = 10_000
IDLE_IN_UNIT_MAX_MS: Final = 60_000
LISTENER_RETRY_S: Final = 1.0
CHANNEL: Final = "shem_topics"
_KEY_SPACE: Final = "unit"
_SERIAL_SPACE: Final = "serial"
_MIGRATION_LOCK: Final = 0x5348454D
_LOCK: Final = "SELECT pg_advisory_xact_lock($1)"
_TRANSIENT: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg says when a connection is ended while it is idle
    OSError,
    TimeoutError,
)


def storage_fault(error: BaseException) -> ShemError:
    """Return the error that tells a caller what the engine said."""
    match error:
        case asyncpg.UniqueViolationError() | asyncpg.ForeignKeyViolationError():
            return Conflict(f"already there, or its counterpart is not: {error}")
        case asyncpg.DiskFullError():
            return StorageFull()
    return StorageFault(f"the store failed: {error!r}")


class PostgresStore:
    """A store in a PostgreSQL database; `await open()` first."""

    def __init__(self, url: str, world: World, *, migrations: str = "node") -> None:
        self.topics = Topics()
        self._url = url
        self._world = world
        self._migrations = migrations
        self._locks = KeyLocks()
        self._readers: Any = None
        self._writers: Any = None
        self._listener: asyncio.Task[None] | None = None
        self._instance = world.rng.token(8).hex()

    async def open(self) -> None:
        """Migrate the database, and start listening to other processes."""
        try:
            self._writers = await self._pool(
                WRITERS_MAX,
                lock_timeout=str(LOCK_TIMEOUT_MS),
                idle_in_transaction_session_timeout=str(IDLE_IN_UNIT_MAX_MS),
            )
            await self._migrate()
            self._readers = await self._pool(READERS_MAX, default_transaction_read_only="on")
            connection, lost = await self._start_listening()
        except _TRANSIENT as error:
            await self._close_pools()
            raise StorageFault(f"cannot open the PostgreSQL database: {error}") from error
        except ShemError:
            await self._close_pools()
            raise
        self._listener = asyncio.create_task(self._listen(connection, lost), name="store listener")

    async def fetch(self, sql: str, /, **params: object) -> list[Row]:
        require_query(sql)
        text, values = for_postgres(sql, clean(sql, params))
        if self._readers is None:
            raise StoreClosed
        try:
            async with self._readers.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                return await _rows(connection, text, values)
        except _TRANSIENT as error:
            raise storage_fault(error) from error

    @asynccontextmanager
    async def unit(self, key: str, *, patient: bool = False) -> AsyncIterator[Unit]:
        del patient  # the server groups its commits itself
        async with self._locks.hold(key), self._connection() as connection:
            try:
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute(_LOCK, _lock_number(_KEY_SPACE, key))
            except _TRANSIENT as error:
                raise storage_fault(error) from error

            async def fetch(sql: str, /, **params: object) -> list[Row]:
                require_query(sql)
                text, values = for_postgres(sql, clean(sql, params))
                try:
                    return await _rows(connection, text, values)
                except _TRANSIENT as error:
                    raise storage_fault(error) from error

            unit = Unit(fetch, self._world.clock.wall_ns)
            try:
                yield unit
                unit.seal()
            except BaseException:
                with suppress(*_TRANSIENT):
                    await to_the_end(transaction.rollback())
                raise
            await to_the_end(self._commit(connection, transaction, unit))

    async def close(self) -> None:
        self.topics.close()
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait((self._listener,))
        await self._close_pools()

    async def _commit(self, connection: Any, transaction: Any, unit: Unit) -> None:
        try:
            await self._write(connection, unit)
        except (*_TRANSIENT, Conflict) as error:
            with suppress(*_TRANSIENT):
                await transaction.rollback()
            if isinstance(error, Conflict):
                raise
            raise storage_fault(error) from error
        failpoints.passing("store.before_commit")
        try:
            await transaction.commit()
        except _TRANSIENT as error:
            raise StorageFault(f"it is unknown whether the commit happened: {error!r}") from error
        failpoints.passing("store.committed")
        for topic in unit.topics:
            self.topics.bump(topic)
        unit.run_actions()

    async def _write(self, connection: Any, unit: Unit) -> None:
        for serial in sorted(_lock_number(_SERIAL_SPACE, key) for key in unit.serials):
            await connection.execute(_LOCK, serial)
        for statement in unit.statements:
            text, values = for_postgres(statement.sql, statement.params)
            tag = await connection.execute(text, *values)
            touched = int(tag.rpartition(" ")[2]) if statement.expect is not None else None
            if touched != statement.expect:
                raise Conflict(f"{touched} rows touched where {statement.expect} were expected")
        for topic in unit.topics:
            await connection.execute(
                "SELECT pg_notify($1, $2)", CHANNEL, f"{self._instance}:{topic}"
            )

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if self._writers is None:
            raise StoreClosed
        try:
            connection = await self._writers.acquire(timeout=ACQUIRE_TIMEOUT_S)
        except _TRANSIENT as error:
            raise storage_fault(error) from error
        try:
            yield connection
        finally:
            with suppress(*_TRANSIENT):  # a broken connection leaves the pool
                await to_the_end(self._writers.release(connection))

    async def _pool(self, size: int, **settings: str) -> Any:
        return await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=size,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=COMMAND_TIMEOUT_S,
            server_settings={"application_name": "shem", **settings},
        )

    async def _migrate(self) -> None:
        """Bring the schema up to date; one process at a time, one transaction for all steps."""
        async with self._writers.acquire() as connection, connection.transaction():
            await connection.execute(_LOCK, _MIGRATION_LOCK)
            await connection.execute(ddl_for_postgres(schema.LEDGER))
            applied = await _rows(connection, schema.APPLIED, [])
            for step in schema.due(schema.load(self._migrations), applied):
                await connection.execute(ddl_for_postgres(step.script))
                text, values = for_postgres(
                    schema.RECORD,
                    {
                        "number": step.number,
                        "name": step.name,
                        "checksum": step.checksum,
                        "applied_ns": self._world.clock.wall_ns(),
                    },
                )
                await connection.execute(text, *values)

    async def _listen(self, connection: Any, lost: asyncio.Event) -> None:
        """Wake pollers for what other processes commit; survives the loss of the server."""
        while True:
            try:
                await lost.wait()
            finally:
                connection.terminate()
            connection, lost = await self._listen_again()
            self.topics.bump_all()

    async def _listen_again(self) -> tuple[Any, asyncio.Event]:
        while True:
            await self._world.clock.sleep(LISTENER_RETRY_S)
            try:
                return await self._start_listening()
            except _TRANSIENT as error:
                log.warning("store.listener_down", reason=repr(error))

    async def _start_listening(self) -> tuple[Any, asyncio.Event]:
        connection = await asyncpg.connect(self._url, timeout=CONNECT_TIMEOUT_S)
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        try:
            await connection.add_listener(CHANNEL, self._heard)
        except BaseException:
            connection.terminate()
            raise
        return connection, lost

    def _heard(self, _connection: Any, _pid: int, _channel: str, text: str) -> None:
        instance, _, topic = text.partition(":")
        if instance != self._instance:
            self.topics.bump(topic)

    async def _close_pools(self) -> None:
        for pool in (self._readers, self._writers):
            if pool is not None:
                try:
                    async with asyncio.timeout(CLOSE_TIMEOUT_S):
                        await pool.close()
                except _TRANSIENT:
                    pool.terminate()
        self._readers = self._writers = None


def _lock_number(space: str, key: str) -> int:
    """Return the 64-bit number of an advisory lock."""
    digest = hashlib.sha256(f"{space}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


async def _rows(connection: Any, text: str, values: list[Any]) -> list[Row]:
    records = await connection.fetch(text, *values)
    if len(records) > ROWS_MAX:
        raise StorageFault(f"a read of more than {ROWS_MAX} rows: add a LIMIT")
    return [{name: _plain(value) for name, value in record.items()} for record in records]


def _plain(value: object) -> object:
    """Return sums of integers, which PostgreSQL makes numeric, as integers again."""
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    return value
