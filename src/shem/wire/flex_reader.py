"""FlexBuffers decoder: one recursive walk from the root at the end of the document.

Rules (docs/protocol/gsb-identity.md §2.2, §2.4): references never point forwards, an empty vector
may lie at its own reference. Depth is limited, and so is the total of values and text bytes: parts
can be shared, so that a small document could otherwise unfold into a huge value. Typed vectors of
numbers become lists, keys become text. Pure; every malformed document is a WireError.

The goal is 20 µs for a typical message of 700 bytes, hence short texts are read in the loop itself.
"""

import struct
from collections.abc import Sequence
from operator import sub
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
    (FLOAT, 4): "f",
    (FLOAT, 8): "d",
}


_UINT_FORMAT: Final = {2: "H", 4: "I", 8: "Q"}
_SCALARS: Final = frozenset((NULL, BOOL, INT, FLOAT))
_SHORT_STRING: Final = STRING << 2
"""Packed type of text up to 255 bytes: most values of most messages."""


def decode(data: bytes) -> object:
    """Return the value of a document."""
    size = len(data)
    if size < _ROOT_SIZE_MIN:
        raise WireError("flexbuffers: shorter than any document")
    width = data[-1]
    if width not in (1, 2, 4, 8) or size < 2 + width:
        raise WireError("flexbuffers: invalid root width")
    try:
        return _Reader(data).items(size - 2 - width, width, data[-2:-1], 0)[0]
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

    def items(self, at: int, width: int, types: bytes, depth: int) -> list[object]:
        """Return the values in the slots from `at` on, one for each packed type."""
        data = self._data
        found: list[object] = []
        for held, packed in zip(self._slots(at, width, len(types)), types, strict=True):
            if packed == _SHORT_STRING:
                start = at - held
                if start < 1:
                    raise WireError("flexbuffers: reference outside of the document")
                end = start + data[start - 1]
                if end > len(data):
                    raise WireError("flexbuffers: length goes beyond the document")
                self._spend(end - start)
                found.append(data[start:end].decode())
            else:
                kind = packed >> 2
                if kind == UINT:
                    found.append(held)
                elif kind in _SCALARS:
                    found.append(self._scalar(kind, held, at, width))
                elif held > at:
                    raise WireError("flexbuffers: reference outside of the document")
                else:
                    found.append(self._target(kind, at - held, 1 << (packed & 3), depth + 1))
            at += width
        return found

    def _scalar(self, kind: int, held: int, at: int, width: int) -> object:
        if kind == NULL:
            return None
        if kind == BOOL:
            return held != 0
        if kind == INT:
            bits = 8 * width
            return held - (1 << bits) if held >> (bits - 1) else held
        return self._numbers(FLOAT, at, width, 1)[0]

    def _target(self, kind: int, at: int, width: int, depth: int) -> object:
        """Return what lies outside of its parent."""
        if kind == STRING:
            return self._data[at : at + self._length(at, width)].decode()
        if kind == KEY:
            return self._key(at)
        if depth > DEPTH_MAX:
            raise WireError(f"flexbuffers: nested deeper than {DEPTH_MAX}")
        if kind == MAP:
            return self._map(at, width, depth)
        if kind == VECTOR:
            return self._untyped(at, width, self._length(at, width), depth)
        if kind == BLOB:
            return Blob(self._data[at : at + self._length(at, width)])
        if kind == VECTOR_KEY:
            return self._key_vector(at, width, self._length(at, width))
        if INDIRECT_INT <= kind <= INDIRECT_FLOAT:
            return self._numbers(kind - INDIRECT_INT + INT, at, width, 1)[0]
        return self._typed(kind, at, width)

    def _typed(self, kind: int, at: int, width: int) -> list[int | float] | list[bool]:
        if VECTOR_INT <= kind < VECTOR_KEY:
            return self._numbers(kind - VECTOR_INT + INT, at, width, self._length(at, width))
        if FIXED_FIRST <= kind <= FIXED_LAST:
            count, element = divmod(kind - FIXED_FIRST, 3)
            self._spend(count + 2)
            return self._numbers(element + INT, at, width, count + 2)
        if kind == VECTOR_BOOL:
            return [bit != 0 for bit in self._slots(at, width, self._length(at, width))]
        raise WireError(f"flexbuffers: unknown type {kind}")

    def _map(self, at: int, width: int, depth: int) -> dict[str, object]:
        count = self._length(at, width)
        if at < 3 * width:
            raise WireError("flexbuffers: map without keys")
        offset, keys_width = self._slots(at - 3 * width, width, 2)
        keys_at = at - 3 * width - offset
        if keys_width not in (1, 2, 4, 8) or keys_at < keys_width:
            raise WireError("flexbuffers: map without keys")
        if self._slots(keys_at - keys_width, keys_width, 1)[0] != count:
            raise WireError("flexbuffers: keys do not match the values")
        keys = self._key_vector(keys_at, keys_width, count)
        return dict(zip(keys, self._untyped(at, width, count, depth), strict=True))

    def _key_vector(self, at: int, width: int, count: int) -> list[str]:
        stop = at + count * width
        starts = map(sub, range(at, stop, width), self._slots(at, width, count))
        known = self._keys
        return [known.get(start) or self._key(start) for start in starts]

    def _key(self, at: int) -> str:
        end = self._data.find(b"\0", at) if at >= 0 else -1
        if end < 0:
            raise WireError("flexbuffers: key without an end")
        self._spend(end - at)
        key = self._keys[at] = self._data[at:end].decode()
        return key

    def _untyped(self, at: int, width: int, count: int, depth: int) -> list[object]:
        """Return the values of a vector or map, whose types follow its slots."""
        end = at + count * width
        types = self._data[end : end + count]
        if len(types) != count:
            raise WireError("flexbuffers: vector goes beyond the document")
        return self.items(at, width, types, depth)

    # --- numbers

    def _slots(self, at: int, width: int, count: int) -> Sequence[int]:
        """Return unsigned numbers."""
        if width > 1:
            return struct.unpack_from(f"<{count}{_UINT_FORMAT[width]}", self._data, at)
        found = self._data[at : at + count]
        if len(found) != count:
            raise WireError("flexbuffers: vector goes beyond the document")
        return found

    def _numbers(self, kind: int, at: int, width: int, count: int) -> list[int | float]:
        if kind == UINT:
            return list(self._slots(at, width, count))
        code = _FORMATS.get((kind, width))
        if code is None:
            raise WireError(f"flexbuffers: no number of type {kind} has {width} bytes")
        return list(struct.unpack_from(f"<{count}{code}", self._data, at))

    def _length(self, at: int, width: int) -> int:
        """Return the length field before `at`; the elements must lie within the document."""
        if at < width:
            raise WireError("flexbuffers: out of bounds")
        length = self._slots(at - width, width, 1)[0]
        if length > len(self._data) - at:
            raise WireError("flexbuffers: length goes beyond the document")
        self._spend(length)
        return length

    def _spend(self, amount: int) -> None:
        self._budget -= amount
        if self._budget < 0:
            raise WireError("flexbuffers: unfolds into too much")
