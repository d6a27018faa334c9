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
from shem.identity.service import IdentityService
from shem.kernel.config import GsbAddress, NodeConfig
from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.net.memory import MemoryFabric
from shem.node.local import LocalServices
from shem.store.open import open_store

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

    code, out, err = await station.run("id", "lock", ME)
    assert "not supported yet" in out + err


async def test_yagna_version_and_shutdown(station: Station) -> None:
    info = await station.json("version", "show")
    assert info["current"]["version"] == "0.17.6"

    assert await station.json("service", "shutdown") == {"Ok": None}
    assert station.stop.is_set()
