"""The relay on real sockets: its slot file (docs/protocol/net.md §5.3)."""

import asyncio
import sys
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shem.identity.keys import PrivateKey
from shem.kernel.errors import UsageError
from shem.kernel.ids import node_id_to_bytes
from shem.kernel.world import SystemRng, World
from shem.net.service import Net
from shem.net.types import Channel
from shem.relay.mesh import MemoryMesh
from shem.relay.registry import MemoryRegistry
from shem.relay.service import SLOT_FILE, SNAPSHOT_FILE, Relay
from shem.relay.slots import parse_slots

LOOPBACK = ("127.0.0.1", 0)


async def visit(state_dir, *keys):
    async with Relay(World(), LOOPBACK, state_dir, difficulty=2) as relay:
        for key in keys:
            async with Net(World(), [key], LOOPBACK, relay.address) as net:
                await net.wait_online(5)
                slot = (await net.find(key.node_id)).slot
    return slot


async def test_slots_are_kept_over_a_restart(tmp_path):
    one, two = (PrivateKey.generate(SystemRng()) for _ in range(2))

    await visit(tmp_path / "relay", one, two)

    assert await visit(tmp_path / "relay", two) == 2
    stored = (tmp_path / "relay" / SLOT_FILE).read_bytes()
    assert parse_slots(stored) == [node_id_to_bytes(key.node_id) for key in (one, two)]


async def test_entry_cut_off_by_a_crash_is_dropped(tmp_path):
    one, two = (PrivateKey.generate(SystemRng()) for _ in range(2))
    await visit(tmp_path, one)
    with (tmp_path / SLOT_FILE).open("ab") as file:
        file.write(b"torn")

    assert await visit(tmp_path, two) == 2
    assert len((tmp_path / SLOT_FILE).read_bytes()) == 40


async def test_taken_port_is_a_usage_error():
    async with Relay(World(), LOOPBACK) as relay:
        with pytest.raises(UsageError, match="cannot listen"):
            async with Relay(World(), relay.address):
                pass


async def test_sessions_are_taken_up_by_the_next_process(tmp_path):
    key = PrivateKey.generate(SystemRng())
    relay = Relay(World(), LOOPBACK, tmp_path, difficulty=2)
    async with relay, Net(World(), [key], LOOPBACK, relay.address) as net:
        await net.wait_online(5)
        [session] = net.sessions()
        await relay.__aexit__(None, None, None)
        assert (tmp_path / SNAPSHOT_FILE).stat().st_mode & 0o777 == 0o600

        async with Relay(World(), relay.address, tmp_path, difficulty=2) as again:
            assert again.nodes == 1
            assert (await net.find(key.node_id)).node_id == key.node_id
            assert [row.session_id for row in net.sessions()] == [session.session_id]
            assert not (tmp_path / SNAPSHOT_FILE).exists()


async def test_taken_port_leaves_the_snapshot_for_a_later_start(tmp_path):
    async with Relay(World(), LOOPBACK) as other:
        (tmp_path / SNAPSHOT_FILE).write_bytes(b"kept")
        with pytest.raises(UsageError):
            async with Relay(World(), other.address, tmp_path):
                pass
    assert (tmp_path / SNAPSHOT_FILE).exists()


async def test_metrics_and_status_are_served_over_http():
    key = PrivateKey.generate(SystemRng())
    relay = Relay(World(), LOOPBACK, difficulty=2, metrics=LOOPBACK)
    async with relay, Net(World(), [key], LOOPBACK, relay.address) as net:
        await net.wait_online(5)
        await net.find(key.node_id)
        url = "http://{}:{}".format(*relay.metrics_address)
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{url}/metrics") as answer:
                text = await answer.text()
                assert answer.content_type == "text/plain"
            async with http.get(f"{url}/status") as answer:
                status = await answer.json()

    families = {family.name: family for family in text_string_to_metric_families(text)}
    values = {sample.name: sample.value for f in families.values() for sample in f.samples}
    assert values["shem_relay_nodes"] == values["shem_relay_public_nodes"] == 1
    assert values["shem_relay_handshakes_total"] == 1
    assert values["process_resident_memory_bytes"] > 0
    assert status["nodes"] == status["handshakes"] == status["slots"] == 1
    assert status["address"] == "{}:{}".format(*relay.address)


async def test_taken_metrics_port_is_a_usage_error_and_frees_the_socket():
    async with Relay(World(), LOOPBACK, metrics=LOOPBACK) as relay:
        with pytest.raises(UsageError, match="cannot listen"):
            async with Relay(World(), LOOPBACK, metrics=relay.metrics_address):
                pass


@pytest.mark.parametrize("channel", list(Channel))
async def test_nodes_at_two_relays_of_one_network_talk_through_both(channel, monkeypatch):
    monkeypatch.setattr("shem.relay.registry.Registration.endpoints", ())  # nobody is public
    shared = {"registry": MemoryRegistry(), "mesh": MemoryMesh(), "difficulty": 2}
    keys = [PrivateKey.generate(SystemRng()) for _ in range(2)]
    async with (
        Relay(World(), LOOPBACK, name="east", **shared) as east,
        Relay(World(), LOOPBACK, name="west", **shared) as west,
        Net(World(), [keys[0]], LOOPBACK, east.address) as one,
        Net(World(), [keys[1]], LOOPBACK, west.address) as two,
    ):
        got = asyncio.Queue()
        two.on_message(lambda *arrived: got.put_nowait(arrived))
        for net in (one, two):
            await net.wait_online(5)

        await one.send(two.default_id, channel, b"hello", timeout_s=5)

        peer, _, message = await asyncio.wait_for(got.get(), 5)
        assert (peer.node_id, message) == (one.default_id, b"hello")
        assert [row.kind for row in one.sessions()] == ["relay"]


async def run_relay(*options):
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("shem"),
        "relay",
        "run",
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    lines = [(await process.stdout.readline()).decode() for _ in range(2)]
    address = lines[0].split()[-1]
    return process, address, lines[1].split()[-1].removesuffix("/metrics")


async def test_relay_process_goes_on_after_sigterm_where_it_stopped(tmp_path):
    options = ["--state-dir", str(tmp_path), "--metrics", "127.0.0.1:0"]
    process, address, _ = await run_relay("--listen", "127.0.0.1:0", *options)
    host, _, port = address.rpartition(":")
    key = PrivateKey.generate(SystemRng())
    async with Net(World(), [key], LOOPBACK, (host, int(port))) as net:
        await net.wait_online(10)
        process.terminate()
        assert await process.wait() == 0

        process, again, url = await run_relay("--listen", address, *options)
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{url}/status") as answer:
                status = await answer.json()
            assert again == address
            assert (status["nodes"], status["handshakes"]) == (1, 0)
            assert (await net.find(key.node_id)).slot == 1
        finally:
            process.terminate()
            await process.wait()
