"""GAP-17 scenario 1.2: the requestor's daemon dies and comes back (real processes)."""

import asyncio
from pathlib import Path

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET
from shem.devnet.program import FIRST_TAG, FRAMES, frames
from shem.devnet.story import Story


async def test_a_killed_daemon_comes_back_and_an_attached_program_misses_nothing(
    short_dir: Path,
) -> None:
    async with Devnet(short_dir) as net:
        story = Story(net)

        await story.daemon_outage()
        await story.end()

    broken = [check for check in story.checks if not check.kept]
    assert broken == []
    assert net.killed_at_end == []


async def test_a_program_that_waits_sits_the_daemons_outage_out(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        async with _golem(net) as golem, golem.rent(net.package) as activity:
            batch = await activity.submit(frames(FIRST_TAG))
            indices = []
            async for result in batch.results():
                assert result.ok, result
                indices.append(result.index)
                if result.index == 1:
                    await net.requestor.kill()
                    await net.requestor.start()

            ledger = (await activity.run("mandel", "ledger", check=True)).stdout.splitlines()

        assert indices == list(range(FRAMES))
        assert len(ledger) == len(set(ledger)) == 2 * FRAMES


async def test_a_command_asked_for_while_the_daemon_is_dead_runs_once_when_it_is_back(
    short_dir: Path,
) -> None:
    async with Devnet(short_dir) as net:
        async with _golem(net) as golem, golem.rent(net.package) as activity:
            await net.requestor.kill()

            restart = net.requestor.start()
            noted, _ = await asyncio.gather(activity.run("mandel", "note", "once"), restart)
            ledger = await activity.run("mandel", "ledger", check=True)

        assert noted.ok
        assert ledger.stdout == "once\n"


def _golem(net: Devnet) -> shem.Golem:
    requestor = net.requestor
    return shem.Golem("e2e", api_url=requestor.api_url, app_key=requestor.app_key, subnet=SUBNET)
