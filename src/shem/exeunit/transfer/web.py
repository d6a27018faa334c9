"""HTTP both ways: downloads that go on where they were cut, uploads as one PUT.

A download asks for the size first and, after a cut, for the rest alone, if the server still has the
same file (`If-Range`). A status that is no success is an error: an error page is no file
(docs/protocol/activity-exeunit.md §10.1; the original saves it). Addresses of the provider's own
network are not for requestors, unless the operator says so (`SHEM_PRIVATE_TRANSFERS`).
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from shem.exeunit.addresses import PrivateAddress, private_allowed, require_public
from shem.exeunit.runtimes.base import RuntimeFault

if TYPE_CHECKING:
    import aiohttp
    from aiohappyeyeballs import AddrInfoType

CHUNK_SIZE: Final = 256 << 10
REDIRECTS_MAX: Final = 10
CONNECT_TIMEOUT_S: Final = 20.0
SILENCE_TIMEOUT_S: Final = 60.0
_HEADERS: Final = {"Accept-Encoding": "identity"}

Progress = Callable[[int, int | None], None]


class WebFault(Exception):
    """An attempt has failed and the next one may work."""


class Refused(RuntimeFault):
    """It will not work at any other time either."""


class Download:
    """One file that is being fetched, attempt after attempt."""

    def __init__(self, url: str, file: int, size_max: int, progress: Progress) -> None:
        self._url = url
        self._file = file
        self._size_max = size_max
        self._progress = progress
        self._total: int | None = None
        self._tag: str | None = None
        """What tells this version of the file from another; without it nothing is resumed."""
        self.done = 0

    async def attempt(self) -> None:
        """Fetch what is missing; WebFault when another attempt may."""
        async with _session() as session, _translated():
            await self._look(session)
            headers = dict(_HEADERS)
            if self.done and self._tag is not None:
                headers |= {"Range": f"bytes={self.done}-", "If-Range": self._tag}
            async with session.get(
                self._url, headers=headers, max_redirects=REDIRECTS_MAX
            ) as response:
                _require_success(response)
                if response.status != 206:
                    self.done = 0
                    os.ftruncate(self._file, 0)
                    self._learn(response)
                await self._read(response)

    async def _look(self, session: "aiohttp.ClientSession") -> None:
        """Ask for the size; servers that do not know HEAD are asked for the file itself."""
        if self._total is not None:
            return
        async with session.head(
            self._url, headers=_HEADERS, allow_redirects=True, max_redirects=REDIRECTS_MAX
        ) as response:
            if response.ok:
                self._learn(response)

    def _learn(self, response: "aiohttp.ClientResponse") -> None:
        self._total = response.content_length
        if self._total is not None and self._total > self._size_max:
            raise RuntimeFault(f"the file has {self._total} bytes; {self._size_max} are allowed")
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        self._tag = None if tag is None or tag.startswith("W/") else tag

    async def _read(self, response: "aiohttp.ClientResponse") -> None:
        async for data in response.content.iter_chunked(CHUNK_SIZE):
            if self.done + len(data) > self._size_max:
                raise RuntimeFault(f"the file has more than the {self._size_max} bytes allowed")
            await asyncio.to_thread(_write_all, self._file, data, self.done)
            self.done += len(data)
            self._progress(self.done, self._total)
        if self._total is not None and self.done < self._total:
            raise WebFault(f"the connection ended after {self.done} of {self._total} bytes")


async def upload(url: str, file: int, size: int, progress: Progress) -> None:
    """Send a whole file by PUT; WebFault when another attempt may work."""

    async def content() -> AsyncIterator[bytes]:
        offset = 0
        while offset < size:
            data = await asyncio.to_thread(os.pread, file, min(CHUNK_SIZE, size - offset), offset)
            if not data:
                raise RuntimeFault("the file became shorter while it was sent")
            yield data
            offset += len(data)
            progress(offset, size)

    headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
    async with (
        _session() as session,
        _translated(),
        session.put(url, data=content(), headers=headers, allow_redirects=False) as response,
    ):
        _require_success(response)


@asynccontextmanager
async def _session() -> AsyncIterator["aiohttp.ClientSession"]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S
    )
    connector = aiohttp.TCPConnector(socket_factory=None if private_allowed() else _public_socket)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, auto_decompress=False, trust_env=False
    ) as session:
        yield session


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Turn what the library raises into what a transfer knows."""
    import aiohttp

    try:
        yield
    except (aiohttp.InvalidURL, aiohttp.TooManyRedirects, ValueError) as error:
        raise Refused(f"Transfer error: {error!r}") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        if (refusal := _refusal(error)) is not None:
            raise Refused(f"Transfer error: {refusal}") from error
        raise WebFault(repr(error)) from error


def _refusal(error: BaseException | None) -> PrivateAddress | None:
    """Find our own refusal among the causes of a failed connection."""
    while error is not None and not isinstance(error, PrivateAddress):
        error = error.__cause__ or error.__context__
    return error


def _require_success(response: "aiohttp.ClientResponse") -> None:
    if response.ok and response.status < 300:
        return
    text = f"Transfer error: the server answers {response.status} {response.reason}"
    if response.status >= 500 or response.status in {408, 429}:
        raise WebFault(text)
    raise RuntimeFault(text)


def _public_socket(address: "AddrInfoType") -> socket.socket:
    """Return a socket to an address of the internet: asked for at every connection that is made."""
    family, kind, protocol, _, place = address
    require_public(str(place[0]).partition("%")[0])
    return socket.socket(family=family, type=kind, proto=protocol)


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view = view[written:]
        offset += written
