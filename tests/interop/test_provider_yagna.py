"""Our provider agent and ExeUnit at a real yagna 0.17.6, rented through another one."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import shem
from shem.devnet import payload
from shem.kernel.world import World
from shem.relay.service import Relay
from shem.rest import RestClient
from tests.interop.real_yagna import RealYagna, real_yagna

SUBNET = "interop"


@asynccontextmanager
async def agent_at(yagna: RealYagna, directory: Path, images: Path) -> AsyncIterator[None]:
    """Run our agent as the yagna's provider; its ExeUnits end with their agreement."""
    env = {
        **os.environ,
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
    packed = payload.write_package(tmp_path)
    package = shem.WasmPackage.of_file(packed.path, url=packed.path.as_uri())
    async with (
        Relay(World(), ("127.0.0.1", 0)) as relay,
        real_yagna(tmp_path / "p", relay.address) as provider,
        real_yagna(tmp_path / "r", relay.address) as requestor,
        agent_at(provider, tmp_path / "agent", tmp_path),
        shem.Golem(
            "interop",
            api_url=requestor.api_url,
            app_key=requestor.app_key,
            subnet=SUBNET,
            network="holesky",
        ) as golem,
    ):
        activity = await golem.rent(package, timeout=60.0)
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
