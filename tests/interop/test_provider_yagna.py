"""Our provider agent and ExeUnit at a real yagna 0.17.6, rented through another one."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from click.testing import CliRunner

import shem
from shem.cli.main import cli
from shem.devnet import payload
from shem.kernel.world import World
from shem.provider.offer import COEFFICIENTS
from shem.relay.service import Relay
from shem.rest import RestClient
from shem.rest.models import Properties, ProposalEvent
from tests.interop.real_yagna import RealYagna, real_yagna

SUBNET = "interop"
ABSENCE_S = 8


@asynccontextmanager
async def agent_at(yagna: RealYagna, directory: Path, images: Path) -> AsyncIterator[None]:
    """Run our agent as the yagna's provider; its ExeUnits end with their agreement."""
    env = {
        **os.environ,
        "SHEM_PRIVATE_TRANSFERS": "yes",
        "YAGNA_API_URL": yagna.api_url,
        "YAGNA_APPKEY": yagna.app_key,
        "GSB_URL": yagna.gsb_url,
        "DATA_DIR": str(directory),
        "SUBNET": SUBNET,
        "SHEM_IMAGE_DIRS": str(images),
    }
    log_path = directory.with_suffix(".log")
    with log_path.open("ab") as log:
        agent = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("shem"),
            *("provider", "run"),
            env=env,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    except BaseException:
        print(log_path.read_text()[-8000:])  # noqa: T201
        raise
    finally:
        agent.send_signal(signal.SIGTERM)
        await agent.wait()


@asynccontextmanager
async def two_yagnas(
    directory: Path,
) -> AsyncIterator[tuple[RealYagna, RealYagna, shem.Golem]]:
    """Two real yagnas: our agent at the provider's, and our SDK at the requestor's."""
    async with (
        Relay(World(), ("127.0.0.1", 0)) as relay,
        real_yagna(directory / "p", relay.address) as provider,
        real_yagna(directory / "r", relay.address) as requestor,
        agent_at(provider, directory / "agent", directory),
        shem.Golem(
            "interop",
            api_url=requestor.api_url,
            app_key=requestor.app_key,
            subnet=SUBNET,
            network="holesky",
        ) as golem,
    ):
        yield provider, requestor, golem


def package_in(directory: Path) -> shem.WasmPackage:
    packed = payload.write_package(directory)
    return shem.WasmPackage.of_file(packed.path, url=packed.path.as_uri())


async def answers(question: Callable[[], Awaitable[object]]) -> None:
    """Ask until the two yagnas have found each other again."""
    async with asyncio.timeout(90):
        while True:
            try:
                await question()
            except shem.GolemError:
                await asyncio.sleep(0.5)
            else:
                return


async def test_rented_at_a_real_yagna_through_a_real_yagna(tmp_path: Path) -> None:
    async with two_yagnas(tmp_path) as (provider, _requestor, golem):
        activity = await golem.rent(package_in(tmp_path), timeout=60.0)
        picture = await activity.run("mandel", "render", "40", "12", check=True)
        assert picture.stdout.count("\n") == 12
        failed = await activity.run("mandel", "bogus")
        assert failed.message == "ExeScript command exited with code 2"

        await provider.kill()
        await provider.start()

        await answers(activity.state)
        assert (await activity.run("mandel", "note", "after the restart")).ok
        await activity.end()
        async with RestClient(provider.api_url, provider.app_key) as rest:
            state = await rest.activity.state(activity.id)
            assert state.current == "Terminated"


def operate(directory: Path, *words: str) -> None:
    """Run an operator's command on the agent's files."""
    done = CliRunner().invoke(cli, ["provider", "--data-dir", str(directory), *words])
    assert done.exception is None, done.exception


async def proposals(requestor: RealYagna, count: int) -> list[Properties]:
    """Return the offers that a plain demand meets at a real yagna."""
    found: dict[str, Properties] = {}
    async with RestClient(requestor.api_url, requestor.app_key) as rest:
        demand = await rest.market.demands.publish(
            {
                "golem.srv.comp.expiration": int(time.time() + 3_600) * 1_000,
                "golem.node.debug.subnet": SUBNET,
            },
            f"(golem.node.debug.subnet={SUBNET})",
        )
        async with asyncio.timeout(60):
            while len(found) < count:
                for event in await rest.market.demands.events(demand, timeout_s=5.0):
                    assert isinstance(event, ProposalEvent)
                    found[event.proposal.proposal_id] = event.proposal.properties
        await rest.market.demands.withdraw(demand)
    return list(found.values())


async def test_presets_with_prices_and_the_end_of_work_at_a_real_yagna(tmp_path: Path) -> None:
    data_dir = tmp_path / "agent"
    dear = ("--preset-name", "dear", "--exe-unit", "wasmtime")
    operate(data_dir, "preset", "create", *dear, "--price", "cpu=0.25", "--price", "initial=2")
    operate(data_dir, "preset", "deactivate", "container")
    operate(data_dir, "preset", "activate", "dear")
    async with two_yagnas(tmp_path) as (provider, requestor, golem):
        found = {tuple(offer[COEFFICIENTS]): offer for offer in await proposals(requestor, 2)}
        assert set(found) == {(0.0, 0.0, 0.0), (0.25, 0.0, 2.0)}
        for offer in found.values():
            assert offer["golem.com.usage.vector"] == [
                "golem.usage.cpu_sec",
                "golem.usage.duration_sec",
            ]
            assert offer["golem.srv.caps.end-when"][0] == "batch-done"
        operate(data_dir, "preset", "deactivate", "dear")

        activity = await golem.rent(
            package_in(tmp_path),
            timeout=60.0,
            end_when=shem.EndWhen(batch_done=True),
            max_absence=timedelta(hours=1),
        )
        agreed = (await activity.agreement.info()).offer.properties
        assert agreed["golem.srv.offline.max-absence-sec"] == 3_600
        assert agreed["golem.srv.offline.on-absence"] == "terminate"
        assert (await activity.run("mandel", "note", "done")).ok

        async with asyncio.timeout(60):
            while (ended := await activity.agreement.ended()) is None:  # noqa: ASYNC110 - others end it
                await asyncio.sleep(0.25)
        assert (ended.by, ended.code) == ("Provider", "Success")
        assert "batch-done" in ended.why
        async with RestClient(provider.api_url, provider.app_key) as rest:
            assert len(await rest.market.offers.mine()) == 1


async def test_a_real_yagna_requestor_that_stays_away_is_not_waited_for(tmp_path: Path) -> None:
    async with two_yagnas(tmp_path) as (provider, requestor, golem):
        away = timedelta(seconds=ABSENCE_S)
        activity = await golem.rent(
            package_in(tmp_path), timeout=60.0, max_absence=away, on_exit="detach"
        )
        for _ in range(3):
            await asyncio.sleep(ABSENCE_S / 2)  # it is there: its absence term does not run
            assert (await activity.state()).alive

        await requestor.kill()

        async with RestClient(provider.api_url, provider.app_key) as rest, asyncio.timeout(90):
            while (await rest.activity.state(activity.id)).alive:  # noqa: ASYNC110 - the agent ends it
                await asyncio.sleep(0.5)
        await requestor.start()
        async with asyncio.timeout(120):
            while (ended := await activity.agreement.ended()) is None:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.5)
        assert (ended.by, ended.code) == ("Provider", "RequestorUnreachable")
