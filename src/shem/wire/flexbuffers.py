"""The payload encoding of the bus: FlexBuffers, optionally as one zlib stream.

`dumps`/`loads` are the plain codec, `pack`/`unpack` add compression (docs/protocol/gsb-identity.md
§2.1). Values: None, bool, int, float, str, list, dict with text keys, `Blob`. `bytes` are encoded
as a vector of unsigned numbers (serde's `Vec<u8>`) and come back as a list of int; `as_bytes`
accepts every form in which peers send bytes.
"""

import zlib
from typing import Final

from shem.wire.errors import WireError
from shem.wire.flex_reader import decode as loads
from shem.wire.flex_types import Blob
from shem.wire.flex_writer import encode as dumps

__all__ = [
    "Blob",
    "as_bytes",
    "dumps",
    "dumps_reply_err",
    "dumps_reply_ok",
    "inflate",
    "loads",
    "pack",
    "unpack",
]

INFLATED_SIZE_MAX: Final = 64 * 1024 * 1024
COMPRESS_OVER: Final = 256
"""Documents up to this many bytes are sent plain: zlib would gain little."""
COMPRESS_LEVEL: Final = 1


def pack(value: object, compress_over: int = COMPRESS_OVER) -> bytes:
    """Encode a payload, compressed when it is longer than `compress_over`."""
    document = dumps(value)
    return zlib.compress(document, COMPRESS_LEVEL) if len(document) > compress_over else document


def unpack(data: bytes) -> object:
    """Decode a payload, compressed or not."""
    return loads(inflate(data))


def inflate(data: bytes) -> bytes:
    """Undo the compression of a payload; return it as it is when it was not compressed.

    It was if it starts as a zlib stream and inflates with a good checksum; bytes after the stream
    are ignored.
    """
    if len(data) < 2 or data[0] & 0x0F != 8 or (data[0] << 8 | data[1]) % 31:
        return data
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(data, INFLATED_SIZE_MAX)
    except zlib.error:
        return data
    if stream.unconsumed_tail:
        raise WireError(f"a payload inflates to more than {INFLATED_SIZE_MAX} bytes")
    return inflated if stream.eof else data


def dumps_reply_ok(value: object) -> bytes:
    """Return the payload of a good answer."""
    return pack({"Ok": value})


def dumps_reply_err(error: object) -> bytes:
    """Return the payload of a service's own error."""
    return pack({"Err": error})


def as_bytes(value: object) -> bytes:
    """Return the bytes a peer sent as numbers or as a blob; WireError for anything else."""
    if isinstance(value, Blob):
        return value.data
    if isinstance(value, bytes):
        return value
    if isinstance(value, list) and all(type(item) is int for item in value):
        try:
            return bytes(value)
        except ValueError as error:
            raise WireError("a byte is not in 0…255") from error
    raise WireError(f"expected bytes, found {type(value).__name__}")
