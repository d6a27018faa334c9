"""Open the store that a path or a URL names."""

from pathlib import Path

from shem.kernel.errors import UsageError
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
    waits_for_room: bool = False,
) -> Store:
    """Open and migrate: a path is SQLite, `postgresql://…` is PostgreSQL.

    With `waits_for_room` a unit of work that finds the disk full is committed when there is room:
    for a process that has nobody to tell.
    """
    if isinstance(url_or_path, str) and "://" in url_or_path:
        return await _open_postgres(url_or_path, world, migrations)
    store = SqliteStore(
        Path(url_or_path),
        world,
        committer=committer,
        migrations=migrations,
        waits_for_room=waits_for_room,
    )
    await store.open()
    return store


async def _open_postgres(url: str, world: World, migrations: str) -> Store:
    scheme = url.partition("://")[0]
    if scheme not in ("postgresql", "postgres"):
        raise UsageError(f"a store is a path or a postgresql:// URL, not {scheme}://")
    from shem.store.postgres import PostgresStore

    store = PostgresStore(url, world, migrations=migrations)
    await store.open()
    return store
