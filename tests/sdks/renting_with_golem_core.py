"""A program that uses golem-core 0.7.8 as published, and nothing of ours.

rent URL HASH FRAMES        rents a payload, starts a long batch and follows it
attach ACTIVITY BATCH       knows the ids only: reads the batch, runs a command, ends nothing
end ACTIVITY AGREEMENT      destroys and terminates
"""

import asyncio
import sys
from dataclasses import dataclass

from golem.node import GolemNode
from golem.payload import Payload, constraint, prop
from golem.resources import Deploy, Run, Start

SCENE = "centre -0.743643887 0.131825904\nwidth 0.02 0.01\nsize 240 180\niterations 3000\n"


@dataclass
class Wasm(Payload):
    """What is rented."""

    package: str = prop("golem.srv.comp.task_package")
    platform: str = prop("golem.com.payment.chosen-platform", default="erc20-holesky-tglm")
    runtime: str = constraint("golem.runtime.name", default="wasmtime")


def say(*words: object) -> None:
    print(*words, flush=True)  # noqa: T201


async def rent(node: GolemNode, url: str, digest: str, frames: str) -> None:
    demand = await node.create_demand(Wasm(f"hash:{digest}:{url}"))
    async for proposal in demand.initial_proposals():
        async for answer in (await proposal.respond()).responses():
            agreement = await answer.create_agreement()
            await agreement.confirm()
            if await agreement.wait_for_approval():
                await work(agreement, int(frames))
                return


async def work(agreement: object, frames: int) -> None:
    activity = await agreement.create_activity()
    say("rented", activity.id, agreement.id)
    first = await activity.execute_commands(
        Deploy(), Start(), Run(["mandel", "scene", SCENE]), Run(["mandel", "note", "first"])
    )
    await first.wait()
    zoom = [Run(["mandel", "zoom", str(n), str(frames)]) for n in range(1, frames + 1)]
    batch = await activity.execute_commands(*zoom)
    say("submitted", batch.id)
    while not batch.events:  # noqa: ASYNC110 - golem-core tells of the end alone
        await asyncio.sleep(0.1)
    say("result", batch.events[0].result)
    await asyncio.Event().wait()


async def attach(node: GolemNode, activity_id: str, batch_id: str) -> None:
    activity = node.activity(activity_id)
    batch = activity.batch(batch_id)
    batch.start_collecting_events()
    for result in await batch.wait(timeout=100, ignore_errors=True):
        say("result", result.index, result.result)
    last = await activity.execute_commands(
        Run(["mandel", "note", "again"]), Run(["mandel", "ledger"])
    )
    await last.wait(timeout=30)
    say("ledger", *last.events[-1].stdout.replace(" ", "_").split())


async def end(node: GolemNode, activity_id: str, agreement_id: str) -> None:
    await node.activity(activity_id).destroy()
    await node.agreement(agreement_id).terminate("done")
    say("ended")


async def main(verb: str, *words: str) -> None:
    async with GolemNode(collect_payment_events=False) as node:
        await {"rent": rent, "attach": attach, "end": end}[verb](node, *words)


asyncio.run(main(*sys.argv[1:]))
