"""The requestor's program of the demo: a process of its own that uses nothing but `import shem`.

    python -m shem.devnet.program rent --url URL --hash HASH
    python -m shem.devnet.program attach ACTIVITY_ID [--zoom TAG] [--terminate REASON]

`rent` rents, looks at the set, describes a zoom and follows a long batch of frames: that is when
the demo kills it. `attach` comes back by the activity id alone, reads everything that ran
meanwhile, runs another command, and counts executions in the payload's own ledger; with `--zoom`
it leaves a new batch of frames running behind. What it sees it prints as JSON, one object a line.
"""

import argparse
import asyncio
import json
import sys
from typing import Any, Final

import shem

FRAMES: Final = 12
SCENE: Final = """\
centre -0.743643887037151 0.131825904205330
width 0.02 0.0125
size 480 360
iterations 2500
"""
FIRST_TAG: Final = "first"


def tell(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)  # noqa: T201


def frames(tag: str) -> list[shem.Run]:
    """Return a batch that renders every frame of the zoom; each is work, and leaves its trace."""
    return [shem.Run("mandel", "zoom", str(n), str(FRAMES), tag) for n in range(1, FRAMES + 1)]


async def follow(batch: shem.Batch) -> None:
    """Tell each result of a batch as it comes."""
    async for result in batch.results():
        tell(
            "result",
            batch=batch.id,
            index=result.index,
            ok=result.ok,
            stdout=result.stdout,
            message=result.message,
            at=result.at,
        )


async def rent(package: shem.WasmPackage) -> None:
    async with shem.Golem(app="demo") as golem, golem.rent(package) as activity:
        tell(
            "rented",
            activity=activity.id,
            agreement=activity.agreement.id,
            provider=activity.report.provider_id,
        )
        picture = await activity.run("mandel", "render", "78", "24", check=True)
        tell("output", stdout=picture.stdout)
        scene = await activity.run("mandel", "scene", SCENE, check=True)
        tell("output", stdout=scene.stdout)
        batch = await activity.submit(frames(FIRST_TAG))
        tell("submitted", batch=batch.id, commands=FRAMES, tag=FIRST_TAG)
        await follow(batch)
        tell("finished", batch=batch.id)
        await activity.detach()


async def attach(activity_id: str, zoom: str | None, terminate: str | None) -> None:
    async with shem.Golem(app="demo") as golem, golem.attach(activity_id) as activity:
        tell(
            "attached",
            alive=activity.report.alive,
            state=activity.report.state,
            agreement=activity.agreement.id,
            batches=[
                {"batch": b.batch_id, "commands": b.commands, "results": len(b.results)}
                for b in activity.report.batches
            ],
        )
        await activity.raise_if_gone()
        for info in await activity.batches():
            if info.commands == FRAMES:
                await follow(info.batch)
                tell("finished", batch=info.batch.id)
        again = await activity.run("mandel", "render", "40", "12", check=True)
        tell("output", stdout=again.stdout)
        ledger = await activity.run("mandel", "ledger", check=True)
        tell("ledger", stdout=ledger.stdout)
        if zoom is not None:
            batch = await activity.submit(frames(zoom))
            tell("submitted", batch=batch.id, commands=FRAMES, tag=zoom)
        if terminate is not None:
            await activity.agreement.terminate(terminate, code="Success")
            ended = await activity.agreement.info()
            tell("terminated", state=ended.state, reason=terminate)
    tell("left")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m shem.devnet.program")
    commands = parser.add_subparsers(dest="command", required=True)
    renting = commands.add_parser("rent")
    renting.add_argument("--url", required=True)
    renting.add_argument("--hash", required=True)
    attaching = commands.add_parser("attach")
    attaching.add_argument("activity")
    attaching.add_argument("--zoom")
    attaching.add_argument("--terminate")
    options = parser.parse_args()
    try:
        if options.command == "rent":
            asyncio.run(rent(shem.WasmPackage(url=options.url, hash=options.hash)))
        else:
            asyncio.run(attach(options.activity, options.zoom, options.terminate))
    except shem.GolemError as error:
        tell("failed", error=type(error).__name__, message=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
