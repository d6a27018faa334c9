"""A deal as far as a column of the fault matrix, and from there to its end.

Also a program that gets so far and then waits to be killed:
`python -m tests.crash.matrix_deal COLUMN TAG URL HASH`.
"""

import asyncio
import sys
from dataclasses import dataclass

import msgspec

import shem
from shem.sdk.demand import platform_of, write_demand
from shem.sdk.golem import NETWORKS
from shem.sdk.negotiation import Negotiation
from shem.sdk.payloads import WasmPackage
from shem.sdk.script import Command
from tests.crash.slice_load import SCENE

APP = "matrix"
FRAMES = 25
"""About two seconds of work."""
WITHIN_S = 60.0
LOOK_S = 0.05
EXPIRES_S = 3 * 3_600.0
SETUP = (shem.Deploy(), shem.Start())


@dataclass
class Deal:
    """How far a deal has come: all that a program would have to keep."""

    tag: str
    agreement_id: str = ""
    activity_id: str = ""
    batch_id: str = ""


def script_of(tag: str) -> list[Command]:
    frames = [shem.Run("mandel", "zoom", str(n + 1), str(FRAMES), tag) for n in range(FRAMES)]
    note = shem.Run("mandel", "note", tag)
    return [shem.Run("mandel", "scene", SCENE), note, *frames]


def lines_of(tag: str) -> list[str]:
    """Return what a batch that ran once leaves in the payload's ledger."""
    frames = [f"{word} frame {n + 1} of {FRAMES} {tag}" for n in range(FRAMES) for word in WORDS]
    return [tag, *frames]


WORDS = ("begin", "end")


async def signed(golem: shem.Golem, package: WasmPackage) -> str:
    """Negotiate an agreement; returns its id."""
    session = golem.session
    now_s = session.world.clock.wall_ns() / 1e9
    demand = write_demand(
        package,
        subnet=session.subnet,
        requestor=session.identity,
        app=APP,
        expires_ms=int((now_s + EXPIRES_S) * 1_000),
        platforms=tuple(map(platform_of, NETWORKS)),
    )
    return await Negotiation(session, demand, WITHIN_S, None).run()


async def begun(golem: shem.Golem, deal: Deal) -> shem.Activity:
    """Create the activity of an agreement and make it ready."""
    deal.activity_id = await golem.session.rest.activity.create(deal.agreement_id)
    activity = await golem.attach(deal.activity_id)
    for result in await (await activity.submit(list(SETUP))).wait(WITHIN_S):
        result.check()
    return activity


async def reach(golem: shem.Golem, package: WasmPackage, column: str, tag: str) -> Deal:
    """Bring a deal as far as the column says."""
    deal = Deal(tag, await signed(golem, package))
    if column == "signed":
        return deal
    activity = await begun(golem, deal)
    deal.batch_id = (await activity.submit(script_of(tag))).id
    async with asyncio.timeout(WITHIN_S):
        while True:
            entries = await activity.batches()
            [entry] = [entry for entry in entries if entry.batch.id == deal.batch_id]
            if entry.finished if column == "ready" else 2 < entry.results < FRAMES:
                return deal
            assert column == "ready" or not entry.finished, "the batch was too quick"
            await asyncio.sleep(LOOK_S)


async def main(column: str, tag: str, url: str, digest: str) -> None:
    async with shem.Golem(APP) as golem:
        deal = await reach(golem, WasmPackage(url, digest), column, tag)
        print(msgspec.json.encode(deal).decode(), flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
