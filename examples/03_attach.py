"""Come back to an activity by its id: read what ran meanwhile, run another command, end it."""

import asyncio
import sys

import shem


async def main(activity_id: str) -> None:
    async with shem.Golem(app="examples") as golem, golem.attach(activity_id) as activity:
        print("alive" if activity.report.alive else activity.report.ended)
        for info in await activity.batches():
            async for result in info.batch.results():
                print(result.index, result.stdout.strip())
        print((await activity.run("mandel", "render", "40", "12")).stdout)
        await activity.agreement.terminate("done")


asyncio.run(main(sys.argv[1]))
