"""`shem net …` against two running nets, through the bus socket of one."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shem.bus.remote import RemoteBus
from shem.bus.router import Bus
from shem.bus.socket_server import SocketServer
from shem.kernel.caller import Assurance, Caller
from shem.kernel.config import GsbAddress
from shem.kernel.world import World
from shem.net.types import Channel
from shem.node.local_net import LocalNet, bind_diagnostics
from tests.unit.test_net_loopback import two_nets

SHEM = Path(sys.executable).with_name("shem")
NOBODY = "0x" + "12" * 20


@asynccontextmanager
async def node_and_peer(folder):
    """Run two nets; the first one's bus has a socket. Give both, and how to run a command."""
    address = GsbAddress(path=folder / "gsb.sock")
    async with two_nets() as (_, one, two):
        bus = Bus()
        bind_diagnostics(bus)
        LocalNet(one, World().clock).bind(bus)
        caller = Caller(one.default_id, Assurance.LOCAL)
        server = SocketServer(bus, address, world=World(), caller=caller)
        remote = RemoteBus(bus, one, [one.default_id], rng=World().rng)
        async with remote, server:
            yield one, two, lambda *command: start(address, *command)


async def start(address, *command):
    return await asyncio.create_subprocess_exec(
        SHEM,
        "--gsb-url",
        str(address),
        "net",
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def output(run, *command, code=0):
    process = await run(*command)
    async with asyncio.timeout(20):
        stdout, stderr = await process.communicate()
    assert process.returncode == code, stderr.decode()
    return stdout.decode()


async def watched(net, is_on):
    while net.trace.is_on is not is_on:  # noqa: ASYNC110 - another process makes it so
        await asyncio.sleep(0.01)


async def test_connect_makes_a_session_and_disconnect_drops_it(tmp_path):
    async with node_and_peer(tmp_path) as (one, two, run):
        found = json.loads(await output(run, "connect", two.default_id, "--json"))

        assert found["identities"] == [two.default_id]
        assert [row.kind for row in one.sessions()] == ["relay", "p2p"]
        assert await output(run, "disconnect", two.default_id) == ""
        assert [row.kind for row in one.sessions()] == ["relay"]


async def test_connect_to_nobody_fails(tmp_path):
    async with node_and_peer(tmp_path) as (_, _, run):
        await output(run, "connect", NOBODY, code=1)
        await output(run, "connect", "nonsense", code=2)


async def test_neighbours_are_listed(tmp_path):
    async with node_and_peer(tmp_path) as (_, two, run):
        assert json.loads(await output(run, "list-neighbors", "5", "--json")) == [two.default_id]
        assert await output(run, "list-neighbors", "5") == f"{two.default_id}\n"


async def test_sockets_are_listed(tmp_path):
    async with node_and_peer(tmp_path) as (one, two, run):
        await one.send(two.default_id, Channel.RELIABLE, b"x", timeout_s=5)

        rows = json.loads(await output(run, "sockets", "--json"))
        table = await output(run, "sockets")

    assert {"Listen"} < {row["state"] for row in rows}
    assert any(row["to port"] == "1" and row["type"] == "tcp" for row in rows)
    assert "to addr" in table.splitlines()[0]


@pytest.mark.parametrize("as_json", [False, True])
async def test_trace_shows_what_happens_until_it_is_interrupted(tmp_path, as_json):
    async with node_and_peer(tmp_path) as (one, two, run):
        options = ["--json"] if as_json else []
        process = await run("trace", two.default_id, "--layer", "event", *options)
        async with asyncio.timeout(20):
            await watched(one, True)
            await one.connect(two.default_id)
            shown = await process.stdout.readline()
            process.terminate()
            await process.communicate()
            await watched(one, False)

    if as_json:
        assert json.loads(shown)["peer"] == two.default_id
    else:
        assert f"event    -- {two.default_id[:10]}…" in shown.decode()
