"""The side that stays: serves files that others fetch, and takes files that others bring.

Serving lasts as long as the process; a connection to the node that breaks is made anew, and what
was under way goes on. A published file is kept open and must not change. An upload is written
beside its destination and takes its name when it is complete and its hash fits; the sender may say
so twice.
"""

import asyncio
import os
import string
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shem.bus.client import BusClient
from shem.bus.typed import read_body
from shem.bus.types import Call, NoSuchEndpoint
from shem.gftp.protocol import (
    FILE_SIZE_MAX,
    GftpUrl,
    bind_prefix,
    chunk,
    ok,
    parse_chunk,
    parse_hash,
    parse_span,
    parse_url,
)
from shem.gftp.transport import digest_of, write_all
from shem.kernel.errors import Conflict, NotFound, UsageError
from shem.kernel.ids import NodeId
from shem.kernel.world import Rng
from shem.wire.flexbuffers import dumps_reply_err

FILES_MAX: Final = 10_000
NAME_LENGTH: Final = 65
ADDITION_LENGTH: Final = 16
_ALPHABET: Final = string.ascii_letters + string.digits

Serve = Callable[[object], Awaitable[object]]


class _Refusal(Exception):
    """An error value of the protocol."""

    def __init__(self, payload: object) -> None:
        super().__init__(str(payload))
        self.payload = payload


@dataclass(frozen=True, slots=True)
class _Published:
    """A file that others fetch."""

    file: int
    size: int
    changed_ns: int

    @property
    def methods(self) -> Mapping[str, Serve]:
        return {"GetMetadata": self._metadata, "GetChunk": self._chunk}

    def close(self) -> None:
        os.close(self.file)

    async def _metadata(self, body: object) -> object:
        del body
        return {"fileSize": self.size}

    async def _chunk(self, body: object) -> object:
        span = parse_span(body)
        if span.offset + span.size > self.size:
            raise _Refusal({"ReadError": f"the file has only {self.size} bytes"})
        data = await asyncio.to_thread(os.pread, self.file, span.size, span.offset)
        if len(data) != span.size or os.fstat(self.file).st_mtime_ns != self.changed_ns:
            raise _Refusal({"ReadError": "the file has changed since it was published"})
        return chunk(span.offset, data)


@dataclass(slots=True)
class _Awaited:
    """A file that somebody is to bring."""

    path: Path
    partial: Path
    file: int
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    digest: bytes | None = None

    @property
    def methods(self) -> Mapping[str, Serve]:
        return {"UploadChunk": self._take, "UploadFinished": self._finish}

    def close(self) -> None:
        os.close(self.file)
        self.partial.unlink(missing_ok=True)

    async def _take(self, body: object) -> object:
        offset, content = parse_chunk(body.get("chunk") if isinstance(body, dict) else None)
        if self.finished.is_set():
            raise _Refusal({"WriteError": "this upload is finished"})
        if offset + len(content) > FILE_SIZE_MAX:
            raise _Refusal({"WriteError": f"a file has at most {FILE_SIZE_MAX} bytes"})
        try:
            await asyncio.to_thread(write_all, self.file, content, offset)
        except OSError as error:
            raise _Refusal({"WriteError": str(error)}) from error
        return None

    async def _finish(self, body: object) -> object:
        wanted = parse_hash(body)
        if self.digest is None:
            size = os.fstat(self.file).st_size
            found = await asyncio.to_thread(digest_of, self.file, size)
            if wanted is not None and found.hex() != wanted:
                raise _Refusal("IntegrityError")
            try:
                await asyncio.to_thread(self._keep)
            except OSError as error:
                raise _Refusal({"WriteError": str(error)}) from error
            self.digest = found
            self.finished.set()
        elif wanted is not None and self.digest.hex() != wanted:
            raise _Refusal("IntegrityError")
        return None

    def _keep(self) -> None:
        os.fsync(self.file)
        self.partial.replace(self.path)


class Publisher:
    """All files that one process serves."""

    def __init__(self, client: BusClient, node_id: NodeId, rng: Rng) -> None:
        self._client = client
        self._node_id = node_id
        self._rng = rng
        self._served: dict[str, _Published | _Awaited] = {}

    async def publish(self, path: Path) -> GftpUrl:
        """Serve a file; the same content twice is served once.

        While another process of this node serves it, the name has an addition of our own.
        """
        found = await asyncio.to_thread(_open_published, path)
        name = (await asyncio.to_thread(digest_of, found.file, found.size)).hex()
        if name in self._served:
            found.close()
            return GftpUrl(self._node_id, name)
        try:
            return await self._serve(name, found)
        except Conflict:
            again = await asyncio.to_thread(_open_published, path)
            return await self._serve(f"{name}-{self._random_name(ADDITION_LENGTH)}", again)

    async def receive(self, path: Path) -> GftpUrl:
        """Take a file that somebody brings, under a name that nobody can guess."""
        name = self._random_name(NAME_LENGTH)
        return await self._serve(name, await asyncio.to_thread(_open_awaited, path, name))

    async def received(self, url: GftpUrl) -> None:
        """Wait until an upload is complete."""
        served = self._served.get(url.name)
        if not isinstance(served, _Awaited):
            raise NotFound(f"nothing is awaited at {url}")
        await served.finished.wait()

    async def close(self, url: str) -> bool:
        """Serve a URL no longer; False when it was not served."""
        try:
            name = parse_url(url).name
        except UsageError:
            return False
        served = self._served.pop(name, None)
        if served is None:
            return False
        await self._client.unbind(bind_prefix(name))
        served.close()
        return True

    async def close_all(self) -> None:
        for name in tuple(self._served):
            await self.close(str(GftpUrl(self._node_id, name)))

    def _random_name(self, length: int) -> str:
        return "".join(_ALPHABET[self._rng.below(len(_ALPHABET))] for _ in range(length))

    async def _serve(self, name: str, served: _Published | _Awaited) -> GftpUrl:
        if len(self._served) >= FILES_MAX:
            served.close()
            raise UsageError(f"at most {FILES_MAX} files are served by one process")
        prefix = bind_prefix(name)
        self._served[name] = served

        async def handler(call: Call) -> bytes:
            method = served.methods.get(call.address.removeprefix(prefix + "/"))
            if method is None:
                raise NoSuchEndpoint
            try:
                return ok(await method(read_body(call)))
            except _Refusal as refusal:
                return dumps_reply_err(refusal.payload)
            except UsageError as error:
                return dumps_reply_err({"InternalError": error.message})

        try:
            await self._client.bind(prefix, handler)
        except BaseException:
            del self._served[name]
            served.close()
            raise
        return GftpUrl(self._node_id, name)


def _open_published(path: Path) -> _Published:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    found = os.fstat(file)
    if not path.is_file():
        os.close(file)
        raise UsageError(f"{path} is not a file")
    return _Published(file, found.st_size, found.st_mtime_ns)


def _open_awaited(path: Path, name: str) -> _Awaited:
    partial = path.with_name(f".{path.name}.{name[:8]}.part")
    try:
        file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    return _Awaited(path, partial, file)
