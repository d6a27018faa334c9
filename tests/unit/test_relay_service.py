"""The relay on real sockets: its slot file (docs/protocol/net.md §5.3)."""

import pytest

from shem.identity.keys import PrivateKey
from shem.kernel.errors import UsageError
from shem.kernel.ids import node_id_to_bytes
from shem.kernel.world import SystemRng, World
from shem.net.service import Net
from shem.relay.service import SLOT_FILE, Relay
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
