"""Whatever the link does, messages arrive once, in order and whole, and soon after it heals."""

from hypothesis import given, settings
from hypothesis import strategies as st

from shem.net.types import Channel
from tests.sim.stream_link import Faults, Link

HEALED = Faults(delay_s=0.02)
DRAIN_BOUND_S = 30.0

FAULTS = st.builds(
    Faults,
    loss=st.floats(0, 0.4),
    repeat=st.floats(0, 0.3),
    delay_s=st.floats(0.0001, 0.3),
    jitter_s=st.floats(0, 0.2),
    corrupt=st.floats(0, 0.1),
)
SIZES = st.one_of(st.integers(1, 3000), st.integers(1, 60_000))
SENDS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([Channel.RELIABLE, Channel.TRANSFER]),
        SIZES,
        st.floats(0, 2),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), faults=FAULTS, sends=SENDS)
def test_every_message_arrives_once_in_order_and_whole(seed, faults, sends):
    link = Link(seed, faults)
    expected: dict[tuple[int, Channel], list[bytes]] = {}
    for side, channel, size, pause in sends:
        message = link.random.randbytes(size)
        expected.setdefault((1 - side, channel), []).append(message)
        link.send(side, channel, message)
        link.run(pause)

    link.faults = HEALED
    link.run_until_quiet(DRAIN_BOUND_S)

    for (side, channel), messages in expected.items():
        assert link.received(side, channel) == messages
    assert link.ends[0].lost == link.ends[1].lost == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), faults=FAULTS, sends=SENDS, victim=st.integers(0, 11))
def test_after_a_restart_nothing_is_repeated_and_the_link_works_again(seed, faults, sends, victim):
    link = Link(seed, faults)
    sent: dict[tuple[int, Channel], list[bytes]] = {}
    for n, (side, channel, size, pause) in enumerate(sends):
        if n == victim:
            link.restart(1)
        message = n.to_bytes(4) + link.random.randbytes(size)
        sent.setdefault((1 - side, channel), []).append(message)
        link.send(side, channel, message)
        link.run(pause)
    link.faults = HEALED
    link.run_until_quiet(DRAIN_BOUND_S)

    for (side, channel), messages in sent.items():
        received = link.received(side, channel)
        assert received == [each for each in messages if each in received]
    link.send(0, Channel.RELIABLE, b"to one")
    link.send(1, Channel.RELIABLE, b"to zero")
    link.run(5)  # what was written on a dead connection may be lost, once
    link.send(0, Channel.RELIABLE, b"to one again")
    link.send(1, Channel.RELIABLE, b"to zero again")
    link.run(5)
    assert link.received(1)[-1] == b"to one again"
    assert link.received(0)[-1] == b"to zero again"
