"""Pins in memory and in the store."""

import pytest

from shem.kernel.ids import NodeId
from shem.kernel.world import World
from shem.net.secure.pin_store import PIN_LIFETIME_NS, PinStore
from shem.net.secure.pins import PINS_MAX, TELL_AGAIN_S, Pins
from shem.store.open import open_store

A, B, C = (NodeId("0x" + digit * 40) for digit in "abc")


class Clock:
    def __init__(self):
        self.ns = 1_800_000_000 * 10**9

    def wall_ns(self):
        return self.ns

    def monotonic(self):
        return self.ns / 1e9

    async def sleep(self, seconds):
        raise AssertionError


def test_pins_are_told_once_a_day():
    told = []
    pins = Pins([A], told.append)
    pins.add((A, B), 0.0)
    pins.add((A, B), TELL_AGAIN_S - 1)
    assert told == [(A, B)]
    pins.add((B, C), TELL_AGAIN_S)
    assert told[1:] == [(B, C)]


def test_without_leaves_the_unpinned():
    pins = Pins([A])
    everybody = frozenset({A, B})
    assert pins.without(everybody) == {B}
    others = frozenset({B, C})
    assert pins.without(others) is others


def test_pins_are_limited_and_the_oldest_goes():
    pins = Pins(NodeId(f"0x{n:040x}") for n in range(PINS_MAX))
    pins.add((A,), 1.0)
    assert A in pins
    assert NodeId(f"0x{0:040x}") not in pins
    assert NodeId(f"0x{1:040x}") in pins


@pytest.fixture
async def reopen(tmp_path):
    """Return a way to open the pins of one data directory, after a time."""
    clock = Clock()
    world = World(clock=clock)
    stores = []

    async def open_pins(after_ns=0):
        clock.ns += after_ns
        for store in stores:
            await store.close()
        stores[:] = [await open_store(tmp_path / "node.db", world=world)]
        return PinStore(stores[0], world)

    yield open_pins
    for store in stores:
        await store.close()


async def test_pins_outlive_the_process(reopen):
    async with await reopen() as kept:
        assert A not in kept.pins
        kept.pins.add((A, B), 1.0)
    async with await reopen() as kept:
        assert A in kept.pins and B in kept.pins
        assert C not in kept.pins


async def test_pins_of_peers_not_met_for_a_month_are_dropped(reopen):
    async with await reopen() as kept:
        kept.pins.add((A, B), 1.0)
    async with await reopen(PIN_LIFETIME_NS // 2) as kept:
        kept.pins.add((B,), TELL_AGAIN_S * 15)
    async with await reopen(PIN_LIFETIME_NS // 2 + 1) as kept:
        assert A not in kept.pins
        assert B in kept.pins
        assert await kept._store.fetch("SELECT * FROM net_pin WHERE node_id = :n", n=A) == []


async def test_a_failing_store_costs_the_memory_only(reopen):
    async with await reopen() as kept:
        await kept._store.close()
        kept.pins.add((A,), 1.0)
        assert A in kept.pins
