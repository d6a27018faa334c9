"""The two engines, each with an empty database per test."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from shem.kernel.world import World
from shem.store.open import open_store
from shem.store.unit import Store
from tests.contract.postgres_server import find_binaries, running_postgres

OpenStore = Callable[[], Awaitable[Store]]
_schemas = count(1)


@pytest.fixture(scope="session")
def postgres_socket() -> Iterator[Path]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with running_postgres(binaries) as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
async def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where an empty database of the engine is."""
    if request.param == "sqlite":
        return str(tmp_path / "shem.db")
    folder = request.getfixturevalue("postgres_socket")
    schema = f"test_{next(_schemas)}"
    url = f"postgresql://shem@/postgres?host={folder}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE SCHEMA {schema}")
    await connection.close()
    return f"{url}&search_path={schema}"


@pytest.fixture
async def open_again(store_url: str) -> AsyncIterator[OpenStore]:
    """Return a function that opens the database once more, as another process would."""
    async with AsyncExitStack() as stack:

        async def opening() -> Store:
            store = await open_store(store_url, world=World())
            stack.push_async_callback(store.close)
            return store

        yield opening


@pytest.fixture
async def store(open_again: OpenStore) -> Store:
    return await open_again()
