"""Many inputs, a few workers, one result each; kill this program and start it again: it continues.

Usage: `python examples/05_map.py [FRAMES [WORKERS]]` (24 and 2).
"""

import asyncio
import os
import sys

import shem

PACKAGE = shem.WasmPackage(url=os.environ["SHEM_PACKAGE_URL"], hash=os.environ["SHEM_PACKAGE_HASH"])


async def main(frames: int = 24, workers: int = 2) -> None:
    def render(number: int) -> shem.Run:
        return shem.Run("mandel", "zoom", str(number), str(frames))

    async with shem.Golem(app="examples") as golem:
        mapping = golem.map(
            render, range(1, frames + 1), payload=PACKAGE, name="frames", workers=workers
        )
        async with mapping:
            async for done in mapping:
                how = "kept" if done.kept else f"computed by {done.provider_id[:10]}"
                print(f"input {done.input}: {done.result.stdout.strip()} ({how})", flush=True)
            for again in mapping.recomputed:
                print(f"input {again.index + 1} was computed again: {again.why}")


asyncio.run(main(*map(int, sys.argv[1:])))
