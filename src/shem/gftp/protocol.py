"""What the two sides of GFTP say to each other. Pure (docs/protocol/activity-exeunit.md §10.2).

A published file is named by its SHA3-256, so that whoever fetches it can tell that it is whole; a
place to upload to has a random name. Chunks carry their offset and may come in any order.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shem.kernel.errors import ShemError, UsageError
from shem.kernel.ids import NodeId, parse_node_id
from shem.wire.errors import WireError
from shem.wire.flexbuffers import Blob, as_bytes, dumps, unpack

SPOKEN_VERSION: Final = "0.17.6"
"""Of the commands that are known here; SDKs use `close` from 0.7.3 on."""
CHUNK_SIZE: Final = 40_960
CHUNK_SIZE_MAX: Final = 1 << 20
"""Of what a peer may ask for, or bring, at a time."""
FILE_SIZE_MAX: Final = 1 << 40
_URL: Final = re.compile(r"gftp://(0x[0-9a-fA-F]{40})/([0-9A-Za-z_.-]{1,128})", re.I)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_HASH_NAME: Final = re.compile(r"([0-9a-f]{64})(-[0-9A-Za-z]+)?")


class GftpFault(ShemError):
    """The other side has said that it cannot do its part, or what it did is wrong."""

    code = "gftp"


@dataclass(frozen=True, slots=True)
class GftpUrl:
    """Where a file is, or is to go."""

    node_id: NodeId
    name: str

    def __str__(self) -> str:
        return f"gftp://{self.node_id}/{self.name}"

    def address(self, method: str) -> str:
        """Return the bus address of a message: over the channel for bulk data."""
        return f"/transfer/net/{self.node_id}/gftp/{self.name}/{method}"

    @property
    def digest(self) -> bytes | None:
        """Return the SHA3-256 that the name begins with, when it does."""
        match = _HASH_NAME.fullmatch(self.name)
        return None if match is None else bytes.fromhex(match[1])


def parse_url(text: str) -> GftpUrl:
    """Read a URL; UsageError when it is none."""
    match = _URL.fullmatch(text)
    if match is None:
        raise UsageError(f"{text[:200]!r} is not gftp://NODE_ID/NAME")
    return GftpUrl(parse_node_id(match[1].lower()), match[2])


def bind_prefix(name: str) -> str:
    """Return the address that the publisher of a name serves."""
    return f"/public/gftp/{name}"


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a file that is asked for."""

    offset: int
    size: int


def parse_span(body: object) -> Span:
    """Read a GetChunk."""
    fields = _map(body)
    size = _count(fields, "size", CHUNK_SIZE_MAX)
    return Span(_count(fields, "offset", FILE_SIZE_MAX), size)


def parse_chunk(body: object) -> tuple[int, bytes]:
    """Read a piece of a file: `{offset, content}`."""
    fields = _map(body)
    try:
        content = as_bytes(fields.get("content"))
    except WireError as error:
        raise UsageError(f"content: {error.message}") from error
    if len(content) > CHUNK_SIZE_MAX:
        raise UsageError(f"a chunk has at most {CHUNK_SIZE_MAX} bytes")
    return _count(fields, "offset", FILE_SIZE_MAX), content


def parse_size(body: object) -> int:
    """Read the answer to GetMetadata."""
    return _count(_map(body), "fileSize", FILE_SIZE_MAX)


def chunk(offset: int, content: bytes) -> dict[str, object]:
    return {"offset": offset, "content": Blob(content)}


def parse_hash(body: object) -> str | None:
    """Read the hash of an UploadFinished, if it names one."""
    value = _map(body).get("hash")
    if value is None:
        return None
    if not isinstance(value, str) or not _DIGEST.fullmatch(value.lower()):
        raise UsageError("hash is a SHA3-256 in hex digits")
    return value.lower()


def ok(value: object) -> bytes:
    """Return a good answer; never compressed: what is worth a transfer rarely gets smaller."""
    return dumps({"Ok": value})


def read_answer(data: bytes) -> object:
    """Return the Ok value of an answer; GftpFault for Err and for what is neither."""
    try:
        body = unpack(data)
    except WireError as error:
        raise GftpFault(f"the answer of the other side cannot be read: {error.message}") from error
    if isinstance(body, dict) and len(body) == 1:
        if "Ok" in body:
            return body["Ok"]
        if "Err" in body:
            raise GftpFault(f"the other side says: {_error_text(body['Err'])}")
    raise GftpFault("the answer of the other side is neither Ok nor Err")


def _error_text(error: object) -> str:
    if isinstance(error, dict) and len(error) == 1:
        [(kind, text)] = error.items()
        return f"{kind}: {text}"[:300]
    return str(error)[:300]


def _map(body: object) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise UsageError("the message is not a map")
    return body


def _count(fields: Mapping[str, Any], name: str, limit: int) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
        raise UsageError(f"{name} is a number between 0 and {limit}")
    return value
