"""What only PostgreSQL has: other processes, and a server that may go away."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from shem.kernel.errors import StorageFault
from shem.kernel.world import World
from shem.store.open import open_store
from shem.store.unit import Store, Unit
from tests.contract.conftest import OpenStore

pytestmark = pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)

INSERT = """
    INSERT INTO inbox (identity, peer, kind, key, digest, reply, received_ns)
    VALUES ('', '', '', :key, '', :reply, 0)
"""


def insert(unit: Unit, key: str) -> None:
    unit.execute(INSERT, key=key, reply=b"")


async def keys(store: Store) -> list[str]:
    return [row["key"] for row in await store.fetch("SELECT key FROM inbox ORDER BY key LIMIT 99")]


async def cut_all_connections(url: str) -> None:
    """End every connection but our own, as a restart of the server does."""
    connection = await asyncpg.connect(url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'shem' OR query LIKE 'LISTEN%'"
    )
    await connection.close()


async def eventually(attempt: Callable[[], Awaitable[None]]) -> None:
    """Repeat what fails with a StorageFault until it does not."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await attempt()
            except StorageFault:
                await asyncio.sleep(0.05)


async def test_a_commit_wakes_pollers_of_other_processes(open_again: OpenStore) -> None:
    writer, reader = await open_again(), await open_again()
    version = reader.topics.version("t")
    poller = asyncio.create_task(reader.topics.changed("t", version, 20))
    async with writer.unit("a") as unit:
        insert(unit, "one")
        unit.notify("t")

    assert await poller is True
    assert await keys(reader) == ["one"]


async def test_ones_own_commit_wakes_once(store: Store) -> None:
    async with store.unit("a") as unit:
        insert(unit, "one")
        unit.notify("t")
    version = store.topics.version("t")

    assert await store.topics.changed("t", version, 0.2) is False


async def test_units_of_one_key_exclude_each_other_across_processes(open_again: OpenStore) -> None:
    first, second = await open_again(), await open_again()
    inside = asyncio.Event()
    order: list[str] = []

    async def hold() -> None:
        async with first.unit("k") as unit:
            inside.set()
            await asyncio.sleep(0.2)
            order.append("first")
            insert(unit, "one")

    async def follow() -> None:
        await inside.wait()
        async with second.unit("k") as unit:
            order.append("second")
            assert len(await unit.fetch("SELECT key FROM inbox LIMIT 9")) == 1

    await asyncio.gather(hold(), follow())

    assert order == ["first", "second"]


async def test_the_store_survives_the_loss_of_all_connections(store: Store, store_url: str) -> None:
    async with store.unit("a") as unit:
        insert(unit, "before")
    version = store.topics.version("t")
    poller = asyncio.create_task(store.topics.changed("t", version, 30))
    await asyncio.sleep(0)

    await cut_all_connections(store_url)

    async def write() -> None:
        async with store.unit("a") as unit:
            insert(unit, "after")

    await eventually(write)
    assert await poller is True, "what was missed while nobody listened must wake pollers"
    assert await keys(store) == ["after", "before"]


async def test_a_unit_whose_connection_is_lost_fails_and_keeps_nothing(
    store: Store, store_url: str
) -> None:
    with pytest.raises(StorageFault):
        async with store.unit("a") as unit:
            insert(unit, "lost")
            await cut_all_connections(store_url)

    async def read() -> None:
        assert await keys(store) == []

    await eventually(read)


async def test_two_processes_may_start_at_once(store_url: str) -> None:
    stores = await asyncio.gather(*(open_store(store_url, world=World()) for _ in range(4)))

    for store in stores:
        assert await keys(store) == []
        await store.close()


async def test_a_server_that_is_not_there_is_a_storage_fault(
    store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    nowhere = tmp_path_factory.mktemp("nowhere")

    with pytest.raises(StorageFault, match="cannot open"):
        await open_store(f"postgresql://shem@/postgres?host={nowhere}", world=World())
    with pytest.raises(StorageFault, match="cannot open"):
        await open_store(store_url.replace("/postgres", "/missing"), world=World())
