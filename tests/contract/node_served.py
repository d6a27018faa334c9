"""A whole node with its REST on a free port, outside of any net."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from shem.kernel.config import NodeConfig
from shem.kernel.world import World
from shem.node.app import Node, running_node

APP_KEY = "aaaa1111"


@asynccontextmanager
async def node_served(folder: Path, **settings: object) -> AsyncIterator[tuple[Node, str]]:
    """Yield the node and its URL."""
    config = NodeConfig(
        datadir=folder / "node",
        gsb_url=f"unix:{folder}/gsb.sock",
        **{
            "api_url": "http://127.0.0.1:0",
            "bind_url": "udp://127.0.0.1:0",
            "autoconf_appkey": APP_KEY,
            **settings,
        },
    )
    config.datadir.mkdir(mode=0o700, exist_ok=True, parents=True)
    async with running_node(config, World(), asyncio.Event()) as node:
        host, port = node.api_address
        yield node, f"http://{host}:{port}"
