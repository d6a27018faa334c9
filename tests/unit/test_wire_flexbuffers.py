import json
import zlib
from pathlib import Path

import pytest

from shem.kernel.errors import UsageError
from shem.wire.errors import WireError
from shem.wire.flexbuffers import (
    Blob,
    as_bytes,
    dumps,
    dumps_reply_err,
    dumps_reply_ok,
    inflate,
    loads,
    pack,
    unpack,
)

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors/flexbuffers.json").read_text(encoding="utf-8")
)
ENTRIES = VECTORS["entries"]
CANONICAL = [entry for entry in ENTRIES if entry.get("layout") == "canonical" and not entry["zlib"]]


def with_blobs(value: object) -> object:
    if isinstance(value, dict):
        if value.keys() == {"$blob"}:
            return Blob(bytes.fromhex(value["$blob"]))
        return {key: with_blobs(item) for key, item in value.items()}
    return [with_blobs(item) for item in value] if isinstance(value, list) else value


def names(entry: dict[str, object]) -> str:
    return str(entry["name"])


@pytest.mark.parametrize("entry", ENTRIES, ids=names)
def test_a_document_of_the_real_node_decodes_to_its_value(entry: dict) -> None:
    value = unpack(bytes.fromhex(entry["hex"]))

    assert value == with_blobs(entry["value"])


@pytest.mark.parametrize("entry", CANONICAL, ids=names)
def test_a_value_encodes_to_the_very_bytes_of_the_real_node(entry: dict) -> None:
    is_struct = entry["name"].startswith("spec table: {")  # "value" has lost the field order
    value = json.loads(entry["name"].partition(": ")[2]) if is_struct else entry["value"]

    assert dumps(with_blobs(value)).hex() == entry["hex"]


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e["zlib"]], ids=names)
def test_a_compressed_document_inflates_to_the_plain_one(entry: dict) -> None:
    assert inflate(bytes.fromhex(entry["hex"])).hex() == entry["inflated_hex"]


@pytest.mark.parametrize("entry", VECTORS["decoder_acceptance"], ids=names)
def test_every_document_the_real_decoder_accepts_is_accepted(entry: dict) -> None:
    data = bytes.fromhex(entry["hex"])
    structurally_broken = (
        not entry["accepted"]
        and "Flexbuffer Read Error" in entry["text"]
        and "UnexpectedFlexbufferType" not in entry["text"]
    )

    if structurally_broken:
        with pytest.raises(WireError):
            unpack(data)
    else:
        unpack(data)


@pytest.mark.parametrize(
    ("count", "width"), [(1, 1), (5, 1), (255, 1), (256, 2), (65_535, 2), (65_536, 4)]
)
def test_bytes_widen_with_their_length_as_serde_does(count: int, width: int) -> None:
    data = bytes(i % 251 for i in range(count))

    document = dumps(data)

    assert document == dumps(list(data))
    assert len(document) >= count * width
    assert as_bytes(loads(document)) == data


@pytest.mark.parametrize("count", [0, 2, 3, 4])
def test_short_byte_strings_use_the_fixed_vectors_of_serde(count: int) -> None:
    data = bytes(range(7, 7 + count))

    assert dumps(data) == dumps(list(data))
    assert as_bytes(loads(dumps(data))) == data


def test_bytes_are_accepted_in_every_form_that_peers_use() -> None:
    assert as_bytes([0, 255]) == as_bytes(Blob(b"\x00\xff")) == as_bytes(b"\x00\xff") == b"\x00\xff"


@pytest.mark.parametrize("value", ["text", None, [256], [-1], [True], [1.0], ["a"], {"a": 1}, 5])
def test_what_is_no_byte_string_is_refused(value: object) -> None:
    with pytest.raises(WireError):
        as_bytes(value)


@pytest.mark.parametrize(
    "value",
    [1 << 64, -(1 << 63) - 1, {1: 2}, {"a\0b": 1}, {"\ud800": 1}, "\ud800", object(), {1, 2}],
)
def test_a_value_without_a_form_is_refused_before_it_is_sent(value: object) -> None:
    with pytest.raises(UsageError):
        dumps(value)


def test_too_deep_a_value_is_refused_both_ways() -> None:
    value: object = 1
    for _ in range(200):
        value = [value, "x"]
    with pytest.raises(UsageError):
        dumps(value)

    with pytest.raises(WireError, match="deeper"):
        loads(vectors_of_vectors(levels=100, slots=1))


def test_a_small_document_cannot_unfold_into_a_huge_value() -> None:
    with pytest.raises(WireError, match="unfolds"):
        loads(vectors_of_vectors(levels=20, slots=2))


def vectors_of_vectors(*, levels: int, slots: int) -> bytes:
    """Nest vectors whose slots all refer to the one level below: slots^levels values in all."""
    document = bytearray(b"\x01x\x00")
    below, kind = 1, 5 << 2
    for _ in range(levels):
        document.append(slots)
        at = len(document)
        document += bytes(at + slot - below for slot in range(slots)) + bytes([kind]) * slots
        below, kind = at, 10 << 2
    return bytes(document) + bytes((len(document) - below, kind, 1))


@pytest.mark.parametrize(
    "hexes",
    [
        "",
        "00",
        "0000",
        "000003",  # root width 3
        "000008",  # root width beyond the document
        "ff1401",  # reference before the document
        "001401",  # reference to itself
        "05026162001401",  # string length beyond the document
        "00000e01",  # float of one byte
        "027c01",  # type 31
        "013c01",  # the deprecated vector of strings
        "ff00012801",  # vector length beyond the document
        "616101010101042401",  # map whose key never ends
        "01ff00021401",  # text that is not UTF-8
    ],
)
def test_a_malformed_document_is_a_wire_error(hexes: str) -> None:
    with pytest.raises(WireError):
        loads(bytes.fromhex(hexes))


def test_indirect_numbers_and_keys_as_values_are_read() -> None:
    assert loads(bytes.fromhex("05011c01")) == 5
    assert loads(bytes.fromhex("616200031001")) == "ab"


def test_only_long_payloads_are_compressed() -> None:
    short, long = {"a": "x" * 100}, {"a": "x" * 300}

    assert pack(short) == dumps(short)
    assert zlib.decompress(pack(long)) == dumps(long)
    assert pack(long, compress_over=1000) == dumps(long)
    assert unpack(pack(long)) == long


def test_replies_carry_one_key() -> None:
    assert unpack(dumps_reply_ok(None)) == {"Ok": None}
    assert unpack(dumps_reply_err("no")) == {"Err": "no"}


def test_a_stream_with_a_wrong_checksum_is_taken_as_it_is() -> None:
    damaged = bytearray(zlib.compress(b"x" * 100))
    damaged[-1] ^= 1

    assert inflate(bytes(damaged)) == bytes(damaged)
    assert inflate(bytes(damaged[:-2])) == bytes(damaged[:-2])


def test_a_zip_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shem.wire.flexbuffers.INFLATED_SIZE_MAX", 1000)

    with pytest.raises(WireError):
        inflate(zlib.compress(bytes(10_000)))
