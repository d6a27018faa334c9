"""Frames are cut at multiples of four; early bytes wait within bounds (net.md §8.4, §9.1)."""

import pytest

from shem.net.vtcp.queues import HELD_SEGMENTS_MAX, RECEIVE_WINDOW, FrameQueue, Reassembly


def test_a_frame_is_taken_in_pieces_and_its_end_is_told():
    queue = FrameQueue()
    queue.push(b"abcdefgh")

    assert queue.take(4) == (b"abcd", False)
    assert queue.untouched() == []
    assert queue.take(100) == (b"efgh", True)
    assert queue.size == 0


def test_small_frames_share_a_segment():
    queue = FrameQueue()
    for frame in (b"aaaa", b"bbbb", b"cccccccc"):
        queue.push(frame)

    assert queue.take(12) == (b"aaaabbbbcccc", False)
    assert queue.take(12) == (b"cccc", True)


def test_only_frames_not_begun_are_untouched():
    queue = FrameQueue()
    queue.push(b"aaaabbbb")
    queue.push(b"cccc")
    queue.take(4)

    assert queue.untouched() == [b"cccc"]


def test_bytes_in_order_pass_at_once():
    stream = Reassembly(1)

    assert stream.accept(1, b"ab") == [b"ab"]
    assert stream.accept(3, b"c") == [b"c"]
    assert stream.next == 4


def test_a_hole_holds_back_what_follows():
    stream = Reassembly(0)

    assert stream.accept(2, b"cd") == []
    assert stream.accept(4, b"ef") == []
    assert stream.has_hole
    assert stream.accept(0, b"ab") == [b"ab", b"cd", b"ef"]
    assert not stream.has_hole


@pytest.mark.parametrize(
    "segments",
    [
        [(0, b"abcd"), (2, b"cdef")],
        [(2, b"cdef"), (0, b"abcd")],
        [(2, b"cd"), (2, b"cdef"), (2, b"c"), (0, b"ab")],
        [(1, b"bcdef"), (2, b"cd"), (0, b"a")],
        [(0, b"abc"), (0, b"ab"), (1, b"bcdef"), (0, b"abcdef")],
    ],
)
def test_overlapping_segments_give_each_byte_once(segments):
    stream = Reassembly(0)

    pieces = [piece for offset, data in segments for piece in stream.accept(offset, data)]

    assert b"".join(pieces) == b"abcdef"


def test_bytes_beyond_the_window_are_dropped():
    stream = Reassembly(0)

    stream.accept(RECEIVE_WINDOW - 3, b"abcd")

    assert not stream.has_hole


def test_the_number_of_held_pieces_is_bounded():
    stream = Reassembly(0)
    for n in range(HELD_SEGMENTS_MAX + 10):
        stream.accept(2 + 2 * n, b"x")

    assert len(stream.held_blocks(0, 10_000)) == HELD_SEGMENTS_MAX


def test_the_held_bytes_are_bounded_even_when_pieces_overlap():
    stream = Reassembly(0)
    for n in range(20):
        stream.accept(1 + n, bytes(60_000))

    assert stream.held_blocks(0, 100) == [(1, 60_000 + RECEIVE_WINDOW // 60_000)]
    assert sum(map(len, stream.accept(0, b"x"))) == 60_000 + RECEIVE_WINDOW // 60_000
    assert stream.accept(60_000 + 10, bytes(100_000)) == []
    assert stream.has_hole


def test_blocks_are_merged_and_the_latest_comes_first():
    stream = Reassembly(0)
    for offset in (2, 4, 10, 20):
        stream.accept(offset, b"xy")

    assert stream.held_blocks(11, 2) == [(10, 12), (2, 6)]
    assert stream.held_blocks(2, 4) == [(2, 6), (10, 12), (20, 22)]
