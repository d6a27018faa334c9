"""Where a file comes from or goes to: `[hash:[//]ALG:[0x]HEX:]URL`. Pure."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from shem.exeunit.runtimes.base import RuntimeFault

_HASHED: Final = re.compile(r"hash:(?://)?(\w+):(?:0x)?([0-9a-fA-F]+):(.*)", re.I | re.S)
_HASHES: Final[dict[int, Callable[[], Any]]] = {
    28: hashlib.sha3_224,
    32: hashlib.sha3_256,
    48: hashlib.sha3_384,
    64: hashlib.sha3_512,
}
"""SHA-3 by the size of the digest."""


class Scheme(StrEnum):
    """The ways that a file can come or go."""

    HTTP = "http"
    HTTPS = "https"
    GFTP = "gftp"
    CONTAINER = "container"
    FILE = "file"


NETWORK: Final = frozenset({Scheme.HTTP, Scheme.HTTPS, Scheme.GFTP})


@dataclass(frozen=True, slots=True)
class Location:
    """A checked URL; what is there has to have the digest, when one is given."""

    url: str
    scheme: Scheme
    digest: bytes | None = None

    @property
    def file_name(self) -> str:
        return Path(unquote(urlsplit(self.url).path)).name

    @property
    def inside(self) -> str:
        """Return the path of a container URL; RuntimeFault when it is none."""
        path = self.url.partition(":")[2] if _scheme_of(self.url) else self.url
        if path.startswith("///"):
            path = path[2:]
        if not path.startswith("/") or path.startswith("//") or "\0" in path:
            raise RuntimeFault(f"IO error: path not found in container: {path[:200]}")
        return path


def parse_location(text: str, default: Scheme) -> Location:
    """Read a URL; without a scheme it has the default one. RuntimeFault says what is wrong."""
    digest = None
    match = _HASHED.fullmatch(text)
    if match is not None:
        algorithm, hex_digest, text = match.groups()
        if algorithm.lower() != "sha3" or len(hex_digest) not in {2 * size for size in _HASHES}:
            raise RuntimeFault(f"the hash {algorithm} of {len(hex_digest)} hex digits is not SHA-3")
        digest = bytes.fromhex(hex_digest)
    name = _scheme_of(text) or default
    if name not in set(Scheme):
        raise RuntimeFault(f"transfers over {name}: are not supported")
    return Location(text, Scheme(name), digest)


def new_digest(size: int) -> Any:
    """Return the SHA-3 whose digests have this size."""
    return _HASHES[size]()


def _scheme_of(text: str) -> str:
    try:
        return urlsplit(text).scheme.lower()
    except ValueError as error:
        raise RuntimeFault(f"{text[:200]!r} is not a URL: {error}") from error
