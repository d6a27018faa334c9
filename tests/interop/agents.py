"""Our provider agent as a process at any daemon, ours or a real yagna; its ExeUnits end with it."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from shem.devnet.processes import MARK_VARIABLE, is_exe_unit, left_behind, sweep
from shem.kernel.world import World
from shem.rest.client import RestClient
from tests.interop.daemon import PASSED_ON, Daemon, environment
from tests.interop.deal import until
from tests.interop.our_node import SHEM

STOP_S = 10.0
OFFER_S = 30.0


@dataclass
class ProviderAgent:
    """One agent; `start` and `kill` may alternate."""

    daemon: Daemon
    directory: Path
    subnet: str
    mark: str
    process: asyncio.subprocess.Process | None = None

    @property
    def log_path(self) -> Path:
        return self.directory / "agent.log"

    async def start(self) -> None:
        """Start it and wait until its offer is out."""
        env = environment(PASSED_ON) | {
            "HOME": str(self.directory),
            "YAGNA_API_URL": self.daemon.api_url,
            "YAGNA_APPKEY": self.daemon.app_key,
            "GSB_URL": self.daemon.gsb_url,
            "DATA_DIR": str(self.directory / "data"),
            "NODE_NAME": "interop-provider",
            "SUBNET": self.subnet,
            "SHEM_PRIVATE_TRANSFERS": "yes",  # the package is served on loopback
            MARK_VARIABLE: self.mark,
        }
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                SHEM, "provider", "run", env=env, cwd=self.directory, stdout=log, stderr=log
            )
        await until(self.has_offer, OFFER_S)

    async def kill(self) -> None:
        """SIGKILL; its ExeUnits go on."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def stop(self) -> None:
        if self.process is None or self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await self.process.wait()
        except TimeoutError:
            await self.kill()

    def exe_units(self) -> list[int]:
        """Return the process ids of the ExeUnits that run now."""
        found = left_behind(self.mark, self.directory)
        return [process.pid for process in found if is_exe_unit(process)]

    async def has_offer(self) -> bool:
        async with RestClient(self.daemon.api_url, self.daemon.app_key) as rest:
            return bool(await rest.market.offers.mine())


@asynccontextmanager
async def provider_agent(
    daemon: Daemon, directory: Path, subnet: str
) -> AsyncIterator[ProviderAgent]:
    """Run an agent for the block; its log is printed when the block fails."""
    agent = ProviderAgent(daemon, directory, subnet, secrets.token_hex(8))
    await asyncio.to_thread(directory.mkdir, parents=True)
    try:
        await agent.start()
        yield agent
    except BaseException:
        if agent.log_path.exists():
            print(agent.log_path.read_text(errors="replace")[-8000:])  # noqa: T201
        raise
    finally:
        await agent.stop()
        await sweep(agent.mark, directory, World())
