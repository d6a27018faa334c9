"""Start a long batch and leave it running: prints the activity id, and ends.

`python examples/03_attach.py ACTIVITY_ID` comes back to it, whatever happened meanwhile.
"""

import asyncio
import os

import shem

PACKAGE = shem.WasmPackage(url=os.environ["SHEM_PACKAGE_URL"], hash=os.environ["SHEM_PACKAGE_HASH"])


async def main() -> None:
    async with shem.Golem(app="examples") as golem, golem.rent(PACKAGE) as activity:
        await activity.submit([shem.Run("mandel", "zoom", str(n), "8") for n in range(1, 9)])
        ticket = await activity.detach()
        print(ticket.activity_id)


asyncio.run(main())
