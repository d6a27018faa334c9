"""FlexBuffers encoder that lays documents out as the Rust nodes do.

Rules (docs/protocol/gsb-identity.md §2.6): depth first in the order given; scalars are held back
and stored inline with their parent; key texts are shared in a document, strings are not; vectors
of equal scalars are typed. `bytes` become a vector of unsigned numbers, which is what serde makes
of `Vec<u8>`. Pure; a value that cannot be encoded is a UsageError.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from shem.kernel.errors import UsageError
from shem.wire.flex_types import (
    BLOB,
    BOOL,
    DEPTH_MAX,
    FIXED_FIRST,
    FLOAT,
    INT,
    KEY,
    MAP,
    NULL,
    STRING,
    UINT,
    VECTOR,
    VECTOR_BOOL,
    VECTOR_INT,
    Blob,
)

_LOG2: Final = {1: 0, 2: 1, 4: 2, 8: 3}
_MASK: Final = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF, 8: 0xFFFF_FFFF_FFFF_FFFF}
_INLINE: Final = frozenset((NULL, INT, UINT, FLOAT, BOOL))
_NUMBERS: Final = frozenset((INT, UINT, FLOAT))
_UINT_FORMAT: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_MAP_PREFIX: Final = 3
"""Slots before a map's values: offset of its keys, width of its keys, length."""

_Element = tuple[int, int | float, int]
"""Type, then the scalar or the position in the output, then the width: own or of the target."""


def encode(value: object) -> bytes:
    """Return the FlexBuffers document of `value`."""
    return _Writer().document(value)


def _width(value: int) -> int:
    if value < 0x100:
        return 1
    if value < 0x1_0000:
        return 2
    return 4 if value < 0x1_0000_0000 else 8


def _number(value: int) -> _Element:
    if value >= 0:
        if value > _MASK[8]:
            raise UsageError(f"{value} does not fit 64 bits")
        return UINT, value, _width(value)
    for width in (1, 2, 4, 8):
        if value >= -(1 << (8 * width - 1)):
            return INT, value, width
    raise UsageError(f"{value} does not fit 64 bits")


def _float(value: float) -> _Element:
    try:
        exact: bool = struct.unpack("<f", struct.pack("<f", value))[0] == value
    except OverflowError:
        exact = False
    return FLOAT, value, 4 if exact else 8


class _Writer:
    """One document under construction."""

    __slots__ = ("_depth", "_keys", "_out")

    def __init__(self) -> None:
        self._out = bytearray()
        self._keys: dict[str, int] = {}
        self._depth = 0

    def document(self, value: object) -> bytes:
        kind, held, width = self._value(value)
        out = self._out
        if kind in _INLINE:
            self._scalar(kind, held, width)
        else:
            position = int(held)
            root_width = _reference_width(len(out), 0, position)
            self._pad(root_width)
            out += (len(out) - position).to_bytes(root_width, "little")
            out += bytes((kind << 2 | _LOG2[width], root_width))
            return bytes(out)
        out += bytes((kind << 2 | _LOG2[width], width))
        return bytes(out)

    def _value(self, value: object) -> _Element:  # noqa: PLR0911 - one row per type
        if isinstance(value, str):
            return self._string(value)
        if value is None:
            return NULL, 0, 1
        if isinstance(value, bool):
            return BOOL, int(value), 1
        if isinstance(value, int):
            return _number(value)
        if isinstance(value, Mapping):
            return self._nested(self._map, value)
        if isinstance(value, list | tuple):
            return self._nested(self._vector, value)
        if isinstance(value, float):
            return _float(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._bytes(bytes(value))
        if isinstance(value, Blob):
            return self._blob(value.data)
        raise UsageError(f"{type(value).__name__} has no FlexBuffers form")

    def _nested(self, write, value) -> _Element:  # type: ignore[no-untyped-def]
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise UsageError(f"nested deeper than {DEPTH_MAX}")
        element: _Element = write(value)
        self._depth -= 1
        return element

    def _pad(self, width: int) -> None:
        if width > 1:
            self._out += bytes(-len(self._out) % width)

    def _blob(self, data: bytes) -> _Element:
        width = _width(len(data))
        self._pad(width)
        self._out += len(data).to_bytes(width, "little")
        position = len(self._out)
        self._out += data
        return BLOB, position, width

    def _string(self, text: str) -> _Element:
        try:
            _, position, width = self._blob(text.encode())
        except UnicodeEncodeError as error:
            raise UsageError(f"text is not valid Unicode: {error}") from error
        self._out.append(0)
        return STRING, position, width

    def _key(self, key: object) -> int:
        if not isinstance(key, str) or "\0" in key:
            raise UsageError(f"{key!r} cannot be a map key")
        position = self._keys.get(key)
        if position is None:
            position = self._keys[key] = len(self._out)
            try:
                self._out += key.encode()
            except UnicodeEncodeError as error:
                raise UsageError(f"text is not valid Unicode: {error}") from error
            self._out.append(0)
        return position

    def _map(self, entries: Mapping[str, object]) -> _Element:
        rows: list[tuple[str, int, _Element]] = []
        for key, value in entries.items():
            position = self._key(key)
            rows.append((key, position, self._value(value)))
        rows.sort(key=_key_of)  # code points sort as their UTF-8 bytes do
        keys, keys_width = self._slots([(KEY, position, 1) for _, position, _ in rows], prefix=1)
        values = [element for _, _, element in rows]
        position, width = self._slots(values, prefix=_MAP_PREFIX, keys=(keys, keys_width))
        self._types(values, width)
        return MAP, position, width

    def _vector(self, items: Sequence[object]) -> _Element:
        elements = [self._value(item) for item in items]
        count = len(elements)
        kinds = {kind for kind, _, _ in elements}
        kind = kinds.pop() if len(kinds) == 1 else NULL
        if kind in _NUMBERS and 2 <= count <= 4:
            position, width = self._slots(elements, prefix=0)
            return FIXED_FIRST + 3 * (count - 2) + kind - INT, position, width
        position, width = self._slots(elements, prefix=1)
        if kind in _NUMBERS:
            return VECTOR_INT + kind - INT, position, width
        if kind == BOOL:
            return VECTOR_BOOL, position, width
        self._types(elements, width)
        return VECTOR, position, width

    def _bytes(self, data: bytes) -> _Element:
        """Write what `_vector(list(data))` would, without a step per byte."""
        count = len(data)
        if count == 0:
            return self._vector(())
        fixed = 2 <= count <= 4
        width = 1 if fixed else _width(count)
        self._pad(width)
        if not fixed:
            self._out += count.to_bytes(width, "little")
        position = len(self._out)
        spread = bytearray(width * count)
        spread[::width] = data
        self._out += spread
        if fixed:
            return FIXED_FIRST + 3 * (count - 2) + UINT - INT, position, width
        return VECTOR_INT + UINT - INT, position, width

    def _slots(
        self, elements: list[_Element], *, prefix: int, keys: tuple[int, int] | None = None
    ) -> tuple[int, int]:
        """Write prefix and slots in the least width that holds all; return position and width."""
        out = self._out
        count = len(elements)
        width = _slot_width(len(out), elements, prefix)
        if keys is not None:
            width = max(width, _reference_width(len(out), 0, keys[0]))
        self._pad(width)
        if keys is not None:
            out += (len(out) - keys[0]).to_bytes(width, "little")
            out += keys[1].to_bytes(width, "little")
        if prefix:
            out += count.to_bytes(width, "little")
        position = slot = len(out)
        mask = _MASK[width]
        numbers: list[int] = []
        for kind, held, _ in elements:
            if kind == FLOAT:
                numbers.append(_float_bits(held, width))
            elif kind in _INLINE:
                numbers.append(int(held) & mask)
            else:
                numbers.append(slot - int(held))
            slot += width
        if width == 1:
            out += bytes(numbers)
        else:
            out += struct.pack(f"<{count}{_UINT_FORMAT[width]}", *numbers)
        return position, width

    def _scalar(self, kind: int, held: int | float, width: int) -> None:
        bits = _float_bits(held, width) if kind == FLOAT else int(held) & _MASK[width]
        self._out += bits.to_bytes(width, "little")

    def _types(self, elements: list[_Element], width: int) -> None:
        self._out += bytes(
            [
                kind << 2 | _LOG2[max(own, width) if kind in _INLINE else own]
                for kind, _, own in elements
            ]
        )


def _key_of(row: tuple[str, int, _Element]) -> str:
    return row[0]


def _float_bits(value: float, width: int) -> int:
    return int.from_bytes(struct.pack("<f" if width == 4 else "<d", value), "little")


def _slot_width(end: int, elements: list[_Element], prefix: int) -> int:
    """Return the least width that holds the length, all scalars and all offsets."""
    width = _width(len(elements)) if prefix else 1
    for index, (kind, held, own) in enumerate(elements, prefix):
        if kind in _INLINE:
            width = max(width, own)
        elif end + index - held > 0xFF:
            width = max(width, _reference_width(end, index, int(held)))
    return width


def _reference_width(end: int, index: int, position: int) -> int:
    """Return the width that holds the offset from slot `index`, were all slots of that width."""
    for width in (1, 2, 4):
        slot = end + -end % width + index * width
        if _width(slot - position) == width:
            return width
    return 8
