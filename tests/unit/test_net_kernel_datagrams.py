"""The UDP seam and the per-source limits."""

import asyncio

import pytest
import uvloop

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


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine on either event loop: uvloop stops watching a socket that has an error."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


def test_a_refused_datagram_is_told_and_the_others_go_on(run):
    async def story():
        refused, received, back = asyncio.Queue(), asyncio.Queue(), asyncio.Queue()
        one = DatagramSocket(LOOPBACK, received.put_nowait, refused.put_nowait)
        two = DatagramSocket(LOOPBACK, back.put_nowait)
        gone = DatagramSocket(LOOPBACK, lambda _: None)
        nobody = gone.address
        gone.close()
        try:
            async with asyncio.timeout(10):
                for number in range(50):
                    one.send(b"x", nobody)
                    one.send(b"%d" % number, two.address)
                    two.send(b"%d" % number, one.address)
                    if number % 5 == 0:
                        assert await refused.get() == nobody
                got = {bytes(data) for box in (received, back) for data in await drain(box, 50)}
                assert got == {b"%d" % number for number in range(50)}
        finally:
            one.close()
            two.close()

    run(story())


async def drain(box, count):
    """Return so many datagrams, whoever they are from."""
    got = []
    while len(got) < count:
        got += [data for data, _ in await box.get()]
    return got


def test_a_backlog_is_sent_though_datagrams_before_it_were_refused(run):
    async def story():
        received = asyncio.Queue()
        one = DatagramSocket(LOOPBACK, lambda _: None, lambda _: None)
        two = DatagramSocket(LOOPBACK, received.put_nowait)
        try:
            async with asyncio.timeout(10):
                one.send(b"x", ("127.0.0.1", 9))
                one._unsent.append((b"waiting", two.address))
                one._loop.add_writer(one._socket, one._flush)
                one.send(b"last", two.address)
                assert await drain(received, 2) == [b"waiting", b"last"]
        finally:
            one.close()
            two.close()

    run(story())


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
