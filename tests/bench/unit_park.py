"""Many ExeUnits in one process, for a provider's node that is to serve more than fit as processes.

`python -m tests.bench.unit_park AGREEMENT_ID DIRECTORY`, with YAGNA_API_URL, YAGNA_APPKEY and
GSB_URL: starts one for every activity that the node is asked for. They are the real ones, each with
its journal and its connection to the bus; only their runtime does nothing, and they do not measure
what they use, which each of them does in its own process otherwise.
"""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from shem.exeunit import service, usage
from shem.exeunit.commands import Command, DeployOptions
from shem.exeunit.runtimes.base import Limits, Sink, Volume
from shem.exeunit.runtimes.choice import RuntimeChoice
from shem.exeunit.service import ExeUnit, Setup
from shem.kernel import log as logs
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.rest.client import RestClient

OUTPUT = b"frame   1 of 100 width 0.0153044 crc32 50bbaf24\n"


def _measure_nothing() -> None:
    usage.measure_processes = lambda: (1.0, 0.06)
    service.measure_directory_gib = lambda _: 0.001


class Idle:
    """Answers as a program would that has nothing to do."""

    async def deploy(
        self, image: Path | None, options: DeployOptions, stdout: Sink, stderr: Sink
    ) -> None:
        del image, options, stdout, stderr

    async def start(self, args: Sequence[str] | None, stdout: Sink, stderr: Sink) -> None:
        del args, stdout, stderr

    async def run(self, command: Command, stdout: Sink, stderr: Sink) -> int:
        del command, stderr
        stdout(OUTPUT)
        return 0

    async def stop(self) -> None:
        pass

    async def volumes(self) -> tuple[Volume, ...]:
        return ()

    def counters(self) -> Mapping[str, float]:
        return {}


class IdleChoice(RuntimeChoice):
    """Chooses the runtime that does nothing."""

    def make(self, work_dir: Path, limits: Limits, world: World, scope: TaskScope) -> Idle:
        del work_dir, limits, world, scope
        return Idle()


async def park(agreement_id: str, directory: Path) -> None:
    world = World()
    after = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    async with (
        RestClient(os.environ["YAGNA_API_URL"], os.environ["YAGNA_APPKEY"]) as rest,
        TaskScope() as scope,
    ):
        agreement = directory / "agreement.json"
        agreement.write_bytes(msgspec.json.encode(await rest.market.agreements.get(agreement_id)))
        print("ready", flush=True)  # noqa: T201 - the parent waits for it
        while True:
            for event in await rest.activity.events(after=after, timeout_s=5):
                after = event.event_date
                if event.kind == "CreateActivity":
                    scope.spawn(keep(event.activity_id, agreement, directory, world), "unit")


async def keep(activity_id: str, agreement: Path, directory: Path, world: World) -> None:
    work_dir = directory / activity_id
    work_dir.mkdir()
    setup = Setup(
        activity_id=activity_id,
        report_url="/local/activity",
        agreement_file=agreement,
        work_dir=work_dir,
        cache_dir=directory,
        gsb_url=os.environ["GSB_URL"],
        runtime=IdleChoice(),
    )
    await ExeUnit(setup, world).serve()


if __name__ == "__main__":
    _measure_nothing()
    logs.configure()  # to standard error: nobody reads our output after the first line
    asyncio.run(park(sys.argv[1], Path(sys.argv[2])))
