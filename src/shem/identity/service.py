"""The identities of this node and who an application key stands for.

The first start makes a default identity, or takes the one of the autoconf secret; it is durable
before anything is signed with it. An identity whose keystore has a password is locked until the
password is given: it signs nothing and its application keys stand for nobody. A dropped identity is
worth nothing at once, its keystore is erased, its application keys are gone with it. What the
default identity of a run is, is settled when the run starts. Rules:
docs/protocol/gsb-identity.md §3.1, §3.4.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from shem.identity import rows
from shem.identity.app_keys import NAME_LENGTH_MAX, UNIT, AppKeys, drop_all_of
from shem.identity.keys import PrivateKey
from shem.identity.keystore import WrongPassword, address_of, for_people, open_keystore, seal
from shem.identity.records import AppKeyInfo, DefaultKept, IdentityInfo, KeyLocked, Principal
from shem.kernel.config import NodeConfig
from shem.kernel.errors import Conflict, Gone, NotFound, UsageError
from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.store.unit import Row, Store

log = structlog.get_logger()

NO_PASSWORD: Final = ""
LOCKED: Final = "accountLocked"
UNLOCKED: Final = "accountUnlocked"
NEW_KEY: Final = "newKey"
DROPPED_KEY: Final = "droppedKey"


class IdentityService:
    """Keys of this node, default first, and who an application key stands for."""

    def __init__(self, store: Store, world: World, config: NodeConfig) -> None:
        self._store = store
        self._world = world
        self._config = config
        self._keys: dict[NodeId, PrivateKey] = {}
        self._locked: set[NodeId] = set()
        self._dropped: set[NodeId] = set()
        self._default_key: PrivateKey | None = None
        self._default_of_run: NodeId | None = None
        self._default_told: NodeId | None = None
        self._app_keys = AppKeys(store, world)
        self._on_lock: list[Callable[[str, NodeId], None]] = []
        self._on_drop: list[Callable[[NodeId], None]] = []
        self._on_app_key: list[Callable[[str, AppKeyInfo], None]] = []

    async def start(self) -> None:
        """Load the identities; on a first start, make one. The default one may stay locked."""
        stored = [row for row in await rows.every(self._store) if not row["is_deleted"]]
        for row in stored:
            self._load(row)
        if self._config.autoconf_id_secret is not None:
            key = PrivateKey.from_hex(self._config.autoconf_id_secret)
            if not self.owns(key.node_id):
                await self._add(key.node_id, self._sealed(key), key, alias=None, is_default=True)
            self._use(key)
            self._settle_default(key.node_id)
        elif stored and stored[0]["is_default"]:
            self._settle_default(stored[0]["node_id"])
        else:
            key = PrivateKey.generate(self._world.rng)
            await self._add(key.node_id, self._sealed(key), key, alias=None, is_default=True)
            self._settle_default(key.node_id)
            log.info("identity.created", identity=key.node_id)
        if self._config.autoconf_appkey is not None:
            self._app_keys.configure(self._config.autoconf_appkey, self.default_id)

    @property
    def default_id(self) -> NodeId:
        """The identity that this run of the node is known by, locked or not."""
        if self._default_of_run is None:
            raise NotFound("the identities are not loaded")
        return self._default_of_run

    @property
    def default(self) -> PrivateKey:
        """The key that this run of the node is known by; KeyLocked until its password comes."""
        if self._default_key is None:
            raise KeyLocked(self.default_id)
        return self._default_key

    @property
    def waits_for_password(self) -> bool:
        """Whether the node cannot begin: its default identity has been locked from the start."""
        return self._default_key is None

    def keys(self) -> tuple[PrivateKey, ...]:
        """Return all usable keys, default first."""
        every = self._keys.values()
        return tuple(sorted(every, key=lambda key: key.node_id != self._default_of_run))

    def key(self, node_id: NodeId) -> PrivateKey:
        """Return the key of one of our identities; NotFound when it is none, or KeyLocked."""
        if node_id in self._locked:
            raise KeyLocked(node_id)
        try:
            return self._keys[node_id]
        except KeyError:
            raise rows.not_ours(node_id) from None

    def owns(self, node_id: NodeId) -> bool:
        """Tell whether this is an identity of this node, locked or not."""
        return node_id in self._keys or node_id in self._locked

    def is_usable(self, node_id: NodeId) -> bool:
        """Tell whether this is an identity of this node that is not locked."""
        return node_id in self._keys

    def on_lock(self, fn: Callable[[str, NodeId], None]) -> None:
        """Call `fn(LOCKED or UNLOCKED, identity)` when that has become durable."""
        self._on_lock.append(fn)

    def on_drop(self, fn: Callable[[NodeId], None]) -> None:
        """Call `fn(identity)` when it has been dropped, durably; LOCKED comes before that."""
        self._on_drop.append(fn)

    def on_app_key(self, fn: Callable[[str, AppKeyInfo], None]) -> None:
        """Call `fn(NEW_KEY or DROPPED_KEY, app-key)` when that has become durable."""
        self._on_app_key.append(fn)

    async def identities(self) -> list[IdentityInfo]:
        """Return what the node knows of its identities, default first; dropped ones of this run."""
        stored = await rows.every(self._store)
        infos = [self._info(row) for row in stored if self._is_told(row)]
        return sorted(infos, key=lambda info: not info.is_default)

    async def create_identity(
        self, *, alias: str | None = None, keystore: str | None = None
    ) -> IdentityInfo:
        """Add a new key, or that of a keystore; one with a password starts locked."""
        _check_alias(alias)
        key: PrivateKey | None = None
        if keystore is None:
            key = PrivateKey.generate(self._world.rng)
            node_id, text = key.node_id, self._sealed(key)
        else:
            text = keystore
            try:
                key = await asyncio.to_thread(open_keystore, keystore, NO_PASSWORD)
                node_id = key.node_id
            except WrongPassword:
                node_id = address_of(keystore)
        if self.owns(node_id):
            raise Conflict(f"identity {node_id} exists already")
        if len(self._keys) + len(self._locked) >= rows.IDENTITIES_MAX:
            raise UsageError(f"a node has at most {rows.IDENTITIES_MAX} identities")
        await self._add(node_id, text, key, alias=alias, is_default=False)
        self._dropped.discard(node_id)
        if key is not None:
            self._tell_lock(UNLOCKED, node_id)
        return IdentityInfo(
            node_id, alias, is_locked=key is None, is_default=False, is_deleted=False
        )

    async def update(
        self, node_id: NodeId, *, alias: str | None = None, set_default: bool = False
    ) -> IdentityInfo:
        """Rename an identity, or make it the default, which the next start obeys."""
        _check_alias(alias)
        async with self._store.unit(UNIT) as unit:
            row = await rows.one(unit, node_id)
            if alias is not None:
                rows.rename(unit, node_id, alias)
            if set_default:
                rows.make_default(unit, node_id)
        if set_default:
            self._default_told = node_id
        return self._info({**row, "alias": row["alias"] if alias is None else alias})

    async def lock(self, node_id: NodeId, *, new_password: str | None = None) -> IdentityInfo:
        """Forget the key until its password is given; a new password seals it anew first.

        The net goes by the name of the default identity of this run, locked or not.
        """
        async with self._store.unit(UNIT) as unit:
            row = await rows.one(unit, node_id)
            if new_password is not None:
                if node_id in self._locked:
                    raise UsageError("key already locked")
                sealed = seal(self.key(node_id), new_password, self._world.rng)
                rows.replace_keystore(unit, node_id, sealed)
            unit.after_commit(lambda: self._forget(node_id))
        return self._info(row)

    async def unlock(self, node_id: NodeId, password: str) -> IdentityInfo:
        """Open the key with its password, which is checked even when it is open already."""
        text = (await rows.one(self._store, node_id))["keystore"]
        key = await asyncio.to_thread(open_keystore, text, password)
        if key.node_id != node_id:
            raise UsageError(f"the keystore is not that of {node_id}")
        async with self._store.unit(UNIT) as unit:
            row = await rows.one(unit, node_id)
            if row["keystore"] != text:
                raise Conflict(f"the password of {node_id} was changed meanwhile")
            unit.after_commit(lambda: self._use(key))
        self._tell_lock(UNLOCKED, node_id)
        return self._info(row)

    async def drop(self, node_id: NodeId) -> IdentityInfo:
        """Erase an identity and its application keys, durably and at once."""
        async with self._store.unit(UNIT) as unit:
            row = await rows.one(unit, node_id, dropped_too=True)
            if row["is_deleted"]:
                raise Gone(f"identity {node_id} was dropped already")
            if node_id in (self._default_of_run, self._default_told) or row["is_default"]:
                raise DefaultKept
            rows.drop(unit, node_id)
            app_keys = await drop_all_of(unit, node_id)
            unit.after_commit(lambda: self._forget_for_ever(node_id))
        for info in app_keys:
            self._tell_app_key(DROPPED_KEY, info)
        return self._info({**row, "is_deleted": 1})

    async def export(self, node_id: NodeId) -> str:
        """Return the keystore as people store it; what opens it here opens it there."""
        return for_people((await rows.one(self._store, node_id))["keystore"])

    async def principal(self, app_key: str) -> Principal | None:
        """Return for whom the holder of `app_key` acts, or None; takes as long either way."""
        info = await self._app_keys.of(app_key)
        if info is None or info.identity not in self._keys:
            return None
        return Principal(info.identity, info.name, info.role)

    async def app_keys(self, identity: NodeId | None = None) -> list[AppKeyInfo]:
        """Return the application keys, the autoconfigured one last."""
        return await self._app_keys.every(identity)

    async def create_app_key(
        self, name: str, *, identity: NodeId | None = None, allow_origins: tuple[str, ...] = ()
    ) -> AppKeyInfo:
        """Make an application key; the same name and identity again is the same key."""
        owner = self.default_id if identity is None else identity
        if not self.owns(owner):
            raise rows.not_ours(owner)
        created = await self._app_keys.create(name, owner, allow_origins)
        self._tell_app_key(NEW_KEY, created)
        return created

    async def drop_app_key(self, name: str, *, identity: NodeId | None = None) -> None:
        """Remove an application key; NotFound when there is none of that name."""
        self._tell_app_key(DROPPED_KEY, await self._app_keys.drop(name, identity))

    def _is_told(self, row: Row) -> bool:
        return not row["is_deleted"] or row["node_id"] in self._dropped

    def _info(self, row: Row) -> IdentityInfo:
        node_id: NodeId = row["node_id"]
        return IdentityInfo(
            node_id=node_id,
            alias=row["alias"],
            is_locked=node_id not in self._keys,
            is_default=node_id == self._default_told,
            is_deleted=bool(row["is_deleted"]),
        )

    def _load(self, row: Row) -> None:
        try:
            self._use(open_keystore(row["keystore"], NO_PASSWORD))
        except WrongPassword:
            log.warning("identity.locked", identity=row["node_id"])
            self._locked.add(row["node_id"])

    def _settle_default(self, node_id: NodeId) -> None:
        self._default_of_run = self._default_told = node_id
        self._default_key = self._keys.get(node_id)

    def _use(self, key: PrivateKey) -> None:
        self._keys[key.node_id] = key
        self._locked.discard(key.node_id)
        if key.node_id == self._default_of_run:
            self._default_key = key

    def _forget(self, node_id: NodeId) -> None:
        was_usable = self._keys.pop(node_id, None) is not None
        self._locked.add(node_id)
        if was_usable:
            self._tell_lock(LOCKED, node_id)

    def _forget_for_ever(self, node_id: NodeId) -> None:
        self._forget(node_id)
        self._locked.discard(node_id)
        self._dropped.add(node_id)
        for fn in self._on_drop:
            fn(node_id)

    def _tell_lock(self, what: str, node_id: NodeId) -> None:
        for fn in self._on_lock:
            fn(what, node_id)

    def _tell_app_key(self, what: str, info: AppKeyInfo) -> None:
        for fn in self._on_app_key:
            fn(what, info)

    def _sealed(self, key: PrivateKey) -> str:
        return seal(key, NO_PASSWORD, self._world.rng)

    async def _add(
        self,
        node_id: NodeId,
        keystore: str,
        key: PrivateKey | None,
        *,
        alias: str | None,
        is_default: bool,
    ) -> None:
        """Store a keystore, and only then use its key."""
        async with self._store.unit(UNIT) as unit:
            rows.add(
                unit,
                node_id,
                keystore,
                alias=alias,
                is_default=is_default,
                created_ns=self._world.clock.wall_ns(),
            )
        if key is None:
            self._locked.add(node_id)
        else:
            self._use(key)


def _check_alias(alias: str | None) -> None:
    if alias is not None and not 0 < len(alias) <= NAME_LENGTH_MAX:
        raise UsageError(f"an alias has 1 to {NAME_LENGTH_MAX} characters")
