"""FlexBuffers decoder: one recursive walk from the root at the end of the document.

Rules (docs/protocol/gsb-identity.md §2.2, §2.4): references never point forwards, an empty vector
may lie at its own reference. Depth is limited, and so is the total of values and text bytes: parts
can be shared, so that a small document could otherwise unfold into a huge value. Typed vectors of
numbers become lists, keys become text. Pure; every malformed document is a WireError.
"""

import struct
from typing import Final

from shem.wire.errors import WireError
from shem.wire.flex_types import (
    BLOB,
    BOOL,
    DEPTH_MAX,
    FIXED_FIRST,
    FIXED_LAST,
    FLOAT,
    INDIRECT_FLOAT,
    INDIRECT_INT,
    INT,
    KEY,
    MAP,
    NULL,
    STRING,
    UINT,
    VECTOR,
    VECTOR_BOOL,
    VECTOR_INT,
    VECTOR_KEY,
    Blob,
)

EXPANSION_MAX: Final = 16
"""Values and text bytes a document may unfold into, as a multiple of its own size."""
_ROOT_SIZE_MIN: Final = 3
_FORMATS: Final = {
    (INT, 1): "b",
    (INT, 2): "h",
    (INT, 4): "i",
    (INT, 8): "q",
    (UINT, 1): "B",
    (UINT, 2): "H",
    (UINT, 4): "I",
    (UINT, 8): "Q",
    (FLOAT, 4): "f",
    (FLOAT, 8): "d",
}


def decode(data: bytes) -> object:
    """Return the value of a document."""
    size = len(data)
    if size < _ROOT_SIZE_MIN:
        raise WireError("flexbuffers: shorter than any document")
    width = data[-1]
    if width not in (1, 2, 4, 8) or size < 2 + width:
        raise WireError("flexbuffers: invalid root width")
    try:
        return _Reader(data).value(size - 2 - width, width, data[-2], 0)
    except (IndexError, struct.error) as error:
        raise WireError("flexbuffers: out of bounds") from error
    except UnicodeDecodeError as error:
        raise WireError("flexbuffers: text is not UTF-8") from error


class _Reader:
    """One document being read."""

    __slots__ = ("_budget", "_data", "_keys")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._budget = EXPANSION_MAX * len(data)
        self._keys: dict[int, str] = {}

    def value(self, slot: int, width: int, packed: int, depth: int) -> object:  # noqa: PLR0911
        """Return the value in a slot of its parent."""
        kind = packed >> 2
        data = self._data
        if kind == UINT:
            if width == 1:
                return data[slot]
            return int.from_bytes(data[slot : slot + width], "little")
        if kind == NULL:
            return None
        if kind == BOOL:
            return any(data[slot : slot + width])
        if kind == INT:
            return int.from_bytes(data[slot : slot + width], "little", signed=True)
        if kind == FLOAT:
            return self._float(slot, width)
        at = self._target(slot, width)
        own = 1 << (packed & 3)
        if kind == STRING:
            size = self._length(at, own)
            return data[at : at + size].decode()
        if kind == KEY:
            return self._key(at)
        return self._target_value(kind, at, own, depth + 1)

    def _target_value(self, kind: int, at: int, width: int, depth: int) -> object:
        if depth > DEPTH_MAX:
            raise WireError(f"flexbuffers: nested deeper than {DEPTH_MAX}")
        if kind == MAP:
            return self._map(at, width, depth)
        if kind == VECTOR:
            return self._vector(at, width, depth)
        if kind == BLOB:
            size = self._length(at, width)
            return Blob(self._data[at : at + size])
        if VECTOR_INT <= kind < VECTOR_KEY:
            return self._numbers(kind - VECTOR_INT + INT, at, width, self._length(at, width))
        if FIXED_FIRST <= kind <= FIXED_LAST:
            count, element = divmod(kind - FIXED_FIRST, 3)
            return self._numbers(element + INT, at, width, self._spend(count + 2))
        if kind == VECTOR_KEY:
            return self._key_vector(at, width, self._length(at, width))
        if kind == VECTOR_BOOL:
            return [bit != 0 for bit in self._numbers(UINT, at, width, self._length(at, width))]
        if INDIRECT_INT <= kind <= INDIRECT_FLOAT:
            return self._numbers(kind - INDIRECT_INT + INT, at, width, 1)[0]
        raise WireError(f"flexbuffers: unknown type {kind}")

    def _spend(self, amount: int) -> int:
        self._budget -= amount
        if self._budget < 0:
            raise WireError("flexbuffers: unfolds into too much")
        return amount

    def _uint(self, at: int, width: int) -> int:
        if at < 0 or at + width > len(self._data):
            raise WireError("flexbuffers: out of bounds")
        if width == 1:
            return self._data[at]
        return int.from_bytes(self._data[at : at + width], "little")

    def _length(self, at: int, width: int) -> int:
        """Return the length field before `at`; the elements must lie within the document."""
        length = self._uint(at - width, width)
        if length > len(self._data) - at:
            raise WireError("flexbuffers: length goes beyond the document")
        return self._spend(length)

    def _target(self, slot: int, width: int) -> int:
        offset = self._uint(slot, width)
        if offset > slot:
            raise WireError("flexbuffers: reference outside of the document")
        return slot - offset

    def _float(self, at: int, width: int) -> float:
        return float(self._numbers(FLOAT, at, width, 1)[0])

    def _numbers(self, kind: int, at: int, width: int, count: int) -> list[int | float]:
        if width == 1 and kind == UINT:
            found: list[int | float] = list(self._data[at : at + count])
            if len(found) != count:
                raise WireError("flexbuffers: vector goes beyond the document")
            return found
        code = _FORMATS.get((kind, width))
        if code is None:
            raise WireError(f"flexbuffers: no number of type {kind} has {width} bytes")
        return list(struct.unpack_from(f"<{count}{code}", self._data, at))

    def _key(self, at: int) -> str:
        key = self._keys.get(at)
        if key is None:
            end = self._data.find(0, at)
            if end < 0:
                raise WireError("flexbuffers: key without an end")
            self._spend(end - at)
            key = self._keys[at] = self._data[at:end].decode()
        return key

    def _key_vector(self, at: int, width: int, count: int) -> list[str]:
        if at + count * width > len(self._data):
            raise WireError("flexbuffers: keys go beyond the document")
        stop = at + count * width
        return [self._key(self._target(slot, width)) for slot in range(at, stop, width)]

    def _map(self, at: int, width: int, depth: int) -> dict[str, object]:
        count = self._length(at, width)
        if at < 3 * width:
            raise WireError("flexbuffers: map without keys")
        keys_at = self._target(at - 3 * width, width)
        keys_width = self._uint(at - 2 * width, width)
        if keys_width not in (1, 2, 4, 8) or self._uint(keys_at - keys_width, keys_width) != count:
            raise WireError("flexbuffers: keys do not match the values")
        keys = self._key_vector(keys_at, keys_width, count)
        return dict(zip(keys, self._vector_items(at, width, count, depth), strict=True))

    def _vector(self, at: int, width: int, depth: int) -> list[object]:
        return self._vector_items(at, width, self._length(at, width), depth)

    def _vector_items(self, at: int, width: int, count: int, depth: int) -> list[object]:
        types = at + count * width
        if types + count > len(self._data):
            raise WireError("flexbuffers: vector goes beyond the document")
        slots = range(at, types, width)
        packed = self._data[types : types + count]
        return [
            self.value(slot, width, kind, depth) for slot, kind in zip(slots, packed, strict=True)
        ]
