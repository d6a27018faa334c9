"""The identities of this node and the application keys that act for them.

The first start makes a default identity, or takes the one of the autoconf secret; it is durable
before anything is signed with it. The autoconfigured application key is never stored and acts for
the default identity of this run. Rules: docs/protocol/gsb-identity.md §3.1, §3.4.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from shem.identity.keys import PrivateKey
from shem.identity.keystore import WrongPassword, open_keystore, seal
from shem.kernel.config import NodeConfig
from shem.kernel.errors import Conflict, NotFound, NotSupported, UsageError
from shem.kernel.ids import AppKey, NodeId
from shem.kernel.world import World, new_hex_id
from shem.store.unit import Row, Store, Unit

log = structlog.get_logger()

NO_PASSWORD: Final = ""
ROLE: Final = "manager"
"""The only role there is."""
AUTOCONFIGURED: Final = "autoconfigured"
IDENTITIES_MAX: Final = 100
APP_KEYS_MAX: Final = 1_000
NAME_LENGTH_MAX: Final = 200
APP_KEY_LENGTH_MAX: Final = 1_000

_IDENTITIES: Final = """
    SELECT node_id, keystore, alias, is_default, is_deleted, created_ns FROM identity
    ORDER BY is_default DESC, created_ns, node_id LIMIT :limit
"""
_ADD_IDENTITY: Final = """
    INSERT INTO identity (node_id, keystore, alias, is_default, is_deleted, created_ns)
    VALUES (:node_id, :keystore, :alias, :is_default, 0, :created_ns)
    ON CONFLICT (node_id) DO UPDATE SET keystore = excluded.keystore, alias = excluded.alias,
        is_default = excluded.is_default, is_deleted = 0
"""
_APP_KEY: Final = "SELECT name, key, role, identity, allow_origins, created_ns FROM app_key"
_ADD_APP_KEY: Final = """
    INSERT INTO app_key (name, key, key_digest, role, identity, allow_origins, created_ns)
    VALUES (:name, :key, :key_digest, :role, :identity, :allow_origins, :created_ns)
"""
_UNIT: Final = "identity"


@dataclass(frozen=True, slots=True)
class Principal:
    """For whom a REST client acts."""

    identity: NodeId
    name: str
    role: str


@dataclass(frozen=True, slots=True)
class IdentityInfo:
    """What is told about an identity."""

    node_id: NodeId
    alias: str | None
    is_locked: bool
    is_default: bool
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class AppKeyInfo:
    """What is told about an application key, the key included; it never shows in logs."""

    name: str
    key: AppKey
    role: str
    identity: NodeId
    created_ns: int
    allow_origins: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"AppKeyInfo({self.name!r}, identity={self.identity})"


class IdentityService:
    """Keys of this node, default first, and who an application key stands for."""

    def __init__(self, store: Store, world: World, config: NodeConfig) -> None:
        self._store = store
        self._world = world
        self._config = config
        self._keys: dict[NodeId, PrivateKey] = {}
        self._autoconfigured: AppKeyInfo | None = None

    async def start(self) -> None:
        """Load the identities; on a first start, make one."""
        rows = await self._rows()
        for row in rows:
            if not row["is_deleted"]:
                self._load(row)
        if self._config.autoconf_id_secret is not None:
            await self._use_secret(self._config.autoconf_id_secret)
        elif not any(row["is_default"] for row in rows):
            key = PrivateKey.generate(self._world.rng)
            await self._add(key, alias=None, is_default=True)
            log.info("identity.created", identity=key.node_id)
        elif rows[0]["node_id"] not in self._keys:
            raise NotSupported("a default identity with a password is not supported yet")
        if self._config.autoconf_appkey is not None:
            self._autoconfigured = AppKeyInfo(
                name=AUTOCONFIGURED,
                key=AppKey(self._config.autoconf_appkey),
                role=ROLE,
                identity=self.default.node_id,
                created_ns=self._world.clock.wall_ns(),
            )

    @property
    def default(self) -> PrivateKey:
        """The identity that this run of the node is known by."""
        return next(iter(self._keys.values()))

    def keys(self) -> tuple[PrivateKey, ...]:
        """Return all usable keys, default first."""
        return tuple(self._keys.values())

    def key(self, node_id: NodeId) -> PrivateKey:
        """Return the key of one of our identities; NotFound when it is none."""
        try:
            return self._keys[node_id]
        except KeyError:
            raise NotFound(f"identity {node_id} is not one of this node") from None

    def owns(self, node_id: NodeId) -> bool:
        return node_id in self._keys

    async def identities(self) -> list[IdentityInfo]:
        """Return what the node knows of its identities, default first."""
        return [
            IdentityInfo(
                node_id=row["node_id"],
                alias=row["alias"],
                is_locked=not self.owns(row["node_id"]),
                is_default=row["node_id"] == self.default.node_id,
                is_deleted=bool(row["is_deleted"]),
            )
            for row in sorted(
                await self._rows(), key=lambda row: row["node_id"] != self.default.node_id
            )
        ]

    async def create_identity(
        self, *, alias: str | None = None, keystore: str | None = None
    ) -> IdentityInfo:
        """Add a new key, or that of a keystore without a password."""
        if alias is not None and not 0 < len(alias) <= NAME_LENGTH_MAX:
            raise UsageError(f"an alias has 1 to {NAME_LENGTH_MAX} characters")
        if keystore is None:
            key = PrivateKey.generate(self._world.rng)
        else:
            try:
                key = await asyncio.to_thread(open_keystore, keystore, NO_PASSWORD)
            except WrongPassword:
                raise NotSupported("a keystore with a password is not supported yet") from None
        if self.owns(key.node_id):
            raise Conflict(f"identity {key.node_id} exists already")
        if len(await self._rows()) >= IDENTITIES_MAX:
            raise UsageError(f"a node has at most {IDENTITIES_MAX} identities")
        await self._add(key, alias=alias, is_default=False)
        return IdentityInfo(key.node_id, alias, is_locked=False, is_default=False, is_deleted=False)

    async def principal(self, app_key: str) -> Principal | None:
        """Return for whom the holder of `app_key` acts, or None; takes as long either way."""
        if len(app_key) > APP_KEY_LENGTH_MAX:
            return None
        digest = _digest(app_key)
        own = self._autoconfigured
        if own is not None and digest == _digest(own.key):
            return Principal(own.identity, own.name, own.role)
        rows = await self._store.fetch(f"{_APP_KEY} WHERE key_digest = :digest", digest=digest)
        if not rows or not self.owns(rows[0]["identity"]):
            return None
        return Principal(rows[0]["identity"], rows[0]["name"], rows[0]["role"])

    async def app_keys(self, identity: NodeId | None = None) -> list[AppKeyInfo]:
        """Return the application keys, the autoconfigured one last."""
        rows = await self._store.fetch(
            f"{_APP_KEY} WHERE identity = coalesce(:identity, identity) "
            "ORDER BY created_ns, name LIMIT :limit",
            identity=identity,
            limit=APP_KEYS_MAX,
        )
        stored = [_app_key(row) for row in rows]
        return stored if self._autoconfigured is None else [*stored, self._autoconfigured]

    async def create_app_key(
        self, name: str, *, identity: NodeId | None = None, allow_origins: tuple[str, ...] = ()
    ) -> AppKeyInfo:
        """Make an application key; the same name and identity again is the same key."""
        owner = self.default.node_id if identity is None else self.key(identity).node_id
        if name == AUTOCONFIGURED and self._autoconfigured is not None:
            raise Conflict("Preconfigured appkey already exists")
        if not 0 < len(name) <= NAME_LENGTH_MAX:
            raise UsageError(f"an app-key's name has 1 to {NAME_LENGTH_MAX} characters")
        async with self._store.unit(_UNIT) as unit:
            existing = await _find_app_key(unit, name)
            if existing is not None:
                if existing.identity != owner:
                    raise UsageError(
                        f"app-key with name {name} already defined with identity "
                        f"{existing.identity}"
                    )
                return existing
            created = AppKeyInfo(
                name=name,
                key=AppKey(new_hex_id(self._world.rng)),
                role=ROLE,
                identity=owner,
                created_ns=self._world.clock.wall_ns(),
                allow_origins=allow_origins,
            )
            unit.execute(
                _ADD_APP_KEY,
                name=created.name,
                key=created.key,
                key_digest=_digest(created.key),
                role=created.role,
                identity=created.identity,
                allow_origins=msgspec.json.encode(created.allow_origins).decode(),
                created_ns=created.created_ns,
            )
        return created

    async def drop_app_key(self, name: str) -> None:
        """Remove an application key; NotFound when there is none of that name."""
        if name == AUTOCONFIGURED and self._autoconfigured is not None:
            raise UsageError("Cannot remove autoconfigured key")
        async with self._store.unit(_UNIT) as unit:
            if await _find_app_key(unit, name) is None:
                raise NotFound(f"there is no app-key with name {name}")
            unit.execute("DELETE FROM app_key WHERE name = :name", name=name)

    async def _rows(self) -> list[Row]:
        return await self._store.fetch(_IDENTITIES, limit=IDENTITIES_MAX)

    def _load(self, row: Row) -> None:
        try:
            key = open_keystore(row["keystore"], NO_PASSWORD)
        except WrongPassword:
            log.warning("identity.locked", identity=row["node_id"])
            return
        self._keys[key.node_id] = key

    async def _use_secret(self, secret: str) -> None:
        """Make the key of the autoconf secret this run's default."""
        key = PrivateKey.from_hex(secret)
        if not self.owns(key.node_id):
            await self._add(key, alias=None, is_default=True)
        self._keys = {key.node_id: key} | self._keys

    async def _add(self, key: PrivateKey, *, alias: str | None, is_default: bool) -> None:
        """Store a key, and only then use it."""
        async with self._store.unit(_UNIT) as unit:
            if is_default:
                unit.execute("UPDATE identity SET is_default = 0 WHERE is_default = 1")
            unit.execute(
                _ADD_IDENTITY,
                node_id=key.node_id,
                keystore=seal(key, NO_PASSWORD, self._world.rng),
                alias=alias,
                is_default=is_default,
                created_ns=self._world.clock.wall_ns(),
            )
        self._keys[key.node_id] = key


def _digest(app_key: str) -> str:
    """Return what app-keys are looked up by, so that timing tells nothing about them."""
    return hashlib.sha256(app_key.encode(errors="surrogatepass")).hexdigest()


async def _find_app_key(unit: Unit, name: str) -> AppKeyInfo | None:
    rows = await unit.fetch(f"{_APP_KEY} WHERE name = :name", name=name)
    return _app_key(rows[0]) if rows else None


def _app_key(row: Row) -> AppKeyInfo:
    origins = msgspec.json.decode(row["allow_origins"], type=tuple[str, ...])
    return AppKeyInfo(**{**row, "allow_origins": origins})
