import contextlib
import math

from flatbuffers import flexbuffers as reference
from hypothesis import given
from hypothesis import strategies as st

from shem.wire.errors import WireError
from shem.wire.flexbuffers import Blob, dumps, loads, unpack

TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
KEYS = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=40,
)
LISTS = st.lists(st.integers(0, 70_000), max_size=300) | st.lists(st.floats(allow_nan=False))


@given(VALUES | LISTS)
def test_a_value_comes_back(value: object) -> None:
    assert loads(dumps(value)) == value


@given(VALUES | LISTS)
def test_the_public_library_reads_what_we_write(value: object) -> None:
    assert reference.Loads(dumps(value)) == value


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 63), (1 << 63) - 1)
        | TEXT
        | st.floats(width=32, allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=6),
        max_leaves=40,
    )
)
def test_we_read_what_the_public_library_writes(value: object) -> None:
    assert loads(bytes(reference.Dumps(value))) == value


@given(st.binary(max_size=400))
def test_a_blob_comes_back(data: bytes) -> None:
    assert loads(dumps({"content": Blob(data)})) == {"content": Blob(data)}


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        unpack(data)


@given(VALUES, st.data())
def test_a_damaged_document_decodes_or_is_refused(value: object, data: st.DataObject) -> None:
    document = bytearray(dumps(value))
    at = data.draw(st.integers(0, len(document) - 1))
    document[at] = data.draw(st.integers(0, 255))

    with contextlib.suppress(WireError):
        loads(bytes(document))


@given(st.floats())
def test_floats_are_as_short_as_they_can_be_without_loss(value: float) -> None:
    back = loads(dumps(value))

    assert back == value or (math.isnan(back) and math.isnan(value))
