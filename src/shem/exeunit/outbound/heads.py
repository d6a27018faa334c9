"""What a program asks a proxy: to connect it, or to fetch for it. Pure.

A request that is to be fetched is passed on with the host that was checked, and asks the server to
close the connection: what comes after it on the same connection is no second request.
"""

from dataclasses import dataclass
from typing import Final

from shem.kernel.errors import UsageError
from shem.rest.destinations import parse_destination, parse_host

HEAD_SIZE_MAX: Final = 32 << 10
HEADERS_MAX: Final = 128
END: Final = b"\r\n\r\n"
PORT_MAX: Final = 65_535
_OURS: Final = frozenset(
    {"host", "connection", "keep-alive", "proxy-connection", "proxy-authorization", "te"}
)
"""Headers that are meant for us, or that we say ourselves."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Where to, and what is sent there first; nothing when the program speaks for itself."""

    host: str
    port: int
    head: bytes = b""


def parse_head(data: bytes) -> Asked:
    """Read the head of a request, its empty line included; UsageError when it is none."""
    try:
        lines = data.removesuffix(END).decode("ascii").split("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError("the request is not ASCII") from error
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise UsageError("the request is not HTTP/1")
    if len(lines) - 1 > HEADERS_MAX:
        raise UsageError(f"more than {HEADERS_MAX} headers")
    if any(char in line for line in lines for char in "\r\n\0"):
        raise UsageError("the request has odd line ends")
    method, target, version = words
    if method == "CONNECT":
        return Asked(*_authority(target))
    if not method.isalpha() or not target.lower().startswith("http://"):
        raise UsageError("the request names no http:// URL: it is not for a proxy")
    place = parse_destination(target)
    path = place.url[len("http://") :].partition("/")[2]
    authority = place.url[len("http://") :].partition("/")[0]
    kept = [line for line in lines[1:] if _header_name(line) not in _OURS]
    head = [f"{method} /{path} {version}", f"Host: {authority}", *kept, "Connection: close"]
    return Asked(place.host, place.port, "\r\n".join(head).encode() + END)


def _authority(text: str) -> tuple[str, int]:
    """Read `host:port`, `[address]:port`."""
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{text[:200]!r} is not host:port")
    if not (port.isascii() and port.isdecimal()) or not 0 < int(port[:6]) <= PORT_MAX:
        raise UsageError(f"{text[:200]!r} is not host:port")
    return parse_host(host), int(port)


def _header_name(line: str) -> str:
    name, colon, _ = line.partition(":")
    if not colon or not name or name != name.strip():
        raise UsageError("a header is malformed")
    return name.lower()
