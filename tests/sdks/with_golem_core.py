"""A program that uses golem-core 0.7.8 as published; arguments: ACTIVITY FRAMES."""

import asyncio
import sys

from golem.node import GolemNode
from golem.resources import Run


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201


async def main(activity_id: str, frames: int) -> None:
    async with GolemNode(collect_payment_events=False) as node:
        activity = node.activity(activity_id)
        commands = [Run(["mandel", "zoom", str(n), str(frames)]) for n in range(1, frames + 1)]
        batch = await activity.execute_commands(*commands)
        say("submitted", batch.id)
        for event in await batch.wait(timeout=600, ignore_errors=True):
            say("result", event.index, event.result, event.stdout)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
