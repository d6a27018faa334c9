"""Agent, provider daemon and ExeUnit each die alone; the activity goes on (real processes)."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET
from shem.devnet.program import FIRST_TAG, FRAMES, frames

INTERRUPTED = "interrupted, outcome unknown"


def golem_at(net: Devnet) -> shem.Golem:
    requestor = net.requestor
    return shem.Golem("e2e", api_url=requestor.api_url, app_key=requestor.app_key, subnet=SUBNET)


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - other processes make it true
            await asyncio.sleep(0.05)


async def begun(net: Devnet) -> int:
    """Count the commands that the payload has begun, by its own ledger."""
    ledgers = net.directory.glob("agent/data/exe-unit/work/*/*/vol-*/ledger.txt")
    return sum(path.read_text().count("begin") for path in ledgers)


async def ledger_of(activity: shem.Activity) -> list[str]:
    return (await activity.run("mandel", "ledger", check=True)).stdout.splitlines()


async def test_an_agent_that_was_killed_takes_its_exe_unit_up_again(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        async with golem_at(net) as golem, golem.rent(net.package) as activity:
            batch = await activity.submit(frames(FIRST_TAG))
            await net.agent.kill()
            [pid] = net.exe_units()
            results = await batch.wait()
            assert [result.ok for result in results] == [True] * FRAMES

            await net.agent.start()

            assert net.exe_units() == [pid]
            assert (await activity.run("mandel", "note", "after")).ok
            await activity.destroy()
            await until(lambda: _no_units(net))
            state = await activity.state()
            assert state.current == "Terminated"
        assert net.killed_at_end == []


async def test_an_agent_that_was_stopped_leaves_its_exe_unit_running(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        async with golem_at(net) as golem, golem.rent(net.package) as activity:
            await net.agent.stop()
            assert len(net.exe_units()) == 1
            assert (await activity.run("mandel", "note", "alone")).ok

            await net.agent.start()

            assert (await activity.run("mandel", "ledger")).stdout == "alone\n"
        await until(lambda: _no_units(net))


async def test_the_provider_daemon_is_killed_and_the_batch_runs_on(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        async with golem_at(net) as golem, golem.rent(net.package) as activity:
            batch = await activity.submit(frames(FIRST_TAG))
            [pid] = net.exe_units()
            await net.provider.kill()
            await asyncio.sleep(1.0)  # the outage itself

            await net.provider.start()

            results = await batch.wait()
            assert [result.ok for result in results] == [True] * FRAMES
            assert net.exe_units() == [pid]
            assert len(await ledger_of(activity)) == 2 * FRAMES
        await until(lambda: _no_units(net))


async def test_a_killed_exe_unit_comes_back_and_tells_what_was_interrupted(
    short_dir: Path,
) -> None:
    async with (
        Devnet(short_dir) as net,
        golem_at(net) as golem,
        golem.rent(net.package) as activity,
    ):
        done = await activity.run("mandel", "note", "before")
        batch = await activity.submit(frames(FIRST_TAG))
        await until(lambda: _more_than(net, 2))
        [pid] = net.exe_units()

        os.kill(pid, signal.SIGKILL)

        results = await batch.wait()
        assert not results[-1].ok
        assert INTERRUPTED in (results[-1].message or "")
        again = await activity.batch(done.batch_id).wait()
        assert again[0].ok
        ledger = await ledger_of(activity)
        assert ledger.count("before") == 1
        assert len(ledger) == len(set(ledger))
        assert net.exe_units() != [pid]


async def test_exe_unit_and_agent_killed_together(short_dir: Path) -> None:
    async with Devnet(short_dir) as net:
        async with golem_at(net) as golem, golem.rent(net.package) as activity:
            await activity.run("mandel", "note", "before")
            [pid] = net.exe_units()
            await net.agent.kill()
            os.kill(pid, signal.SIGKILL)
            await until(lambda: _gone(pid))

            await net.agent.start()

            assert await ledger_of(activity) == ["before"]
        await until(lambda: _no_units(net))


async def test_an_agreement_that_ended_while_the_agent_was_away_is_ended_on_its_return(
    short_dir: Path,
) -> None:
    async with Devnet(short_dir) as net, golem_at(net) as golem:
        activity = await golem.rent(net.package)
        await net.agent.kill()
        await activity.agreement.terminate("enough")
        assert len(net.exe_units()) == 1

        await net.agent.start()

        await until(lambda: _no_units(net))


async def test_an_agreement_without_activity_is_broken_with_the_known_code(
    short_dir: Path,
) -> None:
    async with (
        Devnet(short_dir, env={"IDLE_AGREEMENT_TIMEOUT": "1"}) as net,
        golem_at(net) as golem,
        golem.rent(net.package) as activity,
    ):
        await activity.destroy()
        started = time.monotonic()

        await until(lambda: _ended(activity))

        ended = await activity.agreement.ended()
        assert ended is not None
        assert "No activity created within 1s" in str(ended)
        assert time.monotonic() - started < 10


async def _ended(activity: shem.Activity) -> bool:
    return await activity.agreement.ended() is not None


async def _no_units(net: Devnet) -> bool:
    return net.exe_units() == []


async def _more_than(net: Devnet, count: int) -> bool:
    return await begun(net) > count


async def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
