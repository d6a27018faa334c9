"""Open the store that a path or a URL names."""

from pathlib import Path

from shem.kernel.errors import NotSupported
from shem.kernel.world import World
from shem.store.committer import Committer
from shem.store.sqlite import SqliteStore
from shem.store.unit import Store


async def open_store(
    url_or_path: str | Path,
    *,
    world: World,
    migrations: str = "node",
    committer: Committer | None = None,
) -> Store:
    """Open and migrate: a path is SQLite, `postgresql://…` is PostgreSQL."""
    if isinstance(url_or_path, str) and "://" in url_or_path:
        raise NotSupported("PostgreSQL is not supported yet")
    store = SqliteStore(Path(url_or_path), world, committer=committer, migrations=migrations)
    await store.open()
    return store
