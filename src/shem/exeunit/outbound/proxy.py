"""The proxy: connections of programs, to places that were granted.

It speaks what every HTTP client can (`http_proxy`, `https_proxy`): `CONNECT host:port`, for TLS and
any other TCP, and requests for `http://` URLs. Names are looked up here, on the provider's side,
and what they stand for is checked: no name leads into the provider's own network.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from shem.exeunit.addresses import PrivateAddress, private_allowed, require_public
from shem.exeunit.outbound.grants import Grants
from shem.exeunit.outbound.heads import END, HEAD_SIZE_MAX, Asked, parse_head
from shem.kernel.errors import UsageError
from shem.kernel.writing import put, put_all, put_end

CONNECTIONS_MAX: Final = 64
TRAFFIC_MAX: Final = 256 << 30
"""Bytes of all connections of one ExeUnit process, both ways together."""
HEAD_TIMEOUT_S: Final = 15.0
CONNECT_TIMEOUT_S: Final = 20.0
SILENCE_TIMEOUT_S: Final = 300.0
"""A connection on which nothing moves, either way, is cut."""
LINGER_S: Final = 2.0
"""How long what a program still says is read after it was refused."""
ADDRESSES_TRIED_MAX: Final = 4
CHUNK_SIZE: Final = 64 << 10
CONNECTED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"

log = structlog.get_logger()


class Refusal(Exception):
    """The connection is not made: an HTTP status, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(slots=True)
class Traffic:
    """What has gone through, and what was refused."""

    sent: int = 0
    received: int = 0
    connections: int = 0
    refused: int = 0

    @property
    def size(self) -> int:
        return self.sent + self.received


@dataclass(slots=True)
class Proxy:
    """Serves the connections of one container."""

    grants: Grants
    monotonic: Callable[[], float]
    traffic: Traffic = field(default_factory=Traffic)
    silence_s: float = SILENCE_TIMEOUT_S
    _open: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection to its end."""
        self._open += 1
        try:
            await self._serve(reader, writer)
        except Refusal as refusal:
            self.traffic.refused += 1
            log.info("outbound.refused", status=refusal.status, reason=refusal.reason)
            await _refuse(reader, writer, refusal)
        except OSError as error:
            log.debug("outbound.cut", reason=str(error))
        finally:
            self._open -= 1
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await self._asked(reader)
        place = f"{asked.host}:{asked.port}"
        if not self.grants.permit(asked.host, asked.port):
            raise Refusal(403, f"{place} is not granted by the manifest of the agreement")
        there_reader, there = await _connect(asked, place)
        try:
            self.traffic.connections += 1
            log.info("outbound.connected", place=place)
            put(there if asked.head else writer, asked.head or CONNECTED)
            before = self.traffic.size
            await self._exchange((reader, writer), (there_reader, there))
            log.info("outbound.ended", place=place, size=self.traffic.size - before)
        finally:
            there.close()

    async def _asked(self, reader: asyncio.StreamReader) -> Asked:
        if self._open > CONNECTIONS_MAX:
            raise Refusal(503, f"more than {CONNECTIONS_MAX} connections at a time")
        if self.traffic.size >= TRAFFIC_MAX:
            raise Refusal(403, f"more than {TRAFFIC_MAX} bytes have gone through")
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                head = await reader.readuntil(END)
        except TimeoutError:
            raise Refusal(408, f"no request within {HEAD_TIMEOUT_S:g} s") from None
        except asyncio.LimitOverrunError:
            raise Refusal(431, f"a request head of more than {HEAD_SIZE_MAX} bytes") from None
        except asyncio.IncompleteReadError as error:
            raise OSError("the program has closed the connection") from error
        try:
            return parse_head(head)
        except UsageError as error:
            raise Refusal(400, error.message) from error

    async def _exchange(self, here: "_Ends", there: "_Ends") -> None:
        """Pass on what either says until both have ended, or nothing moves any more."""
        moved = [self.monotonic()]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._copy(here[0], there[1], moved, is_sent=True))
            group.create_task(self._copy(there[0], here[1], moved, is_sent=False))

    async def _copy(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        moved: list[float],
        *,
        is_sent: bool,
    ) -> None:
        with suppress(OSError):
            while data := await self._read(reader, moved):
                moved[0] = self.monotonic()
                if is_sent:
                    self.traffic.sent += len(data)
                else:
                    self.traffic.received += len(data)
                if self.traffic.size > TRAFFIC_MAX:
                    log.warning("outbound.exhausted", size=self.traffic.size)
                    break
                async with asyncio.timeout(self.silence_s):
                    await put_all(writer, data)
            put_end(writer)

    async def _read(self, reader: asyncio.StreamReader, moved: list[float]) -> bytes:
        """Read what comes; nothing when it has ended, or the other way is as silent."""
        while (left_s := moved[0] + self.silence_s - self.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    return await reader.read(CHUNK_SIZE)
        return b""


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connect(asked: Asked, place: str) -> _Ends:
    """Connect to the first of the host's addresses that answers; Refusal when none does."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            problem: OSError | None = None
            for address in await _addresses(asked):
                try:
                    return await asyncio.open_connection(address, asked.port)
                except OSError as error:
                    problem = error
            raise Refusal(502, f"{place}: {problem or 'no address'}")
    except TimeoutError:
        raise Refusal(504, f"{place}: no connection within {CONNECT_TIMEOUT_S:g} s") from None


async def _addresses(asked: Asked) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(asked.host, asked.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refusal(502, f"{asked.host} is not known: {error}") from error
    addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))[:ADDRESSES_TRIED_MAX]
    if not private_allowed():
        try:
            for address in addresses:
                require_public(address.partition("%")[0])
        except PrivateAddress as error:
            # not which address: the names of this network are nobody's business
            raise Refusal(403, f"{asked.host} is not on the internet") from error
    return addresses


async def _refuse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, refusal: Refusal
) -> None:
    """Say why, and let the program read it: a connection with unread bytes is cut at once."""
    with suppress(OSError):
        async with asyncio.timeout(LINGER_S):
            await put_all(writer, _answer(refusal))
            put_end(writer)
            while await reader.read(CHUNK_SIZE):
                pass


def _answer(refusal: Refusal) -> bytes:
    text = refusal.reason.encode("ascii", "replace") + b"\n"
    lines = [
        f"HTTP/1.1 {refusal.status} Refused",
        "Content-Type: text/plain",
        f"Content-Length: {len(text)}",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + END + text
