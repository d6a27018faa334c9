"""A program that rents a payload, starts a long batch and follows it: it is there to be killed.

python -m tests.interop.renting_program URL HASH

What it learns it prints as JSON, one object a line.
"""

import asyncio
import json
import sys

import shem
from shem.devnet.program import FIRST_TAG, frames

SCENE = """\
centre -0.743643887037151 0.131825904205330
width 0.02 0.0002
size 240 180
iterations 3000
"""


def tell(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)  # noqa: T201


async def main(url: str, digest: str) -> None:
    async with (
        shem.Golem(app="interop") as golem,
        golem.rent(shem.WasmPackage(url=url, hash=digest)) as activity,
    ):
        tell("rented", activity=activity.id)
        await activity.run("mandel", "scene", SCENE, check=True)
        batch = await activity.submit(frames(FIRST_TAG))
        tell("submitted", batch=batch.id)
        async for result in batch.results():
            tell("result", index=result.index)
        tell("finished")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
