"""The GFTP command that SDKs spawn: JSON-RPC 2.0, one object a line, answers as they are ready.

Methods and words are those of the original (docs/protocol/activity-exeunit.md §10.3).
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from shem.bus.client import BusClient
from shem.gftp.patience import Patience
from shem.gftp.protocol import FILE_SIZE_MAX, SPOKEN_VERSION, parse_url
from shem.gftp.publisher import Publisher
from shem.gftp.transport import Transport
from shem.kernel.errors import ShemError, UsageError
from shem.kernel.ids import parse_node_id
from shem.kernel.tasks import TaskScope
from shem.kernel.version import shem_version
from shem.kernel.world import World

LINE_SIZE_MAX: Final = 4 << 20
REQUESTS_MAX: Final = 256
"""Requests that are being answered; more are read when some are done."""
SHUTDOWN_DELAY_S: Final = 1.0
IDENTITY_TIMEOUT_S: Final = 12.0
ERROR_PARSE: Final = -32_700
ERROR_INVALID: Final = -32_600
ERROR_FAILED: Final = -32_000

Say = Callable[[str], None]


def version_text() -> str:
    """Return what SDKs take for the version, and then which program this is."""
    return f"{SPOKEN_VERSION} (shem {shem_version()})"


class Gftp:
    """The verbs, over one connection to the node."""

    def __init__(self, client: BusClient, publisher: Publisher, world: World) -> None:
        self.publisher = publisher
        self._transport = Transport(client, lambda: Patience(world))
        self.shutdown = asyncio.Event()
        self._verbs: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[object]]] = {
            "version": self._version,
            "publish": self._publish,
            "close": self._close,
            "download": self._download,
            "receive": self._receive,
            "upload": self._upload,
            "shutdown": self._shutdown,
        }

    async def do(self, verb: str, params: Mapping[str, Any]) -> object:
        """Do one thing and return its result."""
        if verb not in self._verbs:
            raise UsageError(f"there is no method {verb!r}")
        try:
            return await self._verbs[verb](params)
        except OSError as error:
            raise UsageError(f"{error.filename}: {error.strerror}") from error

    async def _version(self, params: Mapping[str, Any]) -> object:
        del params
        return version_text()

    async def _publish(self, params: Mapping[str, Any]) -> object:
        files = _texts(params, "files")
        if not files:
            raise UsageError("files: at least one")
        return [
            {"file": file, "url": str(await self.publisher.publish(Path(file)))} for file in files
        ]

    async def _close(self, params: Mapping[str, Any]) -> object:
        urls = _texts(params, "urls")
        return ["ok" if await self.publisher.close(url) else "error" for url in urls]

    async def _download(self, params: Mapping[str, Any]) -> object:
        text, output = _text(params, "url"), Path(_text(params, "output_file"))
        url = parse_url(text)
        partial = output.with_name(f".{output.name}.{os.getpid()}.part")
        file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            await self._transport.fetch(url, file, size_max=FILE_SIZE_MAX, progress=_nobody)
            partial.replace(output)
        finally:
            os.close(file)
            partial.unlink(missing_ok=True)
        return {"file": str(output), "url": text}

    async def _receive(self, params: Mapping[str, Any]) -> object:
        output = _text(params, "output_file")
        return {"file": output, "url": str(await self.publisher.receive(Path(output)))}

    async def _upload(self, params: Mapping[str, Any]) -> object:
        text, path = _text(params, "url"), Path(_text(params, "file"))
        file = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(file).st_size
            await self._transport.bring(parse_url(text), file, size, progress=_nobody)
        finally:
            os.close(file)
        return {"file": str(path), "url": text}

    async def _shutdown(self, params: Mapping[str, Any]) -> object:
        del params
        self.shutdown.set()
        return "ok"


async def open_gftp(client: BusClient, world: World) -> Gftp:
    """Return the verbs, once the node has said who it is."""
    me = await client.request("/local/identity/Get", "byDefault", timeout_s=IDENTITY_TIMEOUT_S)
    node_id = me.get("nodeId") if isinstance(me, dict) else None
    if not isinstance(node_id, str):
        raise UsageError("the node has no default identity")
    return Gftp(client, Publisher(client, parse_node_id(node_id), world.rng), world)


async def answer_line(gftp: Gftp, line: str) -> str:
    """Answer one request."""
    request_id: object = None
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _failure(None, ERROR_PARSE, f"Parse error: {error}")
    if not isinstance(body, dict):
        return _failure(None, ERROR_INVALID, "Invalid request")
    request_id = body.get("id")
    verb, params = body.get("method"), body.get("params", {})
    if isinstance(request_id, bool) or not isinstance(request_id, int | float | str | None):
        return _failure(None, ERROR_INVALID, "Invalid request: id")
    if body.get("jsonrpc") != "2.0" or not isinstance(verb, str):
        return _failure(request_id, ERROR_INVALID, "Invalid request")
    if not isinstance(params, dict | None):
        return _failure(request_id, ERROR_INVALID, "Invalid request: params")
    try:
        result = await gftp.do(verb, params or {})
    except ShemError as error:
        return _failure(request_id, ERROR_FAILED, error.message)
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result})


async def serve(gftp: Gftp, reader: asyncio.StreamReader, say: Say, world: World) -> None:
    """Answer requests until the input ends or one of them asks for the end."""
    slots = asyncio.Semaphore(REQUESTS_MAX)

    async def handle(line: str) -> None:
        try:
            say(await answer_line(gftp, line))
        finally:
            slots.release()

    async def read() -> None:
        while line := await _read_line(reader):
            if line.strip():
                await slots.acquire()
                tasks.spawn(handle(line), "request")
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_DELAY_S):
                for _ in range(REQUESTS_MAX):  # until all have been answered
                    await slots.acquire()
        ended.set()

    async def stop() -> None:
        await gftp.shutdown.wait()
        await world.clock.sleep(SHUTDOWN_DELAY_S)
        ended.set()

    ended = asyncio.Event()
    async with TaskScope() as tasks:
        tasks.spawn(read(), "requests")
        tasks.spawn(stop(), "shutdown")
        await ended.wait()


async def _read_line(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readline()).decode(errors="replace")
    except ValueError:
        raise UsageError(f"a request has at most {LINE_SIZE_MAX} bytes") from None


def _failure(request_id: object, code: int, message: str) -> str:
    error = {"code": code, "message": message}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error})


def _text(params: Mapping[str, Any], name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str):
        raise UsageError(f"missing field `{name}`")
    return value


def _texts(params: Mapping[str, Any], name: str) -> list[str]:
    value = params.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UsageError(f"missing field `{name}`")
    return value


def _nobody(done: int, total: int | None) -> None:
    """Hear of progress that nobody asked for."""
