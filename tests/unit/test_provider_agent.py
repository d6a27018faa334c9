"""The agent as a whole against a scripted node: what must be done before what."""

import asyncio
from pathlib import Path
from typing import Any

import apsw

from shem.exeunit.runtimes.choice import OFFER_TEMPLATE
from shem.kernel.world import World
from shem.provider.agent import (
    ACTIVITY_CURSOR,
    AGREEMENT_CURSOR,
    DATABASE_NAME,
    Agent,
    Surroundings,
)
from shem.provider.config import ProviderConfig
from shem.provider.descriptor import BUILT_IN, CONTAINER, Descriptor
from shem.provider.hardware import Machine
from shem.rest.client import RestClient
from tests.rented import MARKET, PROVIDER
from tests.scripted_node import APP_KEY, Answer, Call, ok, scripted_node

MACHINE = Machine(architecture="x86_64", cores=1, threads=1, memory_gib=1.0, storage_gib=1.0)


def settings(path: Path) -> set[str]:
    """Read, as another process would, the names of what the agent has settled."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    rows = connection.execute("SELECT name FROM agent_setting").fetchall()
    connection.close()
    return {str(row[0]) for row in rows}


async def test_the_cursors_of_events_stand_before_an_offer_can_cause_any(tmp_path: Path) -> None:
    found: list[set[str]] = []

    def publish(_: Call) -> Answer:
        found.append(settings(tmp_path / DATABASE_NAME))
        return Answer(201, "sub")

    async with scripted_node() as node, RestClient(node.url, APP_KEY) as client:
        node.answer("GET", "/me", ok({"identity": PROVIDER}))
        node.answer("GET", "/net-api/v2/net/status", ok({"nodeId": PROVIDER, "sessions": 1}))
        node.answer("POST", f"{MARKET}/offers", publish)
        config = ProviderConfig(app_key=APP_KEY, data_dir=tmp_path)

        async def template(_: Descriptor) -> dict[str, Any]:
            return OFFER_TEMPLATE

        around = Surroundings(template=template)
        agent = Agent(config, [BUILT_IN, CONTAINER], MACHINE, client, World(), surroundings=around)
        running = asyncio.create_task(agent.run())
        async with asyncio.timeout(20):
            while len(found) < 2 and not running.done():  # noqa: ASYNC110 - a scripted node tells nobody
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait((running,))

    assert found[0] >= {ACTIVITY_CURSOR, AGREEMENT_CURSOR}
