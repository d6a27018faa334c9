"""Rent a provider, run a WASI program there, and give everything back.

Start a devnet (`shem devnet up`), copy the `export` lines it prints, then run this.
"""

import asyncio
import os

import shem

PACKAGE = shem.WasmPackage(url=os.environ["SHEM_PACKAGE_URL"], hash=os.environ["SHEM_PACKAGE_HASH"])


async def main() -> None:
    async with shem.Golem(app="examples") as golem, golem.rent(PACKAGE) as activity:
        result = await activity.run("mandel", "render", "78", "24")
        print(result.stdout)


asyncio.run(main())
