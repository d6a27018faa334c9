"""The proto3 primitives that the packet codecs are written with.

`parse` splits a message into `Fields`, which answer by field number: absent fields are the proto3
default, a repeated singular field is its last value, unknown fields are skipped. The writers omit
default values. Every malformed input is a `WireError`. Pure; sources: docs/protocol/net.md §2.1
and docs/protocol/gsb-identity.md §1.3.
"""

from collections.abc import Iterable
from typing import Final

from shem.wire.errors import WireError

VARINT: Final = 0
FIXED_64: Final = 1
LENGTH_DELIMITED: Final = 2
FIXED_32: Final = 5

VARINT_BYTES_MAX: Final = 10
FIELDS_MAX: Final = 65_536
"""Fields per message, known or not: the longest honest ones are node lists of a few hundred."""
_UINT_64: Final = (1 << 64) - 1
_SHORT: Final = tuple(bytes((value,)) for value in range(0x80))
"""Varints of one byte: nearly all keys and most lengths."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the unsigned 64-bit varint at `at` and the position after it."""
    value = 0
    for shift in range(0, 7 * VARINT_BYTES_MAX, 7):
        if at >= len(data):
            raise WireError("protobuf: truncated varint")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _UINT_64, at
    raise WireError("protobuf: varint of more than 10 bytes")


def varint(value: int) -> bytes:
    """Encode an integer; a negative one as its 64-bit two's complement."""
    if 0 <= value <= 0x7F:
        return _SHORT[value]
    value &= _UINT_64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Fields:
    """The fields of one parsed message, by number."""

    __slots__ = ("_by_number",)

    def __init__(self, by_number: dict[int, list[int | bytes]]) -> None:
        self._by_number = by_number

    @property
    def numbers(self) -> Iterable[int]:
        """Field numbers in the order of their first appearance."""
        return self._by_number.keys()

    def __contains__(self, number: int) -> bool:
        return number in self._by_number

    def uint(self, number: int) -> int:
        """Return a varint or fixed-width field as unsigned."""
        found = self._by_number.get(number)
        return _as_int(found[-1], number) if found else 0

    def int32(self, number: int) -> int:
        """Return an int32 or enum field, sign included."""
        value = self.uint(number) & 0xFFFF_FFFF
        return value - (1 << 32) if value >> 31 else value

    def flag(self, number: int) -> bool:
        return self.uint(number) != 0

    def raw(self, number: int) -> bytes:
        """Return a bytes or sub-message field."""
        found = self._by_number.get(number)
        return _as_bytes(found[-1], number) if found else b""

    def text(self, number: int) -> str:
        return _as_text(self.raw(number), number)

    def message(self, number: int) -> "Fields | None":
        """Return a sub-message parsed, or None when it is absent."""
        return parse(self.raw(number)) if number in self._by_number else None

    def every_raw(self, number: int) -> list[bytes]:
        """Return all values of a repeated bytes or message field."""
        return [_as_bytes(value, number) for value in self._by_number.get(number, ())]

    def every_text(self, number: int) -> list[str]:
        return [_as_text(raw, number) for raw in self.every_raw(number)]

    def every_uint(self, number: int) -> list[int]:
        """Return all values of a repeated varint field, packed or not."""
        values: list[int] = []
        for value in self._by_number.get(number, ()):
            if isinstance(value, int):
                values.append(value)
                continue
            at = 0
            while at < len(value):
                item, at = read_varint(value, at)
                values.append(item)
        return values


def parse(data: bytes) -> Fields:
    """Split a message into its fields; groups and malformed input are a WireError."""
    by_number: dict[int, list[int | bytes]] = {}
    at = 0
    end = len(data)
    count = 0
    while at < end:
        key = data[at]
        if key <= 0x7F:
            at += 1
        else:
            key, at = read_varint(data, at)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise WireError(f"protobuf: field number {number}")
        value, at = _read_value(data, at, kind, number)
        if number in by_number:
            by_number[number].append(value)
        else:
            by_number[number] = [value]
        count += 1
        if count > FIELDS_MAX:
            raise WireError("protobuf: too many fields")
    return Fields(by_number)


def _read_value(data: bytes, at: int, kind: int, number: int) -> tuple[int | bytes, int]:
    if kind == VARINT:
        return read_varint(data, at)
    if kind == LENGTH_DELIMITED:
        if at < len(data) and data[at] <= 0x7F:
            length, at = data[at], at + 1
        else:
            length, at = read_varint(data, at)
        if length > len(data) - at:
            raise WireError(f"protobuf: field {number} is cut off")
        return data[at : at + length], at + length
    if kind in (FIXED_32, FIXED_64):
        size = 4 if kind == FIXED_32 else 8
        if len(data) - at < size:
            raise WireError(f"protobuf: field {number} is cut off")
        return int.from_bytes(data[at : at + size], "little"), at + size
    raise WireError(f"protobuf: wire type {kind} of field {number}")


def _as_int(value: int | bytes, number: int) -> int:
    if isinstance(value, bytes):
        raise WireError(f"protobuf: field {number} is not a number")
    return value


def _as_bytes(value: int | bytes, number: int) -> bytes:
    if isinstance(value, int):
        raise WireError(f"protobuf: field {number} is a number")
    return value


def _as_text(value: bytes, number: int) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise WireError(f"protobuf: field {number} is not UTF-8") from error


def put_uint(number: int, value: int) -> bytes:
    """Encode a varint field, nothing for 0."""
    return varint(number << 3) + varint(value) if value else b""


def put_flag(number: int, value: bool) -> bytes:
    return put_uint(number, int(value))


def put_raw(number: int, value: bytes) -> bytes:
    """Encode a bytes field, nothing when empty."""
    return put_message(number, value) if value else b""


def put_text(number: int, value: str) -> bytes:
    return put_raw(number, value.encode())


def put_message(number: int, value: bytes) -> bytes:
    """Encode a sub-message, or one element of a repeated field: present even when empty."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(value)) + value


def put_packed(number: int, values: Iterable[int]) -> bytes:
    """Encode a repeated varint field, packed, nothing when empty."""
    return put_raw(number, b"".join(map(varint, values)))
