"""The UDP seam and the per-source limits."""

import asyncio

import pytest

from shem.kernel.datagrams import BATCH_MAX, DatagramSocket, send_once
from shem.kernel.errors import UsageError
from shem.kernel.rates import SOURCES_MAX, RateLimit

LOOPBACK = ("127.0.0.1", 0)


async def test_datagrams_arrive_in_batches_with_their_source():
    received = asyncio.Queue()
    one = DatagramSocket(LOOPBACK, received.put_nowait)
    two = DatagramSocket(LOOPBACK, lambda _: None)
    try:
        for number in range(BATCH_MAX + 1):
            two.send(b"%d" % number, one.address)
        got = []
        async with asyncio.timeout(5):
            while len(got) <= BATCH_MAX:
                batch = await received.get()
                assert len(batch) <= BATCH_MAX
                got += batch
        assert got == [(b"%d" % number, two.address) for number in range(BATCH_MAX + 1)]
    finally:
        one.close()
        two.close()


async def test_one_shot_comes_from_a_port_of_its_own():
    received = asyncio.Queue()
    one = DatagramSocket(LOOPBACK, received.put_nowait)
    try:
        send_once(b"a", one.address)
        async with asyncio.timeout(5):
            [(data, source)] = await received.get()
        assert data == b"a" and source != one.address
    finally:
        one.close()


async def test_sending_to_nowhere_and_after_close_is_no_error():
    one = DatagramSocket(LOOPBACK, lambda _: None)
    one.send(b"x" * 70_000, ("127.0.0.1", 9))
    one.send(b"x", ("127.0.0.1", 9))
    one.close()
    one.send(b"x", ("127.0.0.1", 9))
    one.close()


async def test_taken_port_is_a_usage_error():
    one = DatagramSocket(LOOPBACK, lambda _: None)
    try:
        with pytest.raises(UsageError, match="cannot listen"):
            DatagramSocket(one.address, lambda _: None)
    finally:
        one.close()


def test_limit_lets_a_burst_through_and_then_the_rate():
    limit = RateLimit(rate_per_s=2, burst=3)

    assert [limit.allow("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert limit.allow("b", 0.0)
    assert limit.allow("a", 0.5)
    assert not limit.allow("a", 0.6)


def test_limit_forgets_the_source_that_was_idle_longest():
    limit = RateLimit(rate_per_s=0, burst=1)
    limit.allow("first", 0.0)
    for number in range(SOURCES_MAX):
        limit.allow(number, 0.0)

    assert limit.allow("first", 0.0)
    assert not limit.allow(SOURCES_MAX - 1, 0.0)
