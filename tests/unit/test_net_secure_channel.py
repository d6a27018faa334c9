"""Data packets: opened once, unchanged, by the one they are for; counters, windows and limits."""

import random

import pytest

from shem.kernel.errors import PeerError
from shem.kernel.ids import NodeId
from shem.net.secure.channel import (
    REJECT_AFTER_PACKETS,
    REJECT_AFTER_S,
    RENEW_AFTER_S,
    Agreed,
    Channel,
)
from shem.net.secure.packets import DATA, DATA_HEAD, OVERHEAD, Kind
from shem.net.secure.window import WINDOW_SIZE, ReplayWindow

A, B, C = (NodeId("0x" + c * 40) for c in "abc")
K1, K2 = bytes(32), bytes([1]) * 32


def end(own=A, peer=B, keys=(K1, K2), numbers=(1, 2), now=0.0):
    return Channel(
        Agreed(
            own_ids=(own,),
            own_number=numbers[0],
            peer_ids=(peer,),
            peer_number=numbers[1],
            peer_static=bytes(32),
            send_key=keys[0],
            receive_key=keys[1],
            is_initiator=True,
        ),
        now,
    )


def pair():
    return end(), end(B, A, (K2, K1), (2, 1))


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("size", [0, 1, 1372, 60_000])
def test_what_is_sealed_is_opened(kind, size):
    one, two = pair()
    payload = bytes(range(256)) * (size // 256 + 1)
    packet = one.seal(kind, payload[:size])

    assert len(packet) == size + OVERHEAD
    assert two.open(packet) == (kind, payload[:size])
    assert one.open(two.seal(kind, b"back")) == (kind, b"back")


def test_the_kind_of_a_packet_does_not_show():
    sealed = {end().seal(kind, b"same")[: DATA_HEAD.size] for kind in Kind}
    assert len(sealed) == 1


def test_no_byte_can_be_changed():
    one, two = pair()
    packet = one.seal(Kind.STREAM, b"pay 1 GLM")
    for position in range(len(packet)):
        forged = bytearray(packet)
        forged[position] ^= 0x80
        with pytest.raises(PeerError):
            two.open(bytes(forged))
    assert two.open(packet) == (Kind.STREAM, b"pay 1 GLM")


@pytest.mark.parametrize("size", range(OVERHEAD))
def test_cut_off_packets_are_refused(size):
    one, two = pair()
    with pytest.raises(PeerError):
        two.open(one.seal(Kind.STREAM, b"x")[:size])


def test_a_packet_is_opened_once():
    one, two = pair()
    packet = one.seal(Kind.UNRELIABLE, b"exec")
    two.open(packet)
    with pytest.raises(PeerError, match="seen"):
        two.open(packet)


def test_a_packet_is_not_taken_back_by_its_sender():
    one, _ = pair()
    with pytest.raises(PeerError):
        one.open(one.seal(Kind.STREAM, b"x"))


@pytest.mark.parametrize(
    "other",
    [end(C, A, (K2, K1), (2, 1)), end(B, C, (K2, K1), (2, 1)), end(B, A, (K2, K2), (2, 1))],
    ids=["another receiver", "another sender", "another key"],
)
def test_a_packet_is_bound_to_both_nodes_and_the_key(other):
    with pytest.raises(PeerError):
        other.open(end().seal(Kind.STREAM, b"x"))


def test_a_forged_high_counter_does_not_move_the_window():
    one, two = pair()
    packet = one.seal(Kind.STREAM, b"x")
    forged = DATA_HEAD.pack(DATA, 2, 1 << 40) + packet[DATA_HEAD.size :]
    with pytest.raises(PeerError):
        two.open(forged)
    assert two.open(packet) == (Kind.STREAM, b"x")


def test_packets_in_any_order_within_the_window_are_each_opened_once():
    one, two = pair()
    packets = [one.seal(Kind.STREAM, b"%d" % n) for n in range(1000)]
    random.Random(5).shuffle(packets)
    assert sorted(int(two.open(packet)[1]) for packet in packets) == list(range(1000))
    for packet in packets:
        with pytest.raises(PeerError):
            two.open(packet)


def test_a_packet_behind_the_window_is_refused():
    one, two = pair()
    late = one.seal(Kind.STREAM, b"late")
    just = one.seal(Kind.STREAM, b"just")
    for _ in range(WINDOW_SIZE - 1):
        newest = one.seal(Kind.STREAM, b"")
    two.open(newest)
    assert two.open(just) == (Kind.STREAM, b"just")
    with pytest.raises(PeerError):
        two.open(late)


def test_an_unknown_kind_is_refused():
    one, two = pair()
    with pytest.raises(PeerError, match="kind 9"):
        two.open(one.seal(9, b""))


def test_channels_are_renewed_and_then_refused_by_age_and_by_length():
    channel = end(now=100.0)
    assert not channel.wants_renewal(100.0 + RENEW_AFTER_S - 1)
    assert channel.wants_renewal(100.0 + RENEW_AFTER_S)
    assert channel.is_usable(100.0 + REJECT_AFTER_S - 1)
    assert not channel.is_usable(100.0 + REJECT_AFTER_S)
    channel.sent = REJECT_AFTER_PACKETS
    assert channel.wants_renewal(100.0)
    assert not channel.is_usable(100.0)
    other = end(B, A, (K2, K1), (2, 1))
    with pytest.raises(PeerError):
        other.open(channel.seal(Kind.STREAM, b"one too many"))


def test_window_against_a_set():
    choice = random.Random(1)
    window, seen, highest = ReplayWindow(), set(), -1
    for _ in range(20_000):
        counter = max(0, highest + choice.randint(-WINDOW_SIZE - 50, 60))
        expected = counter not in seen and counter > highest - WINDOW_SIZE
        assert window.is_new(counter) is expected
        if expected:
            window.add(counter)
            seen.add(counter)
            highest = max(highest, counter)


def test_window_after_a_leap():
    window = ReplayWindow()
    window.add(3)
    window.add(3 + 10 * WINDOW_SIZE)
    assert not window.is_new(3)
    assert not window.is_new(3 + 10 * WINDOW_SIZE)
    assert window.is_new(4 + 9 * WINDOW_SIZE)


def test_keys_do_not_show():
    channel = end(keys=(b"k" * 32, b"K" * 32))
    assert "kkk" not in repr(channel.agreed).lower()
    assert b"kkk".hex() not in repr(channel.agreed)
