"""The fault matrix: who is killed (rows), in which phase of a deal (columns), by SIGKILL.

The cells that need real processes, up to a result that nobody has read yet; where each other cell
of the matrix is proven: docs/explain/fault-matrix.md.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil
import pytest
import pytest_asyncio

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET
from tests.crash.matrix_deal import (
    APP,
    FRAMES,
    LOOK_S,
    WITHIN_S,
    Deal,
    begun,
    lines_of,
    reach,
    script_of,
    signed,
)
from tests.crash.slice_siege import start_up

pytestmark = pytest.mark.asyncio(loop_scope="module")

CELLS = (
    ("program", "signed"),
    ("program", "running"),
    ("program", "ready"),
    ("requestor daemon", "negotiating"),
    ("requestor daemon", "signed"),
    ("requestor daemon", "running"),
    ("requestor daemon", "ready"),
    ("provider daemon", "signed"),
    ("provider daemon", "running"),
    ("provider daemon", "ready"),
    ("provider agent", "signed"),
    ("provider agent", "running"),
    ("provider agent", "ready"),
    ("ExeUnit", "running"),
    ("ExeUnit", "ready"),
)
INTERRUPTED = "interrupted, outcome unknown"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def net(request: pytest.FixtureRequest) -> AsyncIterator[Devnet]:
    """One devnet for all cells; its directory is kept when one fails, for its logs."""
    short = Path(tempfile.mkdtemp(prefix="shem-crash-", dir="/tmp"))
    failed_before = request.session.testsfailed
    async with Devnet(short) as devnet:
        yield devnet
    assert devnet.killed_at_end == []
    if request.session.testsfailed == failed_before:
        shutil.rmtree(short, ignore_errors=True)


@pytest.mark.parametrize(
    ("who", "phase"), CELLS, ids=[f"{who} killed, {phase}" for who, phase in CELLS]
)
async def test_the_deal_goes_on(net: Devnet, who: str, phase: str) -> None:
    tag = f"{who}-{phase}".replace(" ", "-")
    if who == "program":
        deal = await deal_of_a_killed_program(net, phase, tag)
    else:
        async with golem_at(net) as golem:
            if phase == "negotiating":
                deal = await deal_through_a_kill(net, golem, tag)
            else:
                deal = await reach(golem, net.package, phase, tag)
                await KILLS[who](net)
    async with golem_at(net) as golem:  # who comes back knows what is in `deal` and nothing else
        await brought_to_its_end(golem, deal, is_cut=(who, phase) == ("ExeUnit", "running"))


def golem_at(net: Devnet) -> shem.Golem:
    node = net.requestor
    return shem.Golem(APP, api_url=node.api_url, app_key=node.app_key, subnet=SUBNET)


# ---- killing -------------------------------------------------------------------------------------


async def deal_of_a_killed_program(net: Devnet, phase: str, tag: str) -> Deal:
    """Have a program of its own bring a deal so far, and kill it."""
    command = ["-m", "tests.crash.matrix_deal", phase, tag, net.package.url, net.package.hash]
    program = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=net.program_env(), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert program.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            line = await program.stdout.readline()
    finally:
        program.kill()
        await program.wait()
    return msgspec.json.decode(line, type=Deal)


async def deal_through_a_kill(net: Devnet, golem: shem.Golem, tag: str) -> Deal:
    """Kill the requestor's daemon once its demand is out, while the program negotiates."""
    negotiating = asyncio.create_task(signed(golem, net.package))
    async with asyncio.timeout(WITHIN_S):
        while not await golem.session.rest.market.demands.mine():  # noqa: ASYNC110 - a node tells nobody
            await asyncio.sleep(LOOK_S / 10)
    await restarted(net, "requestor")
    return Deal(tag, await negotiating)


async def restarted(net: Devnet, name: str) -> None:
    programs = (net.requestor.program, net.provider.program, net.agent)
    program = next(program for program in programs if program.name == name)
    await program.kill()
    await start_up(program)


async def kill_exe_units(net: Devnet) -> None:
    """Kill them with all that they run; the agent starts them again."""
    before = set(net.exe_units())
    for pid in before:
        with suppress(psutil.NoSuchProcess):
            os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(WITHIN_S):
        while not set(net.exe_units()) - before:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(LOOK_S)


KILLS: dict[str, Callable[[Devnet], Awaitable[None]]] = {
    "requestor daemon": lambda net: restarted(net, "requestor"),
    "provider daemon": lambda net: restarted(net, "provider"),
    "provider agent": lambda net: restarted(net, "agent"),
    "ExeUnit": kill_exe_units,
}


# ---- going on ------------------------------------------------------------------------------------


async def brought_to_its_end(
    golem: shem.Golem, deal: Deal, *, is_cut: bool, may_fail: bool = False
) -> None:
    """Do what is left to do, and look at the books.

    With `is_cut` the batch was interrupted; with `may_fail` its program may have failed by itself.
    """
    state = (await golem.session.rest.market.agreements.get(deal.agreement_id)).state
    assert state == "Approved"
    if deal.activity_id:
        activity = await golem.attach(deal.activity_id)
        assert activity.report.alive
    else:
        activity = await begun(golem, deal)
        deal.batch_id = (await activity.submit(script_of(deal.tag))).id
    results = await activity.batch(deal.batch_id).wait(WITHIN_S)
    ledger = Counter((await activity.run("mandel", "ledger", check=True)).stdout.splitlines())
    expected = lines_of(deal.tag)
    assert set(ledger) <= set(expected) and set(ledger.values()) == {1}, "something ran twice"
    if is_cut:
        assert [result.ok for result in results[:-1]] == [True] * (len(results) - 1)
        assert results[-1].interrupted and (results[-1].message or "").startswith(INTERRUPTED)
    elif may_fail and not results[-1].ok:
        assert [result.ok for result in results[:-1]] == [True] * (len(results) - 1)
        assert results[-1].last and results[-1].message and not results[-1].interrupted
    else:
        assert [result.ok for result in results] == [True] * (FRAMES + 2)
        assert set(ledger) == set(expected)
    await activity.end()
    assert (await activity.state()).current == "Terminated"
