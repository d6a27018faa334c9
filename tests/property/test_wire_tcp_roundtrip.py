"""Any segment survives the codec; any other bytes are a WireError, never anything else."""

from hypothesis import given
from hypothesis import strategies as st

from shem.wire import tcp
from shem.wire.errors import WireError

SEGMENTS = st.builds(
    tcp.Segment,
    source=st.binary(min_size=16, max_size=16),
    destination=st.binary(min_size=16, max_size=16),
    source_port=st.integers(0, 65_535),
    destination_port=st.integers(0, 65_535),
    seq=st.integers(0, 2**32 - 1),
    ack=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 255),
    window=st.integers(0, 65_535),
    payload=st.binary(max_size=1400),
    options=st.integers(0, 10).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n)),
)


@given(SEGMENTS)
def test_a_segment_survives_the_codec(segment):
    assert tcp.decode_segment(tcp.encode_segment(segment)) == segment


@given(SEGMENTS, st.data())
def test_one_flipped_bit_is_noticed_or_harmless(segment, data):
    packet = bytearray(tcp.encode_segment(segment))
    bit = data.draw(st.integers(0, len(packet) * 8 - 1))
    packet[bit // 8] ^= 1 << bit % 8

    try:
        decoded = tcp.decode_segment(bytes(packet))
    except WireError:
        return
    # only traffic class, flow label and hop limit are outside the checksum, and mean nothing here
    assert decoded == segment


@given(st.binary(max_size=200))
def test_any_bytes_are_a_segment_or_a_wire_error(data):
    try:
        tcp.decode_segment(data)
    except WireError:
        return


@given(st.binary(max_size=44))
def test_any_options_are_read_or_a_wire_error(options):
    for read in (tcp.read_syn_options, tcp.read_sack_blocks):
        try:
            read(options)
        except WireError:
            continue


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), max_size=4))
def test_selective_acknowledgements_survive_the_codec(blocks):
    options = tcp.sack_options(blocks)

    assert len(options) % 4 == 0
    assert tcp.read_sack_blocks(options) == blocks
