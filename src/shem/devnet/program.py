"""The requestor's program of the demo: a process of its own that uses nothing but `import shem`.

    python -m shem.devnet.program rent --url URL --hash HASH
    python -m shem.devnet.program attach ACTIVITY [--zoom TAG]
    python -m shem.devnet.program follow ACTIVITY [TAG ...] --leave TAG --ticket FILE
    python -m shem.devnet.program serve KIND --url URL --hash HASH --ticket FILE
    python -m shem.devnet.program ask KIND TICKET
    python -m shem.devnet.program end ACTIVITY ... --reason TEXT

`rent` rents, looks at the set, describes a zoom and follows a long batch of frames: that is when
the demo kills it. `attach` comes back by an activity id, or by the file of a ticket, and nothing
else; it reads everything that ran meanwhile, runs another command, and counts executions in the
payload's own ledger; with `--zoom` it leaves a new batch of frames running behind. `follow` waits
for one batch after the other, whatever happens to its network, and leaves one more with a ticket.
`serve` brings the service up or takes it up by name, and asks it; `ask` asks the one of a ticket.
What they see they print as JSON, one object a line.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import shem
from shem.devnet import counter

FRAMES: Final = 12
SCENE: Final = """\
centre -0.743643887037151 0.131825904205330
width 0.02 0.0125
size 480 360
iterations 1500
"""
FIRST_TAG: Final = "first"
APP: Final = "demo"


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
    async with shem.Golem(app=APP) as golem, golem.rent(package) as activity:
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
        batch = await submit(activity, FIRST_TAG)
        await follow(batch)
        tell("finished", batch=batch.id)
        await activity.detach()


async def attach(named: str, zoom: str | None) -> None:
    async with shem.Golem(app=APP) as golem, golem.attach(_names(named)) as activity:
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
        await tell_ledger(activity)
        if zoom is not None:
            await submit(activity, zoom)
    tell("left")


async def wait_for(named: str, tags: Sequence[str], leave: str, ticket: Path) -> None:
    """Follow a batch for each tag, then leave another one running."""
    async with shem.Golem(app=APP) as golem, golem.attach(_names(named)) as activity:
        for tag in tags:
            await follow(await submit(activity, tag))
            await tell_ledger(activity)
        await submit(activity, leave)
        (await activity.detach()).save(ticket)
    tell("left")


async def serve(kind: counter.Kind, url: str, digest: str, ticket: Path) -> None:
    async with shem.Golem(app=APP) as golem:
        told, left = await counter.take_up(golem, kind, url, digest)
        left.save(ticket)
        tell("served", **asdict(told), agreement=left.agreement_id)


async def ask(kind: counter.Kind, ticket: Path) -> None:
    async with shem.Golem(app=APP) as golem:
        tell("served", **asdict(await counter.ask(golem, kind, shem.Ticket.load(ticket))))


async def end(names: Sequence[str], reason: str) -> None:
    async with shem.Golem(app=APP) as golem:
        for named in names:
            async with golem.attach(_names(named)) as activity:
                await activity.agreement.terminate(reason, code="Success")
                ended = await activity.agreement.info()
                tell("terminated", agreement=activity.agreement.id, state=ended.state)


async def submit(activity: shem.Activity, tag: str) -> shem.Batch:
    batch = await activity.submit(frames(tag))
    tell("submitted", batch=batch.id, commands=FRAMES, tag=tag)
    return batch


async def tell_ledger(activity: shem.Activity) -> None:
    ledger = await activity.run("mandel", "ledger", check=True)
    tell("ledger", stdout=ledger.stdout)


def _names(named: str) -> str | shem.Ticket:
    """Return an activity id, or the ticket in a file."""
    return shem.Ticket.load(named) if Path(named).is_file() else named


def work_of(words: Sequence[str] | None = None) -> Coroutine[Any, Any, None]:
    """Return what a command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m shem.devnet.program")
    commands = parser.add_subparsers(dest="command", required=True)
    renting, serving = commands.add_parser("rent"), commands.add_parser("serve")
    attaching, following = commands.add_parser("attach"), commands.add_parser("follow")
    asking, ending = commands.add_parser("ask"), commands.add_parser("end")
    for command in (serving, asking):
        command.add_argument("kind", type=counter.Kind)
    for command in (renting, serving):
        command.add_argument("--url", required=True)
        command.add_argument("--hash", required=True)
    for command in (attaching, following):
        command.add_argument("activity")
    for command in (following, serving):
        command.add_argument("--ticket", required=True, type=Path)
    attaching.add_argument("--zoom")
    following.add_argument("tags", nargs="*")
    following.add_argument("--leave", required=True)
    asking.add_argument("ticket", type=Path)
    ending.add_argument("activities", nargs="+")
    ending.add_argument("--reason", required=True)
    given = parser.parse_args(words)
    match given.command:
        case "rent":
            return rent(shem.WasmPackage(url=given.url, hash=given.hash))
        case "attach":
            return attach(given.activity, given.zoom)
        case "follow":
            return wait_for(given.activity, given.tags, given.leave, given.ticket)
        case "serve":
            return serve(given.kind, given.url, given.hash, given.ticket)
        case "ask":
            return ask(given.kind, given.ticket)
    return end(given.activities, given.reason)


def main() -> int:
    try:
        asyncio.run(work_of())
    except shem.GolemError as error:
        tell("failed", error=type(error).__name__, message=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
