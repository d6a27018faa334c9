"""The agent as a whole against a scripted node: where it begins."""

import asyncio
from pathlib import Path
from typing import Any

from shem.exeunit.runtimes.choice import OFFER_TEMPLATE
from shem.kernel.world import World
from shem.provider.agent import BEGINNING, Agent, Surroundings
from shem.provider.config import ProviderConfig
from shem.provider.descriptor import BUILT_IN, CONTAINER, Descriptor
from shem.provider.hardware import Machine
from shem.rest.client import RestClient
from tests.rented import MARKET, PROVIDER
from tests.scripted_node import APP_KEY, ok, scripted_node

MACHINE = Machine(architecture="x86_64", cores=1, threads=1, memory_gib=1.0, storage_gib=1.0)


async def test_a_first_agent_asks_for_all_events_whatever_its_clock_says(tmp_path: Path) -> None:
    """A clock that was put back would date what comes next before any moment of its own."""
    async with scripted_node() as node, RestClient(node.url, APP_KEY) as client:
        node.answer("GET", "/me", ok({"identity": PROVIDER}))
        node.answer("GET", "/net-api/v2/net/status", ok({"nodeId": PROVIDER, "sessions": 1}))
        config = ProviderConfig(app_key=APP_KEY, data_dir=tmp_path)

        async def template(_: Descriptor) -> dict[str, Any]:
            return OFFER_TEMPLATE

        around = Surroundings(template=template)
        agent = Agent(config, [BUILT_IN, CONTAINER], MACHINE, client, World(), surroundings=around)
        running = asyncio.create_task(agent.run())
        polls = ("/activity-api/v1/events", f"{MARKET}/agreementEvents")
        async with asyncio.timeout(20):
            while not all(node.count("GET", path) for path in polls):  # noqa: ASYNC110 - a scripted node tells nobody
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait((running,))

    for path in polls:
        assert node.made("GET", path)[0].query["afterTimestamp"] == BEGINNING
