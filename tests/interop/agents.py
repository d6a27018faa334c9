"""Our provider agent as a process at any daemon, ours or a real yagna; its ExeUnits end with it."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from shem.devnet.processes import MARK_VARIABLE, left_behind, sweep
from shem.kernel.world import World
from shem.rest.client import RestClient
from tests.interop.daemon import PASSED_ON, Daemon, environment
from tests.interop.deal import until
from tests.interop.our_node import SHEM

STOP_S = 10.0
OFFER_S = 30.0


@dataclass
class ProviderAgent:
    """One agent."""

    daemon: Daemon
    directory: Path
    subnet: str
    mark: str

    def exe_units(self) -> list[int]:
        """Return the process ids of the ExeUnits that run now."""
        found = left_behind(self.mark, self.directory)
        return [process.pid for process in found if "exe-unit" in process.cmdline()]

    async def has_offer(self) -> bool:
        async with RestClient(self.daemon.api_url, self.daemon.app_key) as rest:
            return bool(await rest.market.offers.mine())


@asynccontextmanager
async def provider_agent(
    daemon: Daemon, directory: Path, subnet: str
) -> AsyncIterator[ProviderAgent]:
    """Run an agent for the block; its log is printed when the block fails."""
    agent = ProviderAgent(daemon, directory, subnet, secrets.token_hex(8))
    env = environment(PASSED_ON) | {
        "HOME": str(directory),
        "YAGNA_API_URL": daemon.api_url,
        "YAGNA_APPKEY": daemon.app_key,
        "GSB_URL": daemon.gsb_url,
        "DATA_DIR": str(directory / "data"),
        "NODE_NAME": "interop-provider",
        "SUBNET": subnet,
        "SHEM_PRIVATE_TRANSFERS": "yes",  # the package is served on loopback
        MARK_VARIABLE: agent.mark,
    }
    await asyncio.to_thread(directory.mkdir, parents=True)
    log_path = directory / "agent.log"
    with log_path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            SHEM, "provider", "run", env=env, cwd=directory, stdout=log, stderr=log
        )
    try:
        await until(agent.has_offer, OFFER_S)
        yield agent
    except BaseException:
        print(log_path.read_text(errors="replace")[-8000:])  # noqa: T201
        raise
    finally:
        await _end(process)
        await sweep(agent.mark, directory, World())


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
