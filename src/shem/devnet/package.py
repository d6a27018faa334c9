"""Serves the payload's package over HTTP, as a requestor would from a web server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from shem.devnet.payload import write_package
from shem.devnet.places import Loopback, Place
from shem.sdk.payloads import WasmPackage


@asynccontextmanager
async def serve_package(directory: Path, place: Place | None = None) -> AsyncIterator[WasmPackage]:
    """Pack mandel into `directory`, serve it, and describe it as a payload."""
    from aiohttp import web

    package = write_package(directory)
    app = web.Application()
    app.router.add_static("/", directory)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        where = place or Loopback()
        listening = where.listen()
        port = listening.getsockname()[1]
        await web.SockSite(runner, listening).start()
        url = f"http://{where.address}:{port}/{package.path.name}"
        yield WasmPackage(url=url, hash=f"sha3:{package.sha3_224}")
    finally:
        await runner.cleanup()
