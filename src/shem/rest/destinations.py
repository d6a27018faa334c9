"""Places on the internet, as manifests and certificates name them: URLs. Pure.

Two URLs are the same place when their normal forms are: the scheme and the host in small letters,
a host of another alphabet in its ASCII form, no port where it is the scheme's own, `/` for no path.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from shem.kernel.errors import UsageError

URL_CHARS_MAX: Final = 2_048
HOST_CHARS_MAX: Final = 253
DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
_HOST: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")


@dataclass(frozen=True, slots=True)
class Destination:
    """One place."""

    url: str
    """In its normal form."""
    scheme: str
    host: str
    """A name or an address, without brackets."""
    port: int

    @property
    def endpoint(self) -> tuple[str, int]:
        return self.host, self.port


def parse_destination(text: str) -> Destination:
    """Read a URL; UsageError when it names no host and port."""
    shown = repr(text[:200])
    if len(text) > URL_CHARS_MAX or not text.isprintable() or " " in text or "\\" in text:
        raise UsageError(f"{shown} is not a URL")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parse_host(parts.hostname or "")
    except ValueError as error:
        raise UsageError(f"{shown} is not a URL: {error}") from error
    if "@" in parts.netloc:
        raise UsageError(f"{shown} has a name or password in it")
    known = DEFAULT_PORTS.get(parts.scheme)
    number = known if port is None else port
    if not number:
        raise UsageError(f"{shown} says no port, and {parts.scheme or 'no scheme'} has none")
    shown_host = f"[{host}]" if ":" in host else host
    authority = shown_host if number == known else f"{shown_host}:{number}"
    rest = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Destination(f"{parts.scheme}://{authority}{rest}", parts.scheme, host, number)


def parse_host(text: str) -> str:
    """Return the normal form of a name or address; UsageError when it is neither."""
    try:
        address = str(ipaddress.ip_address(text))
    except ValueError:
        pass
    else:
        if "%" in address:
            raise UsageError(f"{text[:200]!r} is on a link, and not on the internet")
        return address
    try:
        name = (text if text.isascii() else text.encode("idna").decode()).lower()
    except UnicodeError as error:
        raise UsageError(f"{text[:200]!r} is not a host: {error}") from error
    if len(name) > HOST_CHARS_MAX or _HOST.fullmatch(name) is None:
        raise UsageError(f"{text[:200]!r} is not a host")
    return name.removesuffix(".")
