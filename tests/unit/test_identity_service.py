"""Identities and application keys: first start, autoconfiguration, restarts, refusals."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shem.identity.app_keys import APP_KEY_LENGTH_MAX
from shem.identity.keys import PrivateKey
from shem.identity.keystore import BadKeystore, WrongPassword, open_keystore, seal
from shem.identity.records import DefaultKept, KeyLocked
from shem.identity.service import DROPPED_KEY, UNLOCKED, IdentityService
from shem.kernel.config import NodeConfig
from shem.kernel.errors import Conflict, Gone, NotFound, UsageError
from shem.kernel.ids import NodeId
from shem.kernel.world import SeededRng, World
from shem.store.committer import InlineCommitter
from shem.store.sqlite import SqliteStore

SECRET = "01" * 32
SECRET_ID = "0x1a642f0e3c3af545e7acbd38b07251b3990914f1"


class Starter:
    """Starts the service again on the same store, as a restart does."""

    def __init__(self, folder: Path, store: SqliteStore, world: World) -> None:
        self._folder = folder
        self._world = world
        self.store = store

    async def __call__(
        self, *, secret: str | None = None, app_key: str | None = None
    ) -> IdentityService:
        config = NodeConfig(
            datadir=self._folder, autoconf_id_secret=secret, autoconf_appkey=app_key
        )
        service = IdentityService(self.store, self._world, config)
        await service.start()
        return service


def ids(service: IdentityService) -> list[str]:
    keys = service.keys()
    return [key.node_id for key in keys]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Starter]:
    world = World(rng=SeededRng(7))
    store = SqliteStore(tmp_path / "shem.db", world, committer=InlineCommitter())
    await store.open()
    yield Starter(tmp_path, store, world)
    await store.close()


async def test_the_first_start_makes_a_default_identity_that_stays(start: Starter) -> None:
    first = await start()
    second = await start()

    assert first.default.node_id == second.default.node_id
    [info] = await second.identities()
    assert (info.node_id, info.is_default, info.is_locked) == (first.default.node_id, True, False)


async def test_the_default_identity_can_sign(start: Starter) -> None:
    service = await start()

    assert len(service.default.sign(bytes(32))) == 65
    assert service.owns(service.default.node_id)
    assert not service.owns(SECRET_ID)


async def test_an_autoconf_secret_is_the_default_identity_from_then_on(start: Starter) -> None:
    assert (await start(secret=SECRET)).default.node_id == SECRET_ID
    assert (await start()).default.node_id == SECRET_ID


async def test_an_autoconf_secret_takes_over_and_the_old_identity_stays(start: Starter) -> None:
    old = (await start()).default.node_id
    service = await start(secret=SECRET)

    assert ids(service) == [SECRET_ID, old]
    assert [(i.node_id, i.is_default) for i in await service.identities()] == [
        (SECRET_ID, True),
        (old, False),
    ]


async def test_a_known_autoconf_secret_is_the_default_of_this_run_only(start: Starter) -> None:
    await start(secret=SECRET)
    other = "02" * 32
    other_id = (await start(secret=other)).default.node_id

    assert (await start(secret=SECRET)).default.node_id == SECRET_ID
    assert (await start()).default.node_id == other_id


@pytest.mark.parametrize("secret", ["xyz", "00" * 32, "01" * 31])
async def test_an_unusable_autoconf_secret_is_refused(start: Starter, secret: str) -> None:
    with pytest.raises(UsageError):
        await start(secret=secret)


async def test_the_autoconfigured_app_key_acts_for_the_default_and_is_not_stored(
    start: Starter,
) -> None:
    service = await start(secret=SECRET, app_key="any text")
    principal = await service.principal("any text")

    assert principal is not None
    assert (principal.identity, principal.name, principal.role) == (
        SECRET_ID,
        "autoconfigured",
        "manager",
    )
    assert [key.name for key in await service.app_keys()] == ["autoconfigured"]
    assert await (await start()).principal("any text") is None


@pytest.mark.parametrize(
    "guess", ["", "any tex", "any text ", "ANY TEXT", "\ud800", "x" * (APP_KEY_LENGTH_MAX + 1)]
)
async def test_a_wrong_app_key_stands_for_nobody(start: Starter, guess: str) -> None:
    service = await start(app_key="any text")

    assert await service.principal(guess) is None


async def test_a_created_app_key_survives_restarts_until_it_is_dropped(start: Starter) -> None:
    created = await (await start()).create_app_key("agent")
    service = await start()

    principal = await service.principal(created.key)
    assert principal is not None
    assert (principal.identity, principal.name) == (service.default.node_id, "agent")
    assert await service.app_keys() == [created]
    assert len(created.key) == 32
    assert created.key not in repr(created)

    await service.drop_app_key("agent")
    assert await service.principal(created.key) is None
    with pytest.raises(NotFound):
        await service.drop_app_key("agent")


async def test_creating_an_app_key_again_returns_the_same(start: Starter) -> None:
    service = await start()

    assert await service.create_app_key("agent") == await service.create_app_key("agent")


async def test_a_name_of_another_identitys_app_key_is_refused(start: Starter) -> None:
    service = await start()
    other = await service.create_identity(alias="other")
    await service.create_app_key("agent")

    with pytest.raises(UsageError, match="already defined with identity"):
        await service.create_app_key("agent", identity=other.node_id)
    key = await service.create_app_key("second", identity=other.node_id)
    assert [k.name for k in await service.app_keys(other.node_id)] == ["second"]
    principal = await service.principal(key.key)
    assert principal is not None
    assert principal.identity == other.node_id


async def test_names_and_identities_of_app_keys_are_checked(start: Starter) -> None:
    service = await start(app_key="x")

    with pytest.raises(Conflict):
        await service.create_app_key("autoconfigured")
    with pytest.raises(UsageError):
        await service.drop_app_key("autoconfigured")
    with pytest.raises(UsageError):
        await service.create_app_key("")
    with pytest.raises(NotFound):
        await service.create_app_key("agent", identity=SECRET_ID)


async def test_created_and_imported_identities_survive_restarts(start: Starter) -> None:
    service = await start()
    await service.create_identity(alias="fresh")
    keystore = seal(PrivateKey.from_hex(SECRET), "", SeededRng(1))
    imported = await service.create_identity(alias="imported", keystore=keystore)

    again = await start()

    assert imported.node_id == SECRET_ID
    assert {info.alias for info in await again.identities()} == {None, "fresh", "imported"}
    assert set(ids(again)) == set(ids(service))
    assert again.key(imported.node_id).node_id == SECRET_ID


async def test_identities_that_cannot_be_are_refused(start: Starter) -> None:
    service = await start(secret=SECRET)
    mine = seal(PrivateKey.from_hex(SECRET), "", SeededRng(1))
    await service.create_identity(alias="taken")

    with pytest.raises(Conflict):
        await service.create_identity(keystore=mine)
    with pytest.raises(Conflict):
        await service.create_identity(alias="taken")
    with pytest.raises(UsageError):
        await service.create_identity(keystore="nonsense")
    with pytest.raises(UsageError):
        await service.create_identity(alias="")
    assert len(service.keys()) == 2


async def test_no_secret_lies_in_the_open(start: Starter, tmp_path: Path) -> None:
    await start(secret=SECRET, app_key="very secret text")

    for path in tmp_path.iterdir():  # noqa: ASYNC240
        contents = path.read_bytes()
        assert SECRET.encode() not in contents
        assert bytes.fromhex(SECRET) not in contents
        assert b"very secret text" not in contents


LOCKED = PrivateKey.from_hex("02" * 32)
PASSWORD = "s3cret"
LOCKED_KEYSTORE = seal(LOCKED, PASSWORD, SeededRng(2))


async def test_a_keystore_with_a_password_starts_locked_and_its_password_opens_it(
    start: Starter,
) -> None:
    service = await start()
    heard: list[tuple[str, str]] = []
    service.on_lock(lambda what, node_id: heard.append((what, node_id)))
    info = await service.create_identity(alias="vault", keystore=LOCKED_KEYSTORE)

    assert (info.node_id, info.is_locked) == (LOCKED.node_id, True)
    assert service.owns(LOCKED.node_id)
    with pytest.raises(KeyLocked):
        service.key(LOCKED.node_id)
    with pytest.raises(WrongPassword):
        await service.unlock(LOCKED.node_id, "guess")
    with pytest.raises(KeyLocked):
        service.key(LOCKED.node_id)

    assert not (await service.unlock(LOCKED.node_id, PASSWORD)).is_locked
    assert service.key(LOCKED.node_id).node_id == LOCKED.node_id
    assert heard == [(UNLOCKED, LOCKED.node_id)]
    with pytest.raises(WrongPassword):
        await service.unlock(LOCKED.node_id, "guess, though it is open")
    with pytest.raises(KeyLocked):
        (await start()).key(LOCKED.node_id)


async def test_a_locked_keystore_must_say_whose_it_is(start: Starter) -> None:
    service = await start()
    document = json.loads(LOCKED_KEYSTORE)
    del document["address"]

    with pytest.raises(BadKeystore):
        await service.create_identity(keystore=json.dumps(document))
    document["address"] = SECRET_ID[2:]
    await service.create_identity(keystore=json.dumps(document))
    with pytest.raises(BadKeystore, match="address"):
        await service.unlock(NodeId(SECRET_ID), PASSWORD)
    with pytest.raises(KeyLocked):
        service.key(NodeId(SECRET_ID))


async def test_a_lock_with_a_new_password_seals_the_key_anew(start: Starter) -> None:
    service = await start()
    node_id = (await service.create_identity(alias="vault")).node_id
    key = await service.create_app_key("agent", identity=node_id)

    assert (await service.lock(node_id, new_password=PASSWORD)).is_locked
    assert await service.principal(key.key) is None
    with pytest.raises(UsageError, match="key already locked"):
        await service.lock(node_id, new_password="other")
    assert (await service.lock(node_id)).is_locked

    again = await start()
    with pytest.raises(WrongPassword):
        await again.unlock(node_id, "")
    await again.unlock(node_id, PASSWORD)
    principal = await again.principal(key.key)
    assert principal is not None
    assert principal.identity == node_id


async def test_a_lock_without_a_password_lasts_until_the_restart(start: Starter) -> None:
    service = await start()
    node_id = (await service.create_identity()).node_id
    await service.lock(node_id)

    with pytest.raises(KeyLocked):
        service.key(node_id)
    assert (await start()).key(node_id).node_id == node_id


async def test_a_dropped_identity_and_its_app_keys_are_worth_nothing_at_once(
    start: Starter,
) -> None:
    service = await start()
    node_id = (await service.create_identity(alias="gone", keystore=LOCKED_KEYSTORE)).node_id
    await service.unlock(node_id, PASSWORD)
    key = await service.create_app_key("agent", identity=node_id)
    dropped: list[str] = []
    service.on_app_key(lambda what, info: dropped.append(f"{what} {info.name}"))

    assert (await service.drop(node_id)).is_deleted

    assert dropped == [f"{DROPPED_KEY} agent"]
    assert await service.principal(key.key) is None
    assert not service.owns(node_id)
    assert await service.app_keys() == []
    with pytest.raises(Gone):
        await service.drop(node_id)
    for refused in (service.unlock(node_id, PASSWORD), service.lock(node_id)):
        with pytest.raises(NotFound):
            await refused
    with pytest.raises(NotFound):
        await service.export(node_id)
    assert [i.node_id for i in await service.identities() if i.is_deleted] == [node_id]
    rows = await start.store.fetch("SELECT keystore FROM identity WHERE is_deleted = 1")
    assert [row["keystore"] for row in rows] == [""]

    again = await start()
    assert [i.node_id for i in await again.identities()] == [again.default_id]
    revived = await again.create_identity(alias="gone", keystore=LOCKED_KEYSTORE)
    assert (revived.node_id, revived.is_deleted) == (node_id, False)


async def test_the_default_identity_is_kept(start: Starter) -> None:
    service = await start()
    node_id = (await service.create_identity()).node_id

    with pytest.raises(DefaultKept):
        await service.drop(service.default_id)
    await service.update(node_id, set_default=True)
    for kept in (service.default_id, node_id):
        with pytest.raises(DefaultKept):
            await service.drop(kept)


async def test_a_new_default_is_told_at_once_and_obeyed_by_the_next_start(start: Starter) -> None:
    service = await start()
    old = service.default_id
    node_id = (await service.create_identity()).node_id

    assert (await service.update(node_id, set_default=True)).is_default
    assert [(i.node_id, i.is_default) for i in await service.identities()] == [
        (node_id, True),
        (old, False),
    ]
    assert service.default.node_id == old
    assert (await start()).default.node_id == node_id


async def test_an_alias_changes_and_stays_unique(start: Starter) -> None:
    service = await start()
    node_id = (await service.create_identity(alias="one")).node_id
    await service.create_identity(alias="two")

    assert (await service.update(node_id, alias="uno")).alias == "uno"
    with pytest.raises(Conflict):
        await service.update(node_id, alias="two")
    with pytest.raises(NotFound):
        await service.update(NodeId(SECRET_ID), alias="nobody")
    assert {i.alias for i in await (await start()).identities()} == {None, "uno", "two"}


async def test_an_exported_keystore_opens_with_its_password_elsewhere(start: Starter) -> None:
    service = await start()
    await service.create_identity(keystore=LOCKED_KEYSTORE)

    text = await service.export(LOCKED.node_id)
    assert open_keystore(text, PASSWORD).node_id == LOCKED.node_id
    assert "\n  " in text
    own = await service.export(service.default_id)
    assert open_keystore(own, "").node_id == service.default_id


async def test_a_locked_default_identity_waits_for_its_password(start: Starter) -> None:
    service = await start(app_key="any text")
    await service.lock(service.default_id, new_password=PASSWORD)
    assert not service.waits_for_password

    again = await start(app_key="any text")
    assert again.waits_for_password
    assert again.default_id == service.default_id
    with pytest.raises(KeyLocked):
        again.default  # noqa: B018
    assert await again.principal("any text") is None
    await again.unlock(again.default_id, PASSWORD)
    assert not again.waits_for_password
    assert await again.principal("any text") is not None
    assert again.keys()[0] is again.default


async def test_an_identity_taken_twice_at_once_is_taken_once(start: Starter) -> None:
    service = await start()

    taken = await asyncio.gather(
        service.create_identity(alias="one", keystore=LOCKED_KEYSTORE),
        service.create_identity(alias="two", keystore=LOCKED_KEYSTORE),
        return_exceptions=True,
    )

    assert sum(isinstance(outcome, Conflict) for outcome in taken) == 1
    assert len(await service.identities()) == 2
