"""The relay on real sockets: its slot file (docs/protocol/net.md §5.3)."""

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shem.identity.keys import PrivateKey
from shem.kernel.errors import UsageError
from shem.kernel.ids import node_id_to_bytes
from shem.kernel.world import SystemRng, World
from shem.net.service import Net
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
