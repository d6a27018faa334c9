"""One relay in a process of its own, with challenges that cost its visitors nothing.

`python -m tests.bench.lone_relay [STATE_DIR]` prints its address and serves until SIGTERM.
"""

import asyncio
import sys
from pathlib import Path

from shem.cli.lifetime import serve_until_stopped
from shem.kernel import log
from shem.kernel.world import World
from shem.relay.service import Relay

DIFFICULTY = 1


async def serve(stop: asyncio.Event) -> None:
    listen, *state_dir = sys.argv[1:]
    host, _, port = listen.rpartition(":")
    where = Path(state_dir[0]) if state_dir else None
    async with Relay(World(), (host, int(port)), where, difficulty=DIFFICULTY) as relay:
        print(*relay.address, flush=True)  # noqa: T201
        await stop.wait()


log.configure()
serve_until_stopped(serve)
