"""A market behind its REST, on a free port, with one application key per name."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from shem.api import market as market_api
from shem.api.app import build_app
from shem.api.sessions import ClientSessions
from shem.identity.records import Principal
from shem.kernel.ids import NodeId
from shem.node.http import serving
from tests.sim.market_pair import Side

KEY = {"Authorization": "Bearer key"}
OTHER_KEY = {"Authorization": "Bearer other"}
STRANGE_KEY = {"Authorization": "Bearer strange"}
STRANGER = NodeId("0x" + "5" * 40)


@asynccontextmanager
async def served(side: Side) -> AsyncIterator[str]:
    """Serve: `key` and `other` act for the node's identity, `strange` for one of its others."""
    keys = {"key": side.node_id, "other": side.node_id, "strange": STRANGER}

    async def lookup(key: str) -> Principal | None:
        return Principal(keys[key], key, "manager") if key in keys else None

    sessions = ClientSessions()
    sessions.on_gone(side.market.collector_gone)
    app = build_app(market_api.routes(side.market), lookup, sessions)
    async with serving(app, ("127.0.0.1", 0), sessions) as (host, port):
        yield f"http://{host}:{port}"


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait for what no topic tells of."""
    for _ in range(1000):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come")
