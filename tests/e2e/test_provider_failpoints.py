"""The agent dies right after a durable step; the next one finishes it, and nothing is double."""

import asyncio
from pathlib import Path

import pytest

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET


def golem_at(net: Devnet) -> shem.Golem:
    requestor = net.requestor
    return shem.Golem("e2e", api_url=requestor.api_url, app_key=requestor.app_key, subnet=SUBNET)


async def agent_dies(net: Devnet) -> None:
    async with asyncio.timeout(30):
        while "agent" in net.processes():  # noqa: ASYNC110 - another process ends
            await asyncio.sleep(0.05)


async def no_units(net: Devnet) -> None:
    async with asyncio.timeout(30):
        while net.exe_units():  # noqa: ASYNC110 - other processes end
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("point", ["agent.activity_recorded", "agent.exeunit_started"])
async def test_an_activity_whose_agent_died_while_creating_it_is_there_once(
    short_dir: Path, point: str
) -> None:
    async with (
        Devnet(short_dir, env={"SHEM_FAILPOINTS": f"{point}=kill"}) as net,
        golem_at(net) as golem,
        asyncio.TaskGroup() as group,
    ):
        renting = group.create_task(_rent(golem, net))
        await agent_dies(net)

        await net.agent.start()

        activity = await renting
        assert len(net.exe_units()) == 1
        assert (await activity.run("mandel", "render", "20", "6")).ok
        await activity.end()
        await no_units(net)


async def test_an_activity_whose_agent_died_while_ending_it_ends(short_dir: Path) -> None:
    async with (
        Devnet(short_dir, env={"SHEM_FAILPOINTS": "agent.stop_recorded=kill"}) as net,
        golem_at(net) as golem,
        asyncio.TaskGroup() as group,
    ):
        activity = await golem.rent(net.package)
        ending = group.create_task(activity.end())
        await agent_dies(net)

        await net.agent.start()

        await ending
        await no_units(net)
        async with net.provider.rest() as rest:
            assert (await rest.activity.state(activity.id)).current == "Terminated"


async def _rent(golem: shem.Golem, net: Devnet) -> shem.Activity:
    return await golem.rent(net.package)
