"""Identities and application keys: first start, autoconfiguration, restarts, refusals."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shem.identity.keys import PrivateKey
from shem.identity.keystore import seal
from shem.identity.service import APP_KEY_LENGTH_MAX, IdentityService
from shem.kernel.config import NodeConfig
from shem.kernel.errors import Conflict, NotFound, NotSupported, UsageError
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
    locked = seal(PrivateKey.from_hex("02" * 32), "password", SeededRng(1))
    await service.create_identity(alias="taken")

    with pytest.raises(Conflict):
        await service.create_identity(keystore=mine)
    with pytest.raises(Conflict):
        await service.create_identity(alias="taken")
    with pytest.raises(NotSupported):
        await service.create_identity(keystore=locked)
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
