"""A web server in a container, which runs whether or not anybody looks after it.

`SHEM_IMAGE_URL` and `SHEM_IMAGE_HASH` name an image in Golem's VM format (`gvmkit-build` makes one
from Docker's) whose entry point serves port 8080. The program asks it LOOKS times. Kill it and
start it again: the server has gone on, and the next program finds it. With `--leave` the program
ends at once and the server runs on. Usage: `python examples/06_container_service.py [LOOKS]` (10).
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator

import shem

IMAGE = shem.ContainerImage(
    url=os.environ["SHEM_IMAGE_URL"],
    hash=os.environ["SHEM_IMAGE_HASH"],
    start=shem.START_ENTRYPOINT,
)
PAGE = "http://localhost:8080/cgi-bin/hits"


def sh(script: str) -> shem.Run:
    return shem.Run("/bin/sh", "-c", script)


class Web(shem.Service):
    """Waits until the server is up, then asks it now and then."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    async def start(self) -> AsyncGenerator[shem.Script, list[shem.CommandResult]]:
        yield sh(f"until wget -q -O /dev/null {PAGE}; do sleep 0.1; done")
        print("started", flush=True)

    async def run(self) -> AsyncGenerator[shem.Script, list[shem.CommandResult]]:
        for _ in range(self.looks):
            (page,) = yield sh(f"wget -q -O - {PAGE}")
            print("hits:", page.stdout.strip(), flush=True)
            await asyncio.sleep(0.2)

    async def shutdown(self) -> AsyncGenerator[shem.Script, list[shem.CommandResult]]:
        yield shem.Download("/data/hits", "hits.log")
        print("shut down; its log is in hits.log")


async def main(looks: int, *, leave: bool) -> None:
    async with (
        shem.Golem(app="examples") as golem,
        golem.service(Web(looks), name="web", payload=IMAGE) as running,
    ):
        print("resumed" if running.resumed else "new", running.activity.id, flush=True)
        if leave:
            await running.suspend()
        else:
            await running.wait()


numbers = [int(word) for word in sys.argv[1:] if word != "--leave"]
asyncio.run(main(*(numbers or [10]), leave="--leave" in sys.argv))
