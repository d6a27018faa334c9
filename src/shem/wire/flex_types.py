"""FlexBuffers types: what both directions of the codec share (docs/protocol/gsb-identity.md §2.2).

A packed type byte is `type << 2 | log2(width)`, with widths of 1, 2, 4 and 8 bytes.
"""

from dataclasses import dataclass
from typing import Final

NULL: Final = 0
INT: Final = 1
UINT: Final = 2
FLOAT: Final = 3
KEY: Final = 4
STRING: Final = 5
INDIRECT_INT: Final = 6
INDIRECT_FLOAT: Final = 8
MAP: Final = 9
VECTOR: Final = 10
VECTOR_INT: Final = 11
VECTOR_KEY: Final = 14
FIXED_FIRST: Final = 16
"""Fixed-length vectors 16…24: (Int, UInt, Float) of 2, then of 3, then of 4 elements."""
FIXED_LAST: Final = 24
BLOB: Final = 25
BOOL: Final = 26
VECTOR_BOOL: Final = 36

DEPTH_MAX: Final = 64
"""Nesting of one document, either way; Golem's own messages stay below ten."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes as a FlexBuffers blob; plain `bytes` travel as a vector of numbers."""

    data: bytes
