"""A relay in a process of its own: `python -m tests.bench.blind_relay direct|relayed`.

With `relayed` it calls nobody public, so that all traffic goes through it.
"""

import asyncio
import sys

from shem.cli.lifetime import serve_until_stopped
from shem.kernel import log
from shem.kernel.world import World
from shem.relay.registry import Registration
from shem.relay.service import Relay


async def serve(stop: asyncio.Event) -> None:
    async with Relay(World(), ("127.0.0.1", 0)) as relay:
        print(*relay.address, flush=True)  # noqa: T201
        await stop.wait()


if sys.argv[1] == "relayed":
    Registration.endpoints = ()  # type: ignore[method-assign, assignment]
log.configure()
serve_until_stopped(serve)
