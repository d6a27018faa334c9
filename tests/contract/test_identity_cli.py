"""`shem id …` and `shem app-key …` beside a node that serves its bus on a socket."""

import asyncio
import fcntl
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import apsw
import pytest

from shem.bus.router import Bus
from shem.bus.socket_server import SocketServer
from shem.identity.keys import PrivateKey
from shem.identity.keystore import open_keystore, seal
from shem.identity.service import IdentityService
from shem.kernel.config import NodeConfig, parse_gsb_url
from shem.kernel.world import SeededRng, World
from shem.net.memory import MemoryFabric
from shem.node.app import run_node
from shem.node.local import LocalServices
from shem.store.datadir import DATABASE_FILE
from shem.store.open import open_store

RUN = "import sys; from shem.cli.main import main; main(sys.argv[1:])"
ME = "0x1a642f0e3c3af545e7acbd38b07251b3990914f1"
OTHER = PrivateKey.from_hex("02" * 32)
PASSWORD = "s3cret"
UP_S = 20


class Commands:
    """The command line aimed at one bus socket."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def shem(self, *arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            RUN,
            "-g",
            self.url,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def json(self, *arguments: str) -> Any:
        status, output = await self.shem(*arguments, "--json")
        assert status == 0, output
        return json.loads(output)


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Commands]:
    config = NodeConfig(datadir=tmp_path, autoconf_id_secret="01" * 32)
    world, bus = World(), Bus()
    async with AsyncExitStack() as stack:
        store = await open_store(tmp_path / "node.db", world=world)
        stack.push_async_callback(store.close)
        identity = IdentityService(store, world, config)
        await identity.start()
        net = MemoryFabric().node(identity.default_id)
        local = LocalServices(bus, net, identity, stop=asyncio.Event().set)
        await stack.enter_async_context(local)
        url = f"unix:{tmp_path}/gsb.sock"
        await stack.enter_async_context(SocketServer(bus, parse_gsb_url(url), world=world))
        yield Commands(url)


async def test_an_identity_with_a_password_is_made_unlocked_renamed_and_dropped(
    cli: Commands,
) -> None:
    made = (await cli.json("id", "create", "vault", "--password", PASSWORD))["Ok"]
    assert (made["alias"], made["isLocked"]) == ("vault", True)

    status, output = await cli.shem("id", "unlock", "vault", "--password", "guess")
    assert (status, "InvalidPassword" in output) == (1, True)
    status, output = await cli.shem("id", "unlock", "vault")
    assert (status, "terminal" in output) == (1, True)
    opened = await cli.json("id", "unlock", "vault", "--password", PASSWORD)
    assert opened["Ok"]["isLocked"] is False
    assert (await cli.json("id", "lock", "vault"))["Ok"]["isLocked"] is True
    renamed = await cli.json("id", "update", "vault", "--alias", "safe", "--set-default")
    assert (renamed["Ok"]["alias"], renamed["Ok"]["isDefault"]) == ("safe", True)
    assert [(row["address"], row["locked"]) for row in await cli.json("id", "list")] == [
        (made["nodeId"], "X"),
        (ME, ""),
    ]

    status, output = await cli.shem("id", "drop", "safe", "--force")
    assert (status, "DefaultIdentity" in output) == (1, True)
    await cli.json("id", "update", ME, "--set-default")
    assert (await cli.json("id", "drop", "safe", "--force"))["Ok"]["deleted"] is True
    assert await cli.json("id", "show", "safe") == {"Ok": None}
    assert (await cli.shem("id", "show", "safe"))[0] == 1


async def test_keystores_go_out_and_in(cli: Commands, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(seal(OTHER, PASSWORD, SeededRng(1)))
    taken = await cli.json("id", "import", str(file), "--alias", "other")
    assert (taken["Ok"]["nodeId"], taken["Ok"]["isLocked"]) == (OTHER.node_id, True)

    _, text = await cli.shem("id", "export", "other")
    assert open_keystore(text, PASSWORD).node_id == OTHER.node_id
    _, plain = await cli.shem("id", "export", "--plain")
    assert plain.strip() == "01" * 32
    out = tmp_path / "mine.json"
    assert (await cli.shem("id", "export", "--file-path", str(out)))[0] == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert open_keystore(out.read_text(), "").node_id == ME
    status, output = await cli.shem("id", "export", "--file-path", str(out))
    assert (status, "exists already" in output) == (1, True)
    status, output = await cli.shem("id", "create", "--from-keystore", str(out))
    assert (status, "AlreadyExists" in output) == (1, True)


async def test_a_private_key_is_taken_and_signs(cli: Commands, tmp_path: Path) -> None:
    arguments = ("--from-private-key", "02" * 32, "--no-password")
    taken = await cli.json("id", "create", "two", *arguments)
    assert (taken["Ok"]["nodeId"], taken["Ok"]["isLocked"]) == (OTHER.node_id, False)

    document = tmp_path / "hello"
    document.write_text("hello")
    assert (await cli.json("id", "sign", str(document)))["sig"].startswith("01d13b19c8baa538")
    assert await cli.json("id", "pub-key", "two") == {"pubKey": OTHER.public_key.hex()}


async def test_app_keys_are_made_shown_and_dropped(cli: Commands) -> None:
    key = await cli.json("app-key", "create", "mine", "--allow-origins", "http://a")

    assert (await cli.shem("app-key", "create", "mine"))[1].strip() == key
    shown = await cli.json("app-key", "show", "mine")
    assert (shown["key"], shown["identity"], shown["allowOrigins"]) == (key, ME, ["http://a"])
    assert [row["name"] for row in await cli.json("app-key", "list", "--id", ME)] == ["mine"]
    assert await cli.json("app-key", "drop", "mine") is None
    for command in ("show", "drop"):
        status, output = await cli.shem("app-key", command, "mine")
        assert (status, "no app-key with name mine" in output) == (1, True)


def yagna_datadir(folder: Path) -> Path:
    """Write what yagna stores (docs/protocol/gsb-identity.md §3.5), its last words in the log."""
    folder.mkdir()
    connection = apsw.Connection(str(folder / "yagna.db"))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(
        "CREATE TABLE identity (identity_id varchar(50) PRIMARY KEY, key_file_json text, "
        "is_default bool, is_deleted bool, alias varchar(50), note text, created_date datetime)"
    )
    for secret, default, deleted in (
        ("02", True, False),
        ("03", False, False),
        ("04", False, True),
    ):
        key = PrivateKey.from_hex(secret * 32)
        text = "" if deleted else seal(key, "", SeededRng(1))
        date = "2026-11-23 20:06:17.882821084"
        connection.execute(
            "INSERT INTO identity VALUES (?, ?, ?, ?, ?, NULL, ?)",
            (key.node_id, text, default, deleted, f"alias{secret}", date),
        )
    (folder / "yagna.lock").touch()
    for ending in ("", "-wal"):  # as a killed yagna leaves them
        (folder / f"killed.db{ending}").write_bytes((folder / f"yagna.db{ending}").read_bytes())
    connection.close()
    for ending in ("", "-wal"):
        (folder / f"killed.db{ending}").rename(folder / f"yagna.db{ending}")
    return folder


async def test_yagnas_identity_is_taken_over_without_a_trace(cli: Commands, tmp_path: Path) -> None:
    folder = yagna_datadir(tmp_path / "yagna")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"yagna.db", "yagna.db-wal", "yagna.lock"}

    taken = await cli.json("id", "import", "--from-yagna", str(folder), "--set-default")

    assert (taken["Ok"]["nodeId"], taken["Ok"]["isDefault"]) == (OTHER.node_id, True)
    another = await cli.json("id", "import", "--from-yagna", str(folder), "--id", "alias03")
    assert another["Ok"]["alias"] == "alias03"
    status, _ = await cli.shem("id", "import", "--from-yagna", str(folder), "--id", "alias04")
    assert status == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


async def test_a_directory_that_yagna_holds_or_that_is_none_is_refused(
    cli: Commands, tmp_path: Path
) -> None:
    folder = yagna_datadir(tmp_path / "yagna")
    with (folder / "yagna.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, output = await cli.shem("id", "import", "--from-yagna", str(folder))
    assert (status, "yagna is running" in output) == (1, True)

    (folder / "yagna.db-wal").unlink()
    (folder / "yagna.db").write_bytes(os.urandom(4096))
    status, output = await cli.shem("id", "import", "--from-yagna", str(folder))
    assert (status, "cannot be read" in output) == (2, True)
    status, _ = await cli.shem("id", "import", "--from-yagna", str(tmp_path))
    assert status == 1


async def locked_node(folder: Path) -> NodeConfig:
    """Leave a data directory whose default identity has a password."""
    config = NodeConfig(
        datadir=folder,
        api_url="http://127.0.0.1:0",
        bind_url="udp://127.0.0.1:0",
        gsb_url=f"unix:{folder}/gsb.sock",
    )
    store = await open_store(folder / DATABASE_FILE, world=World())
    identity = IdentityService(store, World(), config)
    await identity.start()
    await identity.lock(identity.default_id, new_password=PASSWORD)
    await store.close()
    return config


async def shown_by(cli: Commands) -> dict[str, Any]:
    """Return the default identity as soon as the bus socket answers."""
    async with asyncio.timeout(UP_S):
        while True:
            status, output = await cli.shem("id", "show", "--json")
            if status == 0:
                return json.loads(output)["Ok"]


async def test_a_node_with_a_locked_default_identity_starts_when_it_is_unlocked(
    tmp_path: Path,
) -> None:
    config = await locked_node(tmp_path)
    cli, stop = Commands(config.gsb_url), asyncio.Event()
    node = asyncio.create_task(run_node(config, stop))
    assert (await shown_by(cli))["isLocked"] is True
    assert (await cli.shem("net", "status"))[0] != 0

    await cli.json("id", "unlock", "--password", PASSWORD)

    async with asyncio.timeout(UP_S):
        while (await cli.shem("net", "status"))[0] != 0:
            pass
    stop.set()
    await node


async def test_a_node_that_waits_for_a_password_can_be_stopped(tmp_path: Path) -> None:
    config = await locked_node(tmp_path)
    stop = asyncio.Event()
    node = asyncio.create_task(run_node(config, stop))
    assert (await shown_by(Commands(config.gsb_url)))["isLocked"] is True

    stop.set()
    async with asyncio.timeout(UP_S):
        await node
