"""What an ExeUnit tells its node, and when."""

import asyncio
from pathlib import Path

from shem.bus.client import BusClient
from shem.bus.router import Bus
from shem.bus.socket_server import SocketServer
from shem.bus.types import Call
from shem.exeunit.engine import Engine
from shem.exeunit.journal import Journal
from shem.exeunit.performer import Performer
from shem.exeunit.reports import Reports
from shem.exeunit.runtimes.base import Limits
from shem.exeunit.runtimes.wasm import WasmRuntime
from shem.exeunit.usage import Usage
from shem.kernel.config import GsbAddress
from shem.kernel.tasks import TaskScope
from shem.kernel.world import SystemClock, World
from tests.terms import agreement_terms

ACTIVITY = "a" * 32


class StandingClock(SystemClock):
    """Whoever sleeps by it sleeps for ever."""

    async def sleep(self, seconds: float) -> None:
        del seconds
        await asyncio.Event().wait()


async def nothing(*_: object) -> Path:
    raise AssertionError("nothing is run here")


async def test_usage_is_told_at_once_and_not_only_after_a_period(tmp_path: Path) -> None:
    """The node, in whose eyes silence is death, may have waited for it through a restart."""
    bus, told = Bus(), asyncio.Event()
    address = GsbAddress(path=tmp_path / "gsb.sock")

    async def hear(_: Call, body: object) -> None:
        assert isinstance(body, dict)
        assert body["activityId"] == ACTIVITY
        told.set()

    bus.serve("/local/activity/SetActivityUsage", hear, error=str)
    world = World(clock=StandingClock())
    runtime = WasmRuntime(tmp_path, world.rng, Limits())
    async with (
        SocketServer(bus, address, world=World()),
        BusClient(address) as client,
        TaskScope() as scope,
    ):
        reports = Reports(
            activity_id=ACTIVITY,
            report_url="/local/activity",
            engine=Engine(
                journal=Journal(tmp_path / "journal"),
                performer=Performer(runtime, fetch_image=nothing, move_files=nothing, world=world),
                world=world,
                scope=scope,
            ),
            usage=Usage(agreement_terms(), world.clock.monotonic, {}),
            client=client,
            world=world,
        )
        scope.spawn(reports.tell_usage(), "usage reports")
        async with asyncio.timeout(10):
            await told.wait()
