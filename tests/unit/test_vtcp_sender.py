"""What is sent, what is sent again, and when (net.md §8.4)."""

import pytest

from shem.net.vtcp.sender import REORDER_MIN, Sender
from shem.net.vtcp.timing import (
    IN_FLIGHT_MAX,
    RTO_INITIAL_S,
    RTO_MAX_CONNECTING_S,
    RTO_MAX_S,
    RTO_MIN_S,
    SEGMENT_SIZE,
)
from shem.wire.tcp import FIN, PSH, SYN

WIDE = 4 << 20


def open_sender(frames=(), window=WIDE):
    """Return a sender whose SYN was acknowledged after 10 ms."""
    sender = Sender(SYN)
    sender.collect(0.0)
    sender.limit_payload(1338)
    sender.on_ack(1, window, (), pure=True, now=0.01)
    for frame in frames:
        sender.push(frame)
    return sender


def offsets(segments):
    return [each.offset for each in segments]


def test_begins_with_a_syn_and_holds_data_until_it_is_acknowledged():
    sender = Sender(SYN)
    sender.push(b"data")

    [syn] = sender.collect(0.0)
    assert (syn.flags, syn.offset, syn.size) == (SYN, 0, 1)
    assert sender.collect(0.1) == []

    sender.on_ack(1, WIDE, (), pure=True, now=0.2)
    [data] = sender.collect(0.2)
    assert (data.flags, data.offset, data.payload) == (PSH, 1, b"data")


def test_a_syn_is_repeated_soon_and_for_ever():
    sender = Sender(SYN)
    sender.collect(0.0)
    waits = []
    now = 0.0
    for _ in range(4):
        waits.append(sender.deadline - now)
        now = sender.deadline
        sender.on_timeout(now)
        [syn] = sender.collect(now)
        assert syn.flags == SYN

    assert waits == [RTO_INITIAL_S, 2.0, RTO_MAX_CONNECTING_S, RTO_MAX_CONNECTING_S]


def test_a_long_frame_is_cut_at_multiples_of_four_and_pushed_at_its_end():
    sender = open_sender([bytes(SEGMENT_SIZE * 2 + 400)])

    segments = sender.collect(0.02)

    assert [len(each.payload) for each in segments] == [SEGMENT_SIZE, SEGMENT_SIZE, 400]
    assert SEGMENT_SIZE % 4 == 0
    assert [each.flags for each in segments] == [0, 0, PSH]


@pytest.mark.parametrize(("announced", "used"), [(1338, 1312), (1000, 1000), (1001, 1000)])
def test_the_peers_mss_is_respected(announced, used):
    sender = open_sender([bytes(4000)])
    sender.limit_payload(announced)

    assert len(sender.collect(0.02)[0].payload) == used


@pytest.mark.parametrize("announced", [0, 1, 535])
def test_an_absurd_mss_is_not(announced):
    sender = open_sender([bytes(4000)])
    sender.limit_payload(announced)

    assert len(sender.collect(0.02)[0].payload) == 536


def test_never_more_in_flight_than_the_peers_window():
    sender = open_sender([bytes(100_000)], window=5000)

    sent = sum(each.size for each in sender.collect(0.02))

    assert sent <= 5000
    assert sender.collect(0.03) == []


def test_never_more_in_flight_than_the_cap():
    sender = open_sender([bytes(4_000_000)])
    now = 0.02
    for _ in range(200):
        sender.collect(now)
        assert sender.next - sender.acknowledged <= IN_FLIGHT_MAX
        sender.on_ack(sender.next - SEGMENT_SIZE, WIDE, (), pure=True, now=now + 0.01)
        now += 0.02


def test_a_time_out_sends_the_first_segment_again_and_waits_twice_as_long():
    sender = open_sender([b"data"])
    sender.collect(1.0)
    assert sender.deadline == pytest.approx(1.0 + RTO_MIN_S)

    sender.on_timeout(1.3)
    [again] = sender.collect(1.3)

    assert again.payload == b"data"
    assert sender.deadline == pytest.approx(1.3 + 2 * RTO_MIN_S)


def test_the_wait_never_grows_beyond_its_maximum():
    sender = open_sender([b"data"])
    sender.collect(1.0)
    now = 1.0
    for _ in range(10):
        now = sender.deadline
        sender.on_timeout(now)
        sender.collect(now)

    assert sender.deadline - now == pytest.approx(RTO_MAX_S)


def test_an_acknowledgement_ends_the_doubling():
    sender = open_sender([b"data"])
    sender.collect(1.0)
    sender.on_timeout(1.3)
    sender.collect(1.3)
    sender.push(b"more")
    sender.collect(1.31)

    sender.on_ack(5, WIDE, (), pure=True, now=1.4)

    assert sender.deadline == pytest.approx(1.4 + RTO_MIN_S)


def test_three_plain_duplicates_resend_the_first_segment_once():
    sender = open_sender([bytes(SEGMENT_SIZE * 10)])
    sender.collect(0.02)
    for _ in range(REORDER_MIN - 1):
        sender.on_ack(1, WIDE, (), pure=True, now=0.03)
        assert sender.collect(0.03) == []

    sender.on_ack(1, WIDE, (), pure=True, now=0.03)
    assert offsets(sender.collect(0.03)) == [1]

    sender.on_ack(1, WIDE, (), pure=True, now=0.03)
    assert sender.collect(0.03) == []


def test_a_window_update_is_no_duplicate():
    sender = open_sender([bytes(SEGMENT_SIZE * 10)])
    sender.collect(0.02)

    for n in range(5):
        sender.on_ack(1, WIDE - n - 1, (), pure=True, now=0.03)

    assert sender.collect(0.03) == []


def test_selective_acknowledgements_show_all_holes_at_once():
    sender = open_sender([bytes(SEGMENT_SIZE * 10)])
    first, second, third, *_ = sender.collect(0.02)
    arrived = [(second.offset, second.end), (third.end, 1 + SEGMENT_SIZE * 10)]

    sender.on_ack(1, WIDE, arrived, pure=True, now=0.03)

    assert offsets(sender.collect(0.03)) == [first.offset, third.offset]


def test_a_lost_retransmission_is_noticed_by_what_was_sent_after_it():
    sender = open_sender([bytes(SEGMENT_SIZE * 10)])
    first = sender.collect(0.02)[0]
    sender.on_ack(1, WIDE, [(first.end, first.end + 9 * SEGMENT_SIZE)], pure=True, now=0.03)
    assert offsets(sender.collect(0.03)) == [1]
    sender.push(bytes(SEGMENT_SIZE * 3))
    later = sender.collect(0.03)

    sender.on_ack(1, WIDE, [(first.end, later[-1].end)], pure=True, now=0.04)

    assert offsets(sender.collect(0.04)) == [1]


def test_a_peer_that_drops_what_it_held_gets_it_again():
    sender = open_sender([bytes(SEGMENT_SIZE * 3)])
    first, second, third = sender.collect(0.02)
    sender.on_ack(1, WIDE, [(second.offset, third.end)], pure=True, now=0.03)
    sender.on_ack(first.end, WIDE, (), pure=True, now=0.04)

    sender.on_timeout(1.0)

    assert offsets(sender.collect(1.0)) == [second.offset, third.offset]


def test_a_path_that_reorders_gets_more_patience():
    sender = open_sender([bytes(SEGMENT_SIZE * 30)])
    first, *rest = sender.collect(0.02)
    sender.on_ack(1, WIDE, [(rest[0].offset, rest[3].end)], pure=True, now=0.03)
    assert offsets(sender.collect(0.03)) == [first.offset]
    sender.on_ack(rest[3].end, WIDE, (), pure=True, now=0.031)  # the first copy, after all

    late = rest[4]
    sender.on_ack(late.offset, WIDE, [(late.end, rest[8].end)], pure=True, now=0.032)

    assert sender.collect(0.032) == []


def test_a_part_of_a_segment_can_be_acknowledged():
    sender = open_sender([b"aaaabbbbcccc"])
    sender.collect(0.02)

    sender.on_ack(5, WIDE, (), pure=True, now=0.03)
    sender.on_timeout(0.4)

    [rest] = sender.collect(0.4)
    assert (rest.offset, rest.payload) == (5, b"bbbbcccc")


def test_an_old_acknowledgement_changes_nothing():
    sender = open_sender([b"aaaa", b"bbbb"])
    sender.collect(0.02)
    sender.on_ack(9, WIDE, (), pure=True, now=0.03)

    sender.on_ack(1, 0, (), pure=True, now=0.04)

    assert sender.window == WIDE
    assert sender.pending_bytes == 0


def test_a_shut_window_is_waited_for_with_growing_patience():
    sender = open_sender([b"aaaa"], window=0)
    assert sender.collect(1.0) == []
    assert sender.blocked
    first = sender.deadline
    sender.on_timeout(first)
    assert sender.collect(first) == []
    assert sender.deadline - first > first - 1.0

    sender.on_ack(1, 100, (), pure=True, now=5.0)

    assert [each.payload for each in sender.collect(5.0)] == [b"aaaa"]


def test_a_fin_follows_the_last_frame_and_is_repeated():
    sender = open_sender([b"aaaa"])
    sender.close()

    data, fin = sender.collect(0.02)
    assert (fin.flags, fin.offset, fin.size) == (FIN, data.end, 1)
    sender.on_ack(data.end, WIDE, (), pure=True, now=0.03)
    assert not sender.fin_acknowledged
    sender.on_timeout(0.4)
    assert [each.flags for each in sender.collect(0.4)] == [FIN]

    sender.on_ack(fin.end, WIDE, (), pure=True, now=0.5)
    assert sender.fin_acknowledged


def test_tells_how_much_of_a_frame_the_peer_may_miss():
    sender = open_sender([b"aaaa", bytes(SEGMENT_SIZE * 4), b"cccc"], window=SEGMENT_SIZE * 2)
    assert sender.broken_bytes() == 0
    sender.collect(0.02)

    # "aaaa" and 1332 bytes shared the first segment, the second was full
    assert sender.broken_bytes() == SEGMENT_SIZE * 3 + 4
    assert sender.unwritten() == [b"cccc"]

    sender.on_ack(1 + SEGMENT_SIZE * 2, SEGMENT_SIZE * 2, (), pure=True, now=0.03)
    sender.collect(0.03)
    assert sender.broken_bytes() == SEGMENT_SIZE * 2 + 4


def test_a_frame_in_one_segment_cannot_be_broken():
    sender = open_sender([b"aaaa", b"bbbb"])
    sender.collect(0.02)

    assert sender.broken_bytes() == 0
