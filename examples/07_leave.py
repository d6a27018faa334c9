"""Leave for good: the work ends by itself, its results stay readable, nothing is billed on.

`shem activity attach ID` tells later how it went, also when activity and agreement have ended.
"""

import asyncio
import os
from datetime import timedelta

import shem

PACKAGE = shem.WasmPackage(url=os.environ["SHEM_PACKAGE_URL"], hash=os.environ["SHEM_PACKAGE_HASH"])


async def main() -> None:
    async with shem.Golem(app="examples") as golem:
        activity = await golem.rent(
            PACKAGE,
            end_when=shem.EndWhen(batch_done=True, time_s=1_800),
            keep_results=timedelta(days=2),
        )
        await activity.submit([shem.Run("mandel", "zoom", str(n), "16") for n in range(1, 17)])
        ticket = await activity.detach()
    print(ticket.activity_id)


asyncio.run(main())
