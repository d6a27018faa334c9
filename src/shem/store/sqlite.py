"""The embedded engine: SQLite in WAL mode, every commit synchronised to the disk.

One connection writes, in the committer's thread: a transaction per group of units, a savepoint per
unit, so that a failing unit spoils no other. One read-only connection reads on the event loop's
thread, where a point query takes microseconds. Only the writer checkpoints. An SQLite older than
the fix of the WAL-reset bug (3.51.3) is refused.
"""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import apsw
import structlog

from shem.kernel import failpoints
from shem.kernel.errors import Conflict, ShemError, StorageFault, UsageError
from shem.kernel.world import World
from shem.store import schema
from shem.store.committer import Batch, Committer, ThreadCommitter
from shem.store.locks import KeyLocks
from shem.store.sql import CACHED_STATEMENTS, Value, clean, ddl_for_sqlite, require_query
from shem.store.topics import Topics
from shem.store.unit import ROWS_MAX, Row, Statement, StorageFull, StoreClosed, Unit

OLDEST_SAFE_SQLITE: Final = (3, 51, 3)
APPLICATION_ID: Final = 0x5348454D
"""`SHEM` in the header of the file."""
BUSY_TIMEOUT_MS: Final = 5_000
ROOM_RETRY_S: Final = 1.0
log = structlog.get_logger()

WAL_KEPT_MAX: Final = 64 << 20
WAL_ROOM: Final = 4 << 20
"""What the WAL has at least from the start: about what it grows to before it begins anew. A sync
of what is overwritten costs half of one that makes the file longer."""
_SETTINGS: Final = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "wal_autocheckpoint": 1_000,
    "journal_size_limit": WAL_KEPT_MAX,
}
"""Pragmas of the writer; `synchronous = 2` is FULL: a commit returns after its fsync."""


def require_safe_sqlite(version: str) -> None:
    """Refuse an SQLite whose WAL can lose or damage data."""
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST_SAFE_SQLITE:
        wanted = ".".join(map(str, OLDEST_SAFE_SQLITE))
        raise StorageFault(
            f"SQLite {version} may lose data in WAL mode: install an apsw with {wanted} or newer"
        )


def storage_fault(error: Exception) -> ShemError:
    """Return the error that tells a caller what the engine said."""
    match error:
        case apsw.ConstraintError() if getattr(error, "extendedresult", None) in _IN_THE_WAY:
            return Conflict(f"already there, or its counterpart is not: {error}")
        case apsw.FullError():
            return StorageFull()
        case ShemError():
            return error
    return StorageFault(f"the store failed: {error!r}")


_IN_THE_WAY: Final = frozenset(
    (
        apsw.SQLITE_CONSTRAINT_UNIQUE,
        apsw.SQLITE_CONSTRAINT_PRIMARYKEY,
        apsw.SQLITE_CONSTRAINT_FOREIGNKEY,
    )
)


class SqliteStore:
    """A store in one file; `await open()` first."""

    def __init__(
        self,
        path: Path,
        world: World,
        *,
        committer: Committer | None = None,
        migrations: str = "node",
        waits_for_room: bool = False,
    ) -> None:
        self.topics = Topics()
        self._path = path
        self._world = world
        self._committer = committer or ThreadCommitter()
        self._migrations = migrations
        self._waits_for_room = waits_for_room
        self._locks = KeyLocks()
        self._writer: Writer | None = None
        self._rows = Rows()
        self._reader: apsw.Connection | None = None

    async def open(self) -> None:
        """Create or migrate the file, and start the committer."""
        require_safe_sqlite(apsw.sqlite_lib_version())
        try:
            _create_private(self._path)
            self._writer = Writer(self._path)
            self._writer.migrate(self._migrations, self._world.clock.wall_ns())
            _make_room(self._path)
            self._reader = _connect(self._path, apsw.SQLITE_OPEN_READONLY)
        except (apsw.Error, OSError) as error:
            self._close_connections()
            raise StorageFault(f"cannot open {self._path}: {error}") from error
        except ShemError:
            self._close_connections()
            raise
        self._committer.open(self._writer.commit)

    async def fetch(self, sql: str, /, **params: object) -> list[Row]:
        require_query(sql)
        values = clean(sql, params)
        if self._reader is None:
            raise StoreClosed
        try:
            return self._rows(self._reader, sql, values)
        except apsw.Error as error:
            raise storage_fault(error) from error

    @asynccontextmanager
    async def unit(self, key: str, *, patient: bool = False) -> AsyncIterator[Unit]:
        async with self._locks.hold(key):
            unit = Unit(self.fetch, self._world.clock.wall_ns)
            yield unit
            unit.seal()
            while not await self._found_room(unit, patient=patient):
                await self._world.clock.sleep(ROOM_RETRY_S)

    async def _found_room(self, unit: Unit, *, patient: bool) -> bool:
        """Commit; False when there is no room and whoever owns this store waits for it."""
        try:
            await self._commit(unit, patient=patient)
        except StorageFull:
            if not self._waits_for_room:
                raise
            log.warning("store.full", path=str(self._path))
            return False
        return True

    async def close(self) -> None:
        """Let what was submitted become durable, then close the file."""
        self.topics.close()
        await self._committer.close()
        self._close_connections()

    async def _commit(self, unit: Unit, *, patient: bool) -> None:
        if not unit.statements:
            self._committed(unit)
            return
        failpoints.passing("store.before_commit")
        durable = self._committer.submit(unit.statements, patient=patient)
        try:
            await durable
        finally:
            if durable.is_kept:
                failpoints.passing("store.committed")
                self._committed(unit)

    def _committed(self, unit: Unit) -> None:
        for topic in unit.topics:
            self.topics.bump(topic)
        unit.run_actions()

    def _close_connections(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Rows:
    """Reads rows as dictionaries; how the columns of a query are called is asked of SQLite once."""

    def __init__(self) -> None:
        self._columns: dict[str, tuple[str, ...]] = {}
        """By query; the schema does not change while a store is open."""

    def __call__(
        self, connection: apsw.Connection, sql: str, values: Mapping[str, Value]
    ) -> list[Row]:
        cursor = connection.execute(sql, values)
        first: tuple[Any, ...] | None = next(cursor, None)
        if first is None:
            return []
        columns = self._columns.get(sql)
        if columns is None:
            if len(self._columns) >= CACHED_STATEMENTS:
                self._columns.clear()
            columns = self._columns[sql] = tuple(column[0] for column in cursor.description)
        rows = [dict(zip(columns, first, strict=True))]
        for further in cursor:
            if len(rows) >= ROWS_MAX:
                cursor.close(force=True)
                raise StorageFault(f"a read of more than {ROWS_MAX} rows: add a LIMIT")
            rows.append(dict(zip(columns, further, strict=True)))
        return rows


class Writer:
    """The writing connection: used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._connection = _connect(path, apsw.SQLITE_OPEN_READWRITE)
        _require_own_file(self._connection, path)
        for name, value in _SETTINGS.items():
            self._connection.pragma(name, value)
            if (actual := self._connection.pragma(name)) != value:
                raise StorageFault(f"{path}: SQLite keeps {name} at {actual}, not {value}")

    def migrate(self, chosen: str, now_ns: int) -> None:
        """Bring the schema up to date, one transaction per step."""
        connection = self._connection
        with connection:
            connection.execute(ddl_for_sqlite(schema.LEDGER))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for step in schema.due(schema.load(chosen), Rows()(connection, schema.APPLIED, {})):
            with connection:
                connection.execute(ddl_for_sqlite(step.script)).fetchall()
                connection.execute(
                    schema.RECORD,
                    {
                        "number": step.number,
                        "name": step.name,
                        "checksum": step.checksum,
                        "applied_ns": now_ns,
                    },
                )
                connection.execute(f"PRAGMA user_version = {step.number}")

    def commit(self, batches: Sequence[Batch]) -> list[Exception | None]:
        """Make the batches durable together; when that fails, each on its own."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._in_savepoint(batch) for batch in batches]
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            self._abandon()
            if len(batches) == 1:
                return [storage_fault(error)]
            return [self.commit((batch,))[0] for batch in batches]
        return outcomes

    def close(self) -> None:
        self._connection.close()

    def _in_savepoint(self, batch: Batch) -> Exception | None:
        """Run one unit; raises only when the whole transaction is lost."""
        self._connection.execute("SAVEPOINT unit")
        try:
            for statement in batch:
                self._run(statement)
        except (apsw.Error, Conflict) as error:
            if not self._connection.in_transaction:
                raise
            self._connection.execute("ROLLBACK TO unit; RELEASE unit")
            return storage_fault(error)
        self._connection.execute("RELEASE unit")
        return None

    def _run(self, statement: Statement) -> None:
        self._connection.execute(statement.sql, statement.params).fetchall()
        touched = self._connection.changes()
        if statement.expect is not None and touched != statement.expect:
            raise Conflict(f"{touched} rows touched where {statement.expect} were expected")

    def _abandon(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _create_private(path: Path) -> None:
    """Make the file readable by its owner alone; its WAL inherits that."""
    created = not path.exists()
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    if created:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _make_room(path: Path) -> None:
    """Lengthen the WAL by zeros, which SQLite takes for its end; nobody writes to it meanwhile."""
    wal = path.with_name(f"{path.name}-wal")
    file = os.open(wal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, bytes(max(0, WAL_ROOM - os.fstat(file).st_size)))
    except OSError as error:
        log.warning("store.no_room_for_wal", reason=str(error))
    finally:
        os.close(file)


def _connect(path: Path, flags: int) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)
    return connection


def _require_own_file(connection: apsw.Connection, path: Path) -> None:
    """Refuse to write into another program's database."""
    owner = connection.pragma("application_id")
    empty = connection.pragma("schema_version") == 0
    if owner != APPLICATION_ID and not empty:
        raise UsageError(f"{path} is not a database of shem")
