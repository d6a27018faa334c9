"""A real yagna at relays of ours that stop, crash, and share a network."""

import asyncio
import time

import pytest

from shem.kernel.world import World
from shem.relay.mesh import MemoryMesh
from shem.relay.registry import MemoryRegistry
from shem.relay.service import Relay
from tests.interop.real_yagna import real_yagna
from tests.interop.test_interop_net_yagna import assert_yagna_pings, our_node

LOOPBACK = ("127.0.0.1", 0)
CHANNELS = ("", "/udp", "/transfer")

pytestmark = pytest.mark.timeout(110)


async def test_yagna_keeps_its_session_over_a_restart_of_the_relay(tmp_path):
    first = Relay(World(), LOOPBACK, tmp_path / "relay")
    await first.__aenter__()
    address = first.address
    async with our_node(address) as node, real_yagna(tmp_path, address) as yagna:
        await first.__aexit__(None, None, None)
        async with Relay(World(), address, tmp_path / "relay") as again:
            assert (await node.net.find(yagna.node_id)).endpoints == (yagna.bind,)
            assert (await yagna.cli("net", "find", node.node_id))["slot"] == 1
            await assert_yagna_pings(yagna, node.node_id)
            assert again.status()["handshakes"] == 0


async def test_yagna_comes_back_within_15_s_after_a_crash_of_the_relay(tmp_path):
    first = Relay(World(), LOOPBACK)
    await first.__aenter__()
    address = first.address
    async with real_yagna(tmp_path, address) as yagna:
        await first.__aexit__(None, None, None)
        started = time.monotonic()
        async with Relay(World(), address) as again, asyncio.timeout(25):
            while not again.nodes:  # noqa: ASYNC110 - another process makes it so
                await asyncio.sleep(0.05)
            assert again.status()["nodes"] == 1
        print(f"back after {time.monotonic() - started:.1f} s")  # noqa: T201
        assert time.monotonic() - started < 17
        assert yagna.is_running


async def test_ours_and_a_yagna_at_two_relays_of_one_network_reach_each_other(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("shem.relay.registry.Registration.endpoints", ())  # all goes by relays
    shared = {"registry": MemoryRegistry(), "mesh": MemoryMesh()}
    async with (
        Relay(World(), LOOPBACK, name="east", **shared) as east,
        Relay(World(), LOOPBACK, name="west", **shared) as west,
        our_node(east.address) as node,
        real_yagna(tmp_path, west.address) as yagna,
    ):
        for channel in CHANNELS:
            assert await node.ping(yagna.node_id, channel) == {}
        await assert_yagna_pings(yagna, node.node_id)

        assert east.nodes == west.nodes == 1
        assert node.peer_kinds == ["relay"]
        assert node.node_id in await yagna.cli("net", "list-neighbors", "5")
