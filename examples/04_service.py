"""A service that a new program takes up: it keeps a zoom going, frame after frame.

Kill this program and start it again: `start` is not repeated, and `run` goes on after the frames
that are there. `python examples/04_service.py [FRAMES]` ends after so many frames (20); with
`--leave` the program ends at once and the service runs on.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator

import shem

PACKAGE = shem.WasmPackage(url=os.environ["SHEM_PACKAGE_URL"], hash=os.environ["SHEM_PACKAGE_HASH"])
SCENE = "centre -0.743643887 0.131825904\nwidth 0.02 0.0001\nsize 160 120\niterations 300\n"
TOTAL = 100


class Zoom(shem.Service):
    """Renders frame after frame of one scene."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    async def start(self) -> AsyncGenerator[shem.Script, list[shem.CommandResult]]:
        (described,) = yield shem.Run("mandel", "scene", SCENE)
        print("started:", described.stdout.strip().splitlines()[0], flush=True)

    async def run(self) -> AsyncGenerator[shem.Script, list[shem.CommandResult]]:
        (ledger,) = yield shem.Run("mandel", "ledger")
        rendered = sum(line.startswith("end frame") for line in ledger.stdout.splitlines())
        for number in range(rendered + 1, rendered + self.frames + 1):
            (frame,) = yield shem.Run("mandel", "zoom", str(number), str(TOTAL))
            print(f"frame {number}:", frame.stdout.strip(), flush=True)

    async def shutdown(self) -> AsyncGenerator[shem.Script, list[shem.CommandResult]]:
        yield shem.Run("mandel", "note", "shut down in order")
        print("shut down")


async def main(frames: int, *, leave: bool) -> None:
    async with (
        shem.Golem(app="examples") as golem,
        golem.service(Zoom(frames), name="zoom", payload=PACKAGE) as running,
    ):
        print("resumed" if running.resumed else "new", running.activity.id)
        if leave:
            await running.suspend()
        else:
            await running.wait()


numbers = [int(word) for word in sys.argv[1:] if word != "--leave"]
asyncio.run(main(*(numbers or [20]), leave="--leave" in sys.argv))
