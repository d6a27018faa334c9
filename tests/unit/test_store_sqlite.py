"""What only the embedded engine has: group commit, files, versions, full disks."""

import asyncio
import shutil
import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest
from structlog.testing import capture_logs

from shem.kernel.errors import Conflict, StorageFault, UsageError
from shem.kernel.world import World
from shem.store import schema
from shem.store.committer import (
    Batch,
    InlineCommitter,
    ThreadCommitter,
    Write,
)
from shem.store.open import open_store
from shem.store.sqlite import OLDEST_SAFE_SQLITE, WAL_ROOM, SqliteStore, require_safe_sqlite
from shem.store.unit import STATEMENTS_MAX, Unit

INSERT = """
    INSERT INTO inbox (identity, peer, kind, key, digest, reply, received_ns)
    VALUES ('', '', '', :key, '', :reply, 0)
"""


class CountingCommitter(ThreadCommitter):
    """Tells how many units shared each transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[int] = []

    def open(self, write: Write) -> None:
        def counted(batches: Sequence[Batch]) -> list[Exception | None]:
            self.groups.append(len(batches))
            return write(batches)

        super().open(counted)


async def opened(path: Path, **options: object) -> SqliteStore:
    store = SqliteStore(path, World(), **options)  # type: ignore[arg-type]
    await store.open()
    return store


def insert(unit: Unit, key: str, reply: bytes = b"") -> None:
    unit.execute(INSERT, key=key, reply=reply)


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def count(store: SqliteStore) -> int:
    [row] = await store.fetch("SELECT count(*) AS n FROM inbox")
    return int(row["n"])


async def test_callers_that_wait_together_share_transactions(tmp_path: Path) -> None:
    committer = CountingCommitter()
    store = await opened(tmp_path / "shem.db", committer=committer)

    async def work(number: int) -> None:
        async with store.unit(str(number)) as unit:
            insert(unit, str(number))

    await asyncio.gather(*(work(n) for n in range(200)))

    assert sum(committer.groups) == 200
    assert len(committer.groups) < 20
    assert await count(store) == 200
    await store.close()


async def test_a_patient_unit_shares_the_sync_of_the_next_one(tmp_path: Path) -> None:
    committer = CountingCommitter()
    store = await opened(tmp_path / "shem.db", committer=committer)

    async def work(key: str, *, patient: bool) -> None:
        async with store.unit(key, patient=patient) as unit:
            insert(unit, key)

    async with asyncio.TaskGroup() as group:
        group.create_task(work("patient", patient=True))
        group.create_task(work("too", patient=True))
        group.create_task(work("hurried", patient=False))
    await work("alone", patient=True)

    assert committer.groups == [3, 1]
    assert await count(store) == 4
    await store.close()


async def test_closing_does_not_wait_for_company_of_a_patient_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shem.store.committer.PATIENCE_S", 3600.0)
    committer = CountingCommitter()
    store = await opened(tmp_path / "shem.db", committer=committer)

    async def work() -> None:
        async with store.unit("patient", patient=True) as unit:
            insert(unit, "patient")

    waiting = asyncio.create_task(work())
    await asyncio.sleep(0)
    await store.close()

    await waiting
    assert committer.groups == [1]


async def test_a_full_disk_fails_the_unit_and_not_its_neighbours(tmp_path: Path) -> None:
    store = await opened(tmp_path / "shem.db")
    assert store._writer is not None
    connection = store._writer._connection
    pages = connection.pragma("page_count")
    connection.pragma("max_page_count", pages + 10)

    async def work(number: int) -> None:
        async with store.unit(str(number)) as unit:
            insert(unit, str(number), bytes(1_000_000 if number == 3 else 10))

    outcomes = await asyncio.gather(*(work(n) for n in range(8)), return_exceptions=True)

    [fault] = [outcome for outcome in outcomes if outcome is not None]
    assert isinstance(fault, StorageFault)
    assert (fault.status, fault.code) == (507, "storage-full")
    assert await count(store) == 7

    connection.pragma("max_page_count", 1_000_000)
    await work(3)
    assert await count(store) == 8
    await store.close()


async def test_whoever_waits_for_room_has_the_unit_kept_when_there_is_some(
    tmp_path: Path,
) -> None:
    store = await opened(tmp_path / "shem.db", waits_for_room=True)
    assert store._writer is not None
    connection = store._writer._connection
    connection.pragma("max_page_count", connection.pragma("page_count") + 2)

    async def work() -> None:
        async with store.unit("a") as unit:
            insert(unit, "a", bytes(1_000_000))

    with capture_logs() as logs:
        waiting = asyncio.create_task(work())
        async with asyncio.timeout(10):
            while not any(log["event"] == "store.full" for log in logs):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert not waiting.done()
    assert await count(store) == 0

    connection.pragma("max_page_count", 1_000_000)
    await waiting
    assert await count(store) == 1
    await store.close()


async def test_who_waits_for_room_may_be_stopped(tmp_path: Path) -> None:
    store = await opened(tmp_path / "shem.db", waits_for_room=True)
    assert store._writer is not None
    store._writer._connection.pragma("max_page_count", 1)
    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), store.unit("a") as unit:
                insert(unit, "a", bytes(1_000_000))
    assert await count(store) == 0
    await store.close()


async def test_a_fault_of_the_writer_itself_is_told_and_survived(tmp_path: Path) -> None:
    class Faulty(ThreadCommitter):
        broken = True

        def open(self, write: Write) -> None:
            def maybe(batches: Sequence[Batch]) -> list[Exception | None]:
                if self.broken:
                    raise ZeroDivisionError
                return write(batches)

            super().open(maybe)

    committer = Faulty()
    store = await opened(tmp_path / "shem.db", committer=committer)
    with pytest.raises(StorageFault, match="writer"):
        async with store.unit("a") as unit:
            insert(unit, "one")

    committer.broken = False
    async with store.unit("a") as unit:
        insert(unit, "one")
    await store.close()


async def test_closing_lets_submitted_units_become_durable(tmp_path: Path) -> None:
    store = await opened(tmp_path / "shem.db")

    async def work(number: int) -> None:
        async with store.unit(str(number)) as unit:
            insert(unit, str(number))

    tasks = [asyncio.create_task(work(n)) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    again = await opened(tmp_path / "shem.db")
    assert await count(again) == sum(outcome is None for outcome in outcomes)
    await again.close()


async def test_units_run_inline_for_the_simulator(tmp_path: Path) -> None:
    store = await opened(tmp_path / "shem.db", committer=InlineCommitter())
    async with store.unit("a") as unit:
        insert(unit, "one")
    with pytest.raises(Conflict):
        async with store.unit("a") as unit:
            insert(unit, "one")

    assert await count(store) == 1
    await store.close()


async def test_commits_of_the_simulator_take_the_time_drawn(tmp_path: Path) -> None:
    store = await opened(tmp_path / "shem.db", committer=InlineCommitter(lambda: 0.01))
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with store.unit("a") as unit:
        insert(unit, "one")

    assert loop.time() - start >= 0.009
    assert await count(store) == 1
    await store.close()


async def test_commits_are_fully_synchronised(tmp_path: Path) -> None:
    store = await opened(tmp_path / "shem.db")
    assert store._writer is not None
    connection = store._writer._connection

    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("synchronous") == 2
    assert connection.pragma("foreign_keys") == 1
    await store.close()


async def test_store_files_are_private_from_the_first_moment(tmp_path: Path) -> None:
    store = await opened(tmp_path / "shem.db")
    async with store.unit("a") as unit:
        insert(unit, "one")

    assert modes_in(tmp_path) == {"shem.db": 0o600, "shem.db-wal": 0o600, "shem.db-shm": 0o600}
    await store.close()


async def test_a_file_that_others_may_read_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "shem.db"
    path.touch(mode=0o644)
    store = await opened(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await store.close()


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.7.0", "2.99.99"])
def test_an_sqlite_with_the_wal_reset_bug_is_refused(version: str) -> None:
    with pytest.raises(StorageFault, match="lose data"):
        require_safe_sqlite(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.54.1", "4.0.0"])
def test_a_sound_sqlite_is_taken(version: str) -> None:
    require_safe_sqlite(version)


def test_the_sqlite_we_ship_with_is_sound() -> None:
    require_safe_sqlite(apsw.sqlite_lib_version())
    assert OLDEST_SAFE_SQLITE == (3, 51, 3)


async def test_another_programs_database_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()

    with pytest.raises(UsageError, match="not a database of shem"):
        await open_store(path, world=World())

    assert path.read_bytes() == before


async def test_what_is_no_database_is_a_storage_fault(tmp_path: Path) -> None:
    path = tmp_path / "shem.db"
    path.write_bytes(b"not a database at all" * 500)

    with pytest.raises(StorageFault):
        await open_store(path, world=World())


async def test_a_path_that_cannot_be_is_a_storage_fault(tmp_path: Path) -> None:
    with pytest.raises(StorageFault):
        await open_store(tmp_path / "missing" / "shem.db", world=World())


async def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(UsageError, match="mysql"):
        await open_store("mysql://somewhere/shem", world=World())


async def test_a_database_of_a_newer_version_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "shem.db"
    await (await opened(path)).close()
    with sqlite3.connect(path) as other:
        other.execute("INSERT INTO schema_migration VALUES (9999, 'future', 'x', 0)")
    other.close()

    with pytest.raises(StorageFault, match="9999"):
        await opened(path)


async def test_an_applied_migration_may_not_change(tmp_path: Path) -> None:
    path = tmp_path / "shem.db"
    await (await opened(path)).close()
    with sqlite3.connect(path) as other:
        other.execute("UPDATE schema_migration SET checksum = 'x' WHERE number = 1")
    other.close()

    with pytest.raises(StorageFault, match="changed after"):
        await opened(path)


async def test_opening_twice_migrates_once(tmp_path: Path) -> None:
    path = tmp_path / "shem.db"
    for _ in range(2):
        store = await opened(path)
        rows = await store.fetch("SELECT number FROM schema_migration ORDER BY number")
        assert [row["number"] for row in rows] == [m.number for m in schema.load("node")]
        await store.close()


async def test_a_later_migration_is_applied_to_an_older_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = schema.load("node")
    monkeypatch.setattr(schema, "load", lambda _: steps[:1])
    store = await opened(tmp_path / "shem.db")
    async with store.unit("a") as unit:
        insert(unit, "kept")
    await store.close()
    more = schema.Migration(9000, "more", "CREATE TABLE more (x INTEGER NOT NULL) STRICT;")
    monkeypatch.setattr(schema, "load", lambda _: (*steps[:1], more))

    store = await opened(tmp_path / "shem.db")

    assert await store.fetch("SELECT x FROM more LIMIT 1") == []
    assert await count(store) == 1
    await store.close()


async def test_a_failing_migration_leaves_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = schema.load("node")
    bad = schema.Migration(9000, "bad", "CREATE TABLE half (x TEXT) STRICT; CREATE TABLE half (y);")
    monkeypatch.setattr(schema, "load", lambda _: (*steps, bad))
    with pytest.raises(StorageFault):
        await opened(tmp_path / "shem.db")
    monkeypatch.setattr(schema, "load", lambda _: steps)

    store = await opened(tmp_path / "shem.db")

    with pytest.raises(StorageFault):
        await store.fetch("SELECT x FROM half LIMIT 1")
    await store.close()


def test_an_unknown_set_of_migrations_is_a_fault() -> None:
    with pytest.raises(StorageFault, match="nonsense"):
        schema.load("nonsense")


async def test_the_agents_database_is_of_another_set(tmp_path: Path) -> None:
    numbers = {m.number for m in schema.load("node")}
    try:
        agent = schema.load("agent")
    except StorageFault:
        pytest.skip("the agent keeps no database yet")

    assert numbers.isdisjoint(m.number for m in agent)
    with pytest.raises(StorageFault):
        await (await opened(tmp_path / "a.db", migrations="agent")).close()
        await opened(tmp_path / "a.db")


async def test_a_unit_has_a_limit(tmp_path: Path) -> None:
    store = await opened(tmp_path / "shem.db", committer=InlineCommitter())
    with pytest.raises(UsageError, match="at most"):
        async with store.unit("a") as unit:
            for number in range(STATEMENTS_MAX + 1):
                insert(unit, str(number))

    assert await count(store) == 0
    await store.close()


async def test_wal_has_room_from_the_start_and_what_is_in_it_is_found_again(tmp_path: Path) -> None:
    path, copy = tmp_path / "shem.db", tmp_path / "after-a-crash"
    copy.mkdir()
    store = await open_store(path, world=World())
    assert path.with_name("shem.db-wal").stat().st_size == WAL_ROOM
    async with store.unit("a") as unit:
        unit.execute(
            "INSERT INTO inbox (identity, peer, kind, key, digest, reply, received_ns)"
            " VALUES ('', '', 'test', 'kept', '', :reply, 0)",
            reply=b"x" * 10_000,
        )
    for name in ("shem.db", "shem.db-wal"):
        shutil.copy(tmp_path / name, copy / name)
    await store.close()

    again = await open_store(copy / "shem.db", world=World())
    rows = await again.fetch("SELECT key FROM inbox WHERE kind = 'test' LIMIT 2")
    assert [row["key"] for row in rows] == ["kept"]
    await again.close()
