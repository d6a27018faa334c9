"""Capture buffers agree with slicing the whole output, in whatever pieces it comes."""

from hypothesis import given
from hypothesis import strategies as st

from shem.exeunit import capture
from shem.exeunit.capture import Capture
from shem.exeunit.commands import CaptureMode, Part

PIECES = st.lists(st.binary(max_size=20), max_size=20)
LIMITS = st.integers(0, 60)


def kept(mode: CaptureMode, pieces: list[bytes]) -> bytes:
    buffer = Capture(mode)
    for piece in pieces:
        buffer.add(piece)
    output = buffer.output()
    assert output is None or isinstance(output, bytes)
    assert not buffer.cut
    return output or b""


@given(PIECES)
def test_all_keeps_everything(pieces: list[bytes]) -> None:
    assert kept(CaptureMode(binary=True), pieces) == b"".join(pieces)


@given(PIECES, LIMITS)
def test_head_keeps_the_first_bytes(pieces: list[bytes], limit: int) -> None:
    mode = CaptureMode(part=Part.HEAD, limit=limit, binary=True)

    assert kept(mode, pieces) == b"".join(pieces)[:limit]


@given(PIECES, LIMITS)
def test_tail_keeps_the_last_bytes(pieces: list[bytes], limit: int) -> None:
    mode = CaptureMode(part=Part.TAIL, limit=limit, binary=True)

    whole = b"".join(pieces)
    assert kept(mode, pieces) == whole[max(0, len(whole) - limit) :]


@given(PIECES, LIMITS)
def test_head_tail_keeps_both_ends_once(pieces: list[bytes], limit: int) -> None:
    mode = CaptureMode(part=Part.HEAD_TAIL, limit=limit, binary=True)

    whole = b"".join(pieces)
    if len(whole) <= limit:
        assert kept(mode, pieces) == whole
    else:
        head, tail = limit - limit // 2, limit // 2
        assert kept(mode, pieces) == whole[:head] + whole[len(whole) - tail :]


@given(PIECES, LIMITS)
def test_stream_shows_exactly_what_it_keeps(pieces: list[bytes], limit: int) -> None:
    buffer = Capture(CaptureMode(stream=True, part=Part.HEAD, limit=limit, binary=True))

    shown = b"".join(buffer.add(piece) for piece in pieces)

    assert shown == (buffer.output() or b"") == b"".join(pieces)[:limit]


def test_without_capture_nothing_is_kept() -> None:
    buffer = Capture(None)

    assert buffer.add(b"text") == b""
    assert buffer.output() is None


def test_empty_output_is_none() -> None:
    assert Capture(CaptureMode()).output() is None


def test_what_is_no_text_becomes_code_points_of_the_same_value() -> None:
    buffer = Capture(CaptureMode())
    buffer.add(b"\xff\xfeA")

    assert buffer.output() == "ÿþA"


def test_nothing_beyond_the_limit_of_a_buffer_is_kept_and_the_loss_is_known() -> None:
    buffer = Capture(CaptureMode(binary=True))
    buffer.add(b"x" * capture.CAPTURE_SIZE_MAX)
    assert not buffer.cut

    buffer.add(b"y")

    assert buffer.cut
    assert len(buffer.output() or b"") == capture.CAPTURE_SIZE_MAX
