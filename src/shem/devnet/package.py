"""Serves the payload's package over HTTP on loopback, as a requestor would from a web server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from shem.devnet.payload import write_package
from shem.sdk.payloads import WasmPackage


@asynccontextmanager
async def serve_package(directory: Path) -> AsyncIterator[WasmPackage]:
    """Pack mandel into `directory`, serve it, and describe it as a payload."""
    from aiohttp import web

    package = write_package(directory)
    app = web.Application()
    app.router.add_static("/", directory)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        url = f"http://{host}:{port}/{package.path.name}"
        yield WasmPackage(url=url, hash=f"sha3:{package.sha3_224}")
    finally:
        await runner.cleanup()
