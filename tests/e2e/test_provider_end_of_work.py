"""Work that ends without its requestor, on terms agreed beforehand (real processes)."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

import shem
from shem.devnet.compose import Devnet
from shem.devnet.daemons import SUBNET
from shem.devnet.program import FIRST_TAG, FRAMES, frames
from shem.provider.agent import DATABASE_NAME
from shem.sdk.leaving import OnAbsence


def golem_at(net: Devnet) -> shem.Golem:
    requestor = net.requestor
    return shem.Golem("e2e", api_url=requestor.api_url, app_key=requestor.app_key, subnet=SUBNET)


async def until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - other processes make it true
            await asyncio.sleep(0.05)


@asynccontextmanager
async def sink() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve a place for results: its URL, and what was put there."""
    got: list[bytes] = []

    async def put(request: web.Request) -> web.Response:
        got.append(await request.read())
        return web.Response(status=201)

    app = web.Application(client_max_size=64 << 20)
    app.router.add_put("/results", put)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/results", got
    finally:
        await runner.cleanup()


async def no_units(net: Devnet) -> bool:
    return net.exe_units() == []


async def _is_empty(directory: Path) -> bool:
    return not _entries(directory)


def _entries(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def agent_dies(net: Devnet) -> None:
    async with asyncio.timeout(60):
        while "agent" in net.processes():  # noqa: ASYNC110 - another process ends
            await asyncio.sleep(0.05)


async def test_the_requestor_goes_and_finds_its_results_delivered_and_the_agreement_ended(
    short_dir: Path,
) -> None:
    tidy = {"AUTO_CLEANUP_AGREEMENT": "true"}
    async with Devnet(short_dir, env=tidy) as net, sink() as (url, got):
        work = net.directory / "agent" / "data" / "exe-unit" / "work"
        async with golem_at(net) as golem:
            activity = await golem.rent(
                net.package,
                end_when=shem.EndWhen(batch_done=True),
                result_sink=shem.ResultSink(results_url=url),
            )
            batch = await activity.submit(frames(FIRST_TAG))
            await activity.detach()
        await net.requestor.kill()

        await until(lambda: no_units(net))
        [document] = map(json.loads, got)
        assert document["endedBy"] == "batch-done"
        delivered = {told["batchId"]: told["results"] for told in document["batches"]}
        assert [result["result"] for result in delivered[batch.id]] == ["Ok"] * FRAMES

        await net.requestor.start()
        async with golem_at(net) as golem:
            again = await golem.attach(activity.id)
            await until(lambda: _ended(again))
            ended = await again.agreement.ended()
            assert ended is not None
            assert (ended.by, ended.code) == ("Provider", "Success")
            assert "batch-done; delivered: results" in ended.why
            await until(lambda: _is_empty(work))
            results = await again.batch(batch.id).wait()
            assert [result.ok for result in results] == [True] * FRAMES


async def test_agent_and_daemon_are_away_when_the_work_ends(short_dir: Path) -> None:
    async with Devnet(short_dir) as net, sink() as (url, got), golem_at(net) as golem:
        activity = await golem.rent(
            net.package,
            end_when=shem.EndWhen(batch_done=True),
            result_sink=shem.ResultSink(results_url=url),
        )
        await activity.submit(frames(FIRST_TAG))
        await net.agent.kill()
        await net.provider.kill()
        await until(lambda: no_units(net))
        assert len(got) == 1

        await net.provider.start()
        await net.agent.start()

        await until(lambda: _ended(activity))
        assert len(got) == 1
        assert "batch-done" in str(await activity.agreement.ended())


async def test_an_agent_that_dies_when_the_work_is_over_ends_the_agreement_all_the_same(
    short_dir: Path,
) -> None:
    points = {"SHEM_FAILPOINTS": "agent.work_over=kill"}
    async with Devnet(short_dir, env=points) as net, golem_at(net) as golem:
        activity = await golem.rent(net.package, end_when=shem.EndWhen(idle_s=2))
        await agent_dies(net)
        net.agent.env = {**net.agent.env, "SHEM_FAILPOINTS": ""}

        await net.agent.start()

        await until(lambda: _ended(activity))
        assert "idle" in str(await activity.agreement.ended())


@pytest.mark.long
@pytest.mark.parametrize("action", ["terminate", "finish"])
async def test_a_requestor_that_is_away_for_longer_than_agreed(
    short_dir: Path, action: OnAbsence
) -> None:
    points = {"SHEM_FAILPOINTS": "agent.silence_recorded=kill"}
    async with Devnet(short_dir, env=points) as net, sink() as (url, got):
        finish = action == "finish"
        async with golem_at(net) as golem:
            activity = await golem.rent(
                net.package,
                max_absence=timedelta(seconds=6),
                on_absence=action,
                result_sink=shem.ResultSink(results_url=url) if finish else None,
            )
            absence = await activity.absence()
            assert (absence.limited_by, absence.seconds) == ("absence-term", 6.0)
            await activity.run("mandel", "note", "before")
            await activity.detach()
        await net.requestor.kill()
        await agent_dies(net)
        assert await _is_silent(net)
        net.agent.env = {**net.agent.env, "SHEM_FAILPOINTS": ""}
        await net.agent.start()

        await until(lambda: no_units(net))

        assert len(got) == (1 if finish else 0)
        await net.requestor.start()
        async with golem_at(net) as golem:
            again = await golem.attach(activity.id)
            await until(lambda: _ended(again))
            ended = await again.agreement.ended()
            assert ended is not None
            assert ended.code == ("Success" if finish else "RequestorUnreachable")


async def test_two_agreements_at_once_and_no_third(short_dir: Path) -> None:
    limit = {"MAX_SIMULTANEOUS_AGREEMENTS": "2"}
    async with Devnet(short_dir, env=limit) as net, golem_at(net) as golem:
        one, other = await asyncio.gather(golem.rent(net.package), golem.rent(net.package))
        assert one.agreement.id != other.agreement.id
        results = await asyncio.gather(
            one.run("mandel", "note", "one"), other.run("mandel", "note", "other")
        )
        assert all(result.ok for result in results)
        assert (await one.run("mandel", "ledger")).stdout == "one\n"
        offers = [(await info.agreement.info()).offer.properties for info in (one, other)]
        assert offers[0]["golem.inf.mem.gib"] == offers[1]["golem.inf.mem.gib"]

        with pytest.raises(shem.NoProvider):
            await golem.rent(net.package, timeout=4)
        await until(lambda: _offers(net, 0))
        await one.end()

        await until(lambda: _offers(net, 1))
        third = await golem.rent(net.package)
        assert (await third.run("mandel", "note", "third")).ok
        await asyncio.gather(third.end(), other.end())
        await until(lambda: no_units(net))


async def _offers(net: Devnet, least: int) -> bool:
    async with net.provider.rest() as rest:
        mine = await rest.market.offers.mine()
    return len(mine) >= least if least else not mine


async def _ended(activity: shem.Activity) -> bool:
    return await activity.agreement.ended() is not None


async def _is_silent(net: Devnet) -> bool:
    import apsw

    path = net.directory / "agent" / "data" / DATABASE_NAME
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return bool(list(connection.execute("SELECT since_ns FROM agent_silence")))
    finally:
        connection.close()
