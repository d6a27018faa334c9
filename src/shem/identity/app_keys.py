"""Application keys: what a program shows to act for an identity.

The autoconfigured key is never stored. Keys are looked up by their digest, in the store each time,
so that a dropped one is worth nothing from then on. Rules: docs/protocol/gsb-identity.md §3.4.
"""

import hashlib
from typing import Final

import msgspec

from shem.identity.records import AppKeyInfo
from shem.kernel.errors import Conflict, NotFound, UsageError
from shem.kernel.ids import AppKey, NodeId
from shem.kernel.world import World, new_hex_id
from shem.store.unit import Row, Store, Unit

ROLE: Final = "manager"
"""The only role there is."""
AUTOCONFIGURED: Final = "autoconfigured"
APP_KEYS_MAX: Final = 1_000
APP_KEY_LENGTH_MAX: Final = 1_000
NAME_LENGTH_MAX: Final = 200
UNIT: Final = "identity"
"""One change of identities and their keys at a time."""

_SELECT: Final = "SELECT name, key, role, identity, allow_origins, created_ns FROM app_key"
_ADD: Final = """
    INSERT INTO app_key (name, key, key_digest, role, identity, allow_origins, created_ns)
    VALUES (:name, :key, :key_digest, :role, :identity, :allow_origins, :created_ns)
"""


class AppKeys:
    """The stored keys, and the one of this run's configuration."""

    def __init__(self, store: Store, world: World) -> None:
        self._store = store
        self._world = world
        self._autoconfigured: AppKeyInfo | None = None

    def configure(self, key: str, identity: NodeId) -> None:
        """Take the key that the environment gives this run."""
        now_ns = self._world.clock.wall_ns()
        self._autoconfigured = AppKeyInfo(AUTOCONFIGURED, AppKey(key), ROLE, identity, now_ns)

    async def of(self, app_key: str) -> AppKeyInfo | None:
        """Return what is known of a key that was shown; takes as long for a wrong one."""
        if len(app_key) > APP_KEY_LENGTH_MAX:
            return None
        digest = _digest(app_key)
        own = self._autoconfigured
        if own is not None and digest == _digest(own.key):
            return own
        rows = await self._store.fetch(f"{_SELECT} WHERE key_digest = :digest", digest=digest)
        return _read(rows[0]) if rows else None

    async def every(self, identity: NodeId | None) -> list[AppKeyInfo]:
        """Return the keys of one identity or all; the autoconfigured one always ends the list."""
        rows = await self._store.fetch(
            f"{_SELECT} WHERE identity = coalesce(:identity, identity) "
            "ORDER BY created_ns, name LIMIT :limit",
            identity=identity,
            limit=APP_KEYS_MAX,
        )
        stored = [_read(row) for row in rows]
        return stored if self._autoconfigured is None else [*stored, self._autoconfigured]

    async def create(self, name: str, owner: NodeId, allow_origins: tuple[str, ...]) -> AppKeyInfo:
        """Make a key; the same name and owner again is the same key."""
        if name == AUTOCONFIGURED and self._autoconfigured is not None:
            raise Conflict("Preconfigured appkey already exists")
        if not 0 < len(name) <= NAME_LENGTH_MAX:
            raise UsageError(f"an app-key's name has 1 to {NAME_LENGTH_MAX} characters")
        async with self._store.unit(UNIT) as unit:
            existing = await _named(unit, name)
            if existing is not None:
                if existing.identity != owner:
                    raise UsageError(
                        f"app-key with name {name} already defined with identity "
                        f"{existing.identity}"
                    )
                return existing
            now_ns = self._world.clock.wall_ns()
            key = AppKey(new_hex_id(self._world.rng))
            created = AppKeyInfo(name, key, ROLE, owner, now_ns, allow_origins)
            unit.execute(
                _ADD,
                name=created.name,
                key=created.key,
                key_digest=_digest(created.key),
                role=created.role,
                identity=created.identity,
                allow_origins=msgspec.json.encode(created.allow_origins).decode(),
                created_ns=created.created_ns,
            )
        return created

    async def drop(self, name: str, owner: NodeId | None) -> AppKeyInfo:
        """Remove a key; NotFound when there is none of that name (and owner)."""
        if name == AUTOCONFIGURED and self._autoconfigured is not None:
            raise UsageError("Cannot remove autoconfigured key")
        async with self._store.unit(UNIT) as unit:
            dropped = await _named(unit, name)
            if dropped is None or owner not in (None, dropped.identity):
                raise NotFound(f"there is no app-key with name {name}")
            unit.execute("DELETE FROM app_key WHERE name = :name", name=name)
        return dropped


async def drop_all_of(unit: Unit, owner: NodeId) -> list[AppKeyInfo]:
    """Remove an identity's keys within the unit that drops the identity; return them."""
    rows = await unit.fetch(
        f"{_SELECT} WHERE identity = :owner LIMIT :limit", owner=owner, limit=APP_KEYS_MAX
    )
    unit.execute("DELETE FROM app_key WHERE identity = :owner", owner=owner)
    return [_read(row) for row in rows]


def _digest(app_key: str) -> str:
    """Return what app-keys are looked up by, so that timing tells nothing about them."""
    return hashlib.sha256(app_key.encode(errors="surrogatepass")).hexdigest()


async def _named(unit: Unit, name: str) -> AppKeyInfo | None:
    rows = await unit.fetch(f"{_SELECT} WHERE name = :name", name=name)
    return _read(rows[0]) if rows else None


def _read(row: Row) -> AppKeyInfo:
    origins = msgspec.json.decode(row["allow_origins"], type=tuple[str, ...])
    return AppKeyInfo(**{**row, "allow_origins": origins})
