"""Fetching a published file, and bringing a file to a place that waits for it.

Several chunks are under way at a time. Each of them is repeated by itself until it is there, so a
cut in the middle costs what was under way and no more; a chunk that arrives twice is written twice
at the same place. What is fetched by a name that is a hash is checked against it.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Coroutine
from typing import Final, Protocol

from shem.gftp.patience import Patience
from shem.gftp.protocol import (
    CHUNK_SIZE,
    GftpFault,
    GftpUrl,
    chunk,
    parse_chunk,
    parse_size,
    read_answer,
)
from shem.kernel.errors import UsageError
from shem.wire.flexbuffers import dumps

CHUNKS_AT_ONCE: Final = 8
CALL_TIMEOUT_S: Final = 30.0
READ_SIZE: Final = 1 << 20

Progress = Callable[[int, int | None], None]
"""`(bytes moved, bytes in all)`."""


class Asker(Protocol):
    """Puts calls to the bus; a `BusClient` is one."""

    async def call(self, address: str, data: bytes, *, timeout_s: float) -> bytes: ...


class Transport:
    """Transfers over one connection to the bus."""

    def __init__(self, bus: Asker, patience: Callable[[], Patience]) -> None:
        self._bus = bus
        self._patience = patience

    async def fetch(self, url: GftpUrl, file: int, *, size_max: int, progress: Progress) -> int:
        """Write a published file into an open one; return its size."""
        patience = self._patience()
        size = parse_size(await patience.until_done(lambda: self._ask(url, "GetMetadata", None)))
        if size > size_max:
            raise GftpFault(f"the file has {size} bytes; {size_max} are allowed")
        moved = _Moved(size, progress)
        offsets = iter(range(0, size, CHUNK_SIZE))

        async def work() -> None:
            for offset in offsets:
                wanted = min(CHUNK_SIZE, size - offset)

                async def get(offset: int = offset, wanted: int = wanted) -> bytes:
                    return await self._get_chunk(url, offset, wanted)

                data = await patience.until_done(get)
                await asyncio.to_thread(write_all, file, data, offset)
                moved.add(len(data))

        await _together(work)
        await _check(url, file, size)
        return size

    async def bring(self, url: GftpUrl, file: int, size: int, *, progress: Progress) -> None:
        """Send an open file to an upload place, and have the other side check it."""
        patience = self._patience()
        moved = _Moved(size, progress)
        digest = (await asyncio.to_thread(digest_of, file, size)).hex()
        offsets = iter(range(0, size, CHUNK_SIZE))

        async def work() -> None:
            for offset in offsets:
                data = await asyncio.to_thread(_read_exactly, file, offset, size)
                body = {"chunk": chunk(offset, data)}

                async def put(body: object = body) -> object:
                    return await self._ask(url, "UploadChunk", body)

                await patience.until_done(put)
                moved.add(len(data))

        await _together(work)
        finished = {"hash": digest}
        await patience.until_done(lambda: self._ask(url, "UploadFinished", finished))

    async def _get_chunk(self, url: GftpUrl, offset: int, wanted: int) -> bytes:
        body = {"offset": offset, "size": wanted}
        answer = await self._ask(url, "GetChunk", body)
        try:
            at, data = parse_chunk(answer)
        except UsageError as error:
            raise GftpFault(f"the chunk of the other side is malformed: {error.message}") from error
        if at != offset or len(data) != wanted:
            raise GftpFault(f"{len(data)} bytes at {at} came for {wanted} bytes at {offset}")
        return data

    async def _ask(self, url: GftpUrl, method: str, body: object) -> object:
        data = await self._bus.call(url.address(method), dumps(body), timeout_s=CALL_TIMEOUT_S)
        return read_answer(data)


class _Moved:
    """Counts what has arrived."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        progress(0, total)

    def add(self, size: int) -> None:
        self._done += size
        self._progress(self._done, self._total)


async def _together(work: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run several workers to their end; the first failure ends them all."""
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(CHUNKS_AT_ONCE):
                group.create_task(work())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _check(url: GftpUrl, file: int, size: int) -> None:
    if url.digest is None:
        return
    found = await asyncio.to_thread(digest_of, file, size)
    if found != url.digest:
        raise GftpFault(f"what came has the SHA3-256 {found.hex()} and not that of its name")


def digest_of(file: int, size: int) -> bytes:
    """Return the SHA3-256 of an open file; blocks."""
    digest = hashlib.sha3_256()
    offset = 0
    while offset < size:
        data = os.pread(file, min(READ_SIZE, size - offset), offset)
        if not data:
            raise GftpFault("the file became shorter while it was read")
        digest.update(data)
        offset += len(data)
    return digest.digest()


def _read_exactly(file: int, offset: int, size: int) -> bytes:
    wanted = min(CHUNK_SIZE, size - offset)
    data = os.pread(file, wanted, offset)
    if len(data) != wanted:
        raise GftpFault("the file became shorter while it was sent")
    return data


def write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view = view[written:]
        offset += written
