"""GAP-17 scenario 1.3: the requestor's machine is disconnected from the network, and comes back.

Each node is a process on a host of its own, and so is the relay. The requestor's program waits for
the results of a batch all the while; afterwards one command tells what happened.
"""

import asyncio
import os
import time

import pytest

from tests.netns.plain_rest import PlainProgram
from tests.netns.rental import (
    PAIRS,
    Poller,
    count_frames,
    executions,
    prepare,
    rental,
    run_again,
)
from tests.netns.slow_payload import slowly

pytestmark = pytest.mark.timeout(240)

CUT_S = 60 if os.environ.get("SHEM_NETNS") == "full" else 20
"""Longer than a session lives without a sign of life (17.4 s)."""
FRAMES = CUT_S + 4
RESULTS = list(range(2 * FRAMES))
BACK_S = {"ours": 8.0, "yagna": 30.0}
"""How soon after the return results flow again. Without being told, a node would notice after the
keep-alive's 15 s; a real yagna that was away has nothing else, and its pauses grow."""


@pytest.mark.parametrize(("requestor_kind", "provider_kind"), PAIRS)
async def test_a_program_that_waits_for_results_sits_a_cut_out(
    net, tmp_path, requestor_kind, provider_kind
):
    async with (
        rental(net, tmp_path, requestor_kind, provider_kind) as site,
        site.golem() as golem,
        golem.rent(site.package, timeout=60) as activity,
    ):
        await prepare(activity)
        ticket = await activity.detach()
        batch = await activity.submit(slowly("cut", FRAMES))
        poller = Poller(batch.results())
        await poller.has_read(2)

        net.cut(site.requestor.host)
        await asyncio.sleep(CUT_S)
        read = len(poller.indices)
        net.heal(site.requestor.host)
        back_s = await poller.goes_on()

        told = await site.attach_from_shell(ticket)
        assert told.report["liveness"] == "alive"
        assert told.indices(batch.id) == await poller.end() == RESULTS
        again_s = await run_again(activity)
        assert set(await executions(activity, "cut", FRAMES)) == {1}
        assert read < len(RESULTS), "the cut came too late to matter"
        await activity.end()

    print(  # noqa: T201
        f"{provider_kind} provides: cut for {CUT_S} s, the next result {back_s:.2f} s after it,"
        f" another batch took {again_s:.2f} s"
    )
    assert back_s < BACK_S[provider_kind]


async def test_a_yagnas_program_sits_a_cut_out(net, tmp_path):
    """The daemon that is cut off is a real yagna, and its program uses REST alone."""
    async with (
        rental(net, tmp_path, "yagna", "ours") as site,
        site.golem() as golem,
        golem.rent(site.package, timeout=60) as activity,
        site.requestor.rest() as rest,
    ):
        await prepare(activity)
        program = PlainProgram(rest, activity.id)
        batch_id = await program.submit(slowly("cut", FRAMES))
        poller = Poller(program.results(batch_id, len(RESULTS)))
        await poller.has_read(2)

        net.cut(site.requestor.host)
        await asyncio.sleep(CUT_S)
        read = len(poller.indices)
        net.heal(site.requestor.host)
        back_s = await poller.goes_on()

        assert await poller.end() == RESULTS
        again_s = await program.run_when_possible("render", "30", "10", within_s=BACK_S["yagna"])
        assert set(count_frames(await program.run("ledger"), "cut", FRAMES)) == {1}
        assert read < len(RESULTS), "the cut came too late to matter"

    print(  # noqa: T201
        f"a yagna asks: cut for {CUT_S} s, the next result {back_s:.2f} s after it,"
        f" another batch was done {again_s:.2f} s after the last"
    )
    assert back_s < BACK_S["yagna"]


async def test_a_plug_is_pulled_and_put_back(net, tmp_path):
    async with (
        rental(net, tmp_path) as site,
        site.golem() as golem,
        golem.rent(site.package, timeout=60) as activity,
    ):
        await prepare(activity)

        site.requestor.host.link_down()
        asking = asyncio.create_task(activity.run("mandel", "note", "asked while disconnected"))
        await asyncio.sleep(5)
        assert not asking.done()
        site.requestor.host.link_up()
        started = time.monotonic()

        assert (await asking).ok
        back_s = time.monotonic() - started
        await run_again(activity)
        ledger = await activity.run("mandel", "ledger", check=True)
        assert ledger.stdout == "asked while disconnected\n"

    print(f"plug pulled for 5 s, what was asked is done {back_s:.2f} s after it")  # noqa: T201
    assert back_s < BACK_S["ours"]
