"""A provider's agent reduced to its nursery, for a node that is to serve a crowd of activities.

`python -m tests.bench.unit_park AGREEMENT_ID DIRECTORY`, with YAGNA_API_URL, YAGNA_APPKEY and
GSB_URL: forks an ExeUnit for every activity that the node is asked for, all under one agreement,
which an agent would not do. They are the real ones, each a process with its journal, its
connection to the bus and the WASI runtime, and run the devnet's program.
"""

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from shem.devnet.payload import write_package
from shem.kernel import log as logs
from shem.kernel.tasks import TaskScope
from shem.kernel.world import World
from shem.provider.nursery import OWN, NurseryProcesses
from shem.rest.client import RestClient
from shem.sdk.payloads import TASK_PACKAGE


async def park(agreement_id: str, directory: Path) -> None:
    gsb_url = os.environ["GSB_URL"]
    os.environ["SHEM_IMAGE_DIRS"] = str(directory)
    units = NurseryProcesses(World(), directory=directory, gsb_url=gsb_url)
    after = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    async with (
        RestClient(os.environ["YAGNA_API_URL"], os.environ["YAGNA_APPKEY"]) as rest,
        TaskScope() as scope,
    ):
        scope.spawn(units.run(), "nursery")
        agreement = await rest.market.agreements.get(agreement_id)
        terms = msgspec.to_builtins(agreement)
        terms["demand"]["properties"][TASK_PACKAGE] = write_package(directory).task_package
        (directory / "agreement.json").write_bytes(msgspec.json.encode(terms))
        print("ready", flush=True)  # noqa: T201 - the parent waits for it
        while True:
            for event in await rest.activity.events(after=after, timeout_s=5):
                after = event.event_date
                if event.kind == "CreateActivity":
                    scope.spawn(keep(units, event.activity_id, directory, gsb_url), "unit")


async def keep(units: NurseryProcesses, activity_id: str, directory: Path, gsb_url: str) -> None:
    work_dir = directory / "work" / activity_id
    places = {"-a": directory / "agreement.json", "-w": work_dir, "-c": directory / "cache"}
    options = [str(word) for place in places.items() for word in place]
    command = [*OWN, "service-bus", activity_id, "/local/activity", *options]
    unit = await units.start(command, work_dir=work_dir, gsb_url=gsb_url)
    raise AssertionError(f"{activity_id} ended with {await unit.wait(World())}")


if __name__ == "__main__":
    logs.configure()  # to standard error: nobody reads our output after the first line
    asyncio.run(park(sys.argv[1], Path(sys.argv[2])))
