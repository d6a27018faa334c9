"""The real command line of yagna drives a node of ours over the bus socket."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.bus.socket_server import SocketServer
from shem.identity.keys import PrivateKey
from shem.identity.keystore import open_keystore, seal
from shem.identity.service import IdentityService
from shem.identity.yagna_datadir import read_identities
from shem.kernel.config import GsbAddress, NodeConfig
from shem.kernel.errors import Conflict
from shem.kernel.ids import NodeId
from shem.kernel.world import SystemRng, World
from shem.net.memory import MemoryFabric
from shem.node.local import LocalServices
from shem.store.open import open_store
from tests.interop.daemon import running
from tests.interop.real_yagna import RealYagna

YAGNA = Path(sys.executable).with_name("yagna")
ME = "0x1a642f0e3c3af545e7acbd38b07251b3990914f1"
PEER = NodeId("0x" + "b" * 40)
NOBODY = NodeId("0x" + "c" * 40)
COMMAND_S = 30

pytestmark = pytest.mark.skipif(not YAGNA.exists(), reason="golem-node is not installed")


@dataclass
class Station:
    """A node with its bus socket, and the real command line aimed at it."""

    socket: Path
    home: Path
    stop: asyncio.Event

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            str(YAGNA),
            "-g",
            f"unix:{self.socket}",
            *arguments,
            env={"HOME": str(self.home), "PATH": os.environ["PATH"], "RUST_LOG": "off"},
            cwd=self.home,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), COMMAND_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def json(self, *arguments: str) -> object:
        code, out, err = await self.run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
async def station(tmp_path: Path) -> AsyncIterator[Station]:
    config = NodeConfig(datadir=tmp_path, autoconf_id_secret="01" * 32, autoconf_appkey="aaaa1111")
    world, fabric, stop = World(), MemoryFabric(), asyncio.Event()
    async with AsyncExitStack() as stack:
        store = await open_store(tmp_path / "node.db", world=world)
        stack.push_async_callback(store.close)
        identity = IdentityService(store, world, config)
        await identity.start()
        bus = Bus()
        for node_id, its_bus in ((NodeId(ME), bus), (PEER, Bus())):
            net = fabric.node(node_id)
            for part in (
                RemoteBus(its_bus, net, [node_id], rng=world.rng),
                LocalServices(its_bus, net, identity, stop=stop.set),
                net,
            ):
                await stack.enter_async_context(part)
        address = GsbAddress(path=tmp_path / "gsb.sock")
        await stack.enter_async_context(SocketServer(bus, address, world=world))
        home = tmp_path / "home"
        home.mkdir()
        yield Station(tmp_path / "gsb.sock", home, stop)


async def test_yagna_id_shows_lists_and_creates_our_identities(station: Station) -> None:
    shown = await station.json("id", "show")
    assert shown == {
        "Ok": {
            "alias": None,
            "nodeId": ME,
            "isLocked": False,
            "isDefault": True,
            "deleted": False,
        }
    }

    created = await station.json("id", "create", "worker", "--no-password")
    assert created["Ok"]["alias"] == "worker"
    rows = await station.json("id", "list")
    assert [(row["address"], row["default"]) for row in rows] == [
        (ME, "X"),
        (created["Ok"]["nodeId"], ""),
    ]
    assert await station.json("id", "show", "nobody") == {"Ok": None}


async def test_yagna_id_signs_with_our_key(station: Station) -> None:
    document = station.home / "hello"
    document.write_text("hello")

    assert await station.json("id", "sign", str(document)) == {
        "sig": "01d13b19c8baa53851839efe1fe790b6f6d51028400902bb79d2fa50c65295e0ed697d0a449072"
        "37350d71ab31d6adbc973749cf2c2d1f4096b765c65be58cfca9"
    }
    public = await station.json("id", "pub-key")
    assert public["pubKey"].startswith("1b84c5567b126440995d3ed5aaba0565d71e1834604819ff9c17")


async def test_yagna_locks_unlocks_renames_and_drops_our_identities(station: Station) -> None:
    made = await station.json("id", "create", "vault", "--password", "s3cret")
    assert made["Ok"]["isLocked"] is True
    vault = made["Ok"]["nodeId"]

    _, out, err = await station.run("id", "unlock", vault, "--password", "guess")
    assert "InvalidPassword" in out + err
    opened = await station.json("id", "unlock", vault, "--password", "s3cret")
    assert opened["Ok"]["isLocked"] is False
    assert (await station.json("id", "lock", vault))["Ok"]["isLocked"] is True
    renamed = await station.json("id", "update", vault, "--alias", "safe", "--set-default")
    assert renamed["Ok"]["alias"] == "safe"
    assert (await station.json("id", "show"))["Ok"]["nodeId"] == vault
    await station.json("id", "update", ME, "--set-default")
    await station.json("id", "drop", vault, "--force")
    rows = await station.json("id", "list")
    assert [(row["address"], row["delete in progress"]) for row in rows] == [(ME, ""), (vault, "X")]


async def test_yagna_exports_our_keystores_and_imports_its_own(station: Station) -> None:
    _, text, _ = await station.run("id", "export")
    assert open_keystore(text, "").node_id == ME
    _, plain, _ = await station.run("id", "export", "--plain")
    assert "01" * 32 in plain

    file = station.home / "keystore.json"
    other = PrivateKey.from_hex("02" * 32)
    file.write_text(seal(other, "s3cret", SystemRng()))
    taken = await station.json("id", "create", "other", "--from-keystore", str(file))
    assert (taken["Ok"]["nodeId"], taken["Ok"]["isLocked"]) == (other.node_id, True)


async def test_keys_move_between_a_real_yagna_and_us(station: Station, tmp_path: Path) -> None:
    yagna = RealYagna(tmp_path / "yagna", None)
    ours = seal(PrivateKey.from_hex("02" * 32), "s3cret", SystemRng())
    file = tmp_path / "ours.json"
    file.write_text(ours)
    async with running(yagna):
        code, _, err = await yagna.run("id", "create", "ours", "--from-keystore", str(file))
        assert code == 0, err
        with pytest.raises(Conflict, match="running"):
            read_identities(yagna.datadir)
    # It was killed: what it stored last is in the log of its database.
    found = {identity.alias: identity for identity in read_identities(yagna.datadir)}

    assert (found[None].node_id, found[None].is_default) == (yagna.node_id, True)
    assert open_keystore(found[None].keystore, "").node_id == yagna.node_id
    assert open_keystore(found["ours"].keystore, "s3cret").node_id == found["ours"].node_id
    theirs = station.home / "theirs.json"
    theirs.write_text(found[None].keystore)
    taken = await station.json("id", "create", "moved", "--from-keystore", str(theirs))
    assert (taken["Ok"]["nodeId"], taken["Ok"]["isLocked"]) == (yagna.node_id, False)


async def test_yagna_app_key_creates_lists_and_drops_our_keys(station: Station) -> None:
    key = await station.json("app-key", "create", "mine")

    rows = await station.json("app-key", "list")
    assert [(row["name"], row["key"], row["id"]) for row in rows] == [
        ("mine", key, ME),
        ("autoconfigured", "aaaa1111", ME),
    ]
    assert (await station.json("app-key", "show", "mine"))["key"] == key
    code, _, _ = await station.run("app-key", "drop", "mine")
    assert code == 0
    assert [row["name"] for row in await station.json("app-key", "list")] == ["autoconfigured"]


async def test_yagna_net_shows_our_net_and_pings_through_it(station: Station) -> None:
    status = await station.json("net", "status")
    assert (status["nodeId"], status["listenAddress"]) == (ME, "127.0.0.1:11500")

    (ping,) = await station.json("net", "ping", PEER)
    assert (ping["nodeId"], ping["p2p"]) == (PEER, True)
    assert float(ping["ping (tcp)"]) >= 0
    assert float(ping["ping (udp)"]) >= 0
    (session,) = await station.json("net", "sessions")
    assert (session["nodeId"], session["type"]) == (PEER, "p2p")
    assert await station.json("net", "sockets") == []
    assert (await station.json("net", "find", PEER))["identities"] == [PEER]
    assert await station.json("net", "list-neighbors", "5") == [PEER]
    assert await station.json("net", "disconnect", PEER) is None
    assert await station.json("net", "sessions") == []


async def test_yagna_says_what_our_node_refuses(station: Station) -> None:
    code, _, err = await station.run("net", "find", NOBODY)
    assert (code, f"node {NOBODY} is not registered" in err) == (1, True)

    assert (await station.run("id", "drop", ME, "--force"))[0] != 0
    assert [row["address"] for row in await station.json("id", "list")] == [ME]


async def test_yagna_version_and_shutdown(station: Station) -> None:
    info = await station.json("version", "show")
    assert info["current"]["version"] == "0.17.6"

    assert await station.json("service", "shutdown") == {"Ok": None}
    assert station.stop.is_set()
