"""The service of the demo: it runs on by itself and keeps count, whoever looks after it.

In a container it is a web server with a clock beside it (`image.py`), which says itself how long it
has run. Where no container can be had, the WASI program stands in: it keeps the count in its
ledger, but runs only while it is asked. Uses nothing but `import shem`.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import shem

NAME: Final = "counter"
URL: Final = "http://localhost:8080"
STARTED: Final = "the service was started"
ASKED: Final = "the service was asked"


class Kind(StrEnum):
    """What the service is."""

    CONTAINER = "container"
    WASM = "wasm"


@dataclass(frozen=True, slots=True)
class Told:
    """What the service says of itself."""

    starts: int
    asked: int
    ran_s: int | None = None
    pause_s: int | None = None
    """The longest pause of its clock."""


def payload(kind: Kind, url: str, digest: str) -> shem.ContainerImage | shem.WasmPackage:
    if kind is Kind.CONTAINER:
        return shem.ContainerImage(url=url, hash=digest, start=shem.START_ENTRYPOINT)
    return shem.WasmPackage(url=url, hash=digest)


def question(kind: Kind) -> list[shem.Run]:
    """Return what is run to ask it."""
    if kind is Kind.CONTAINER:
        return [shem.Run("/bin/sh", "-c", f"wget -q -O - {URL}/cgi-bin/story")]
    return [shem.Run("mandel", "note", ASKED), shem.Run("mandel", "ledger")]


def answer(kind: Kind, results: Sequence[shem.CommandResult]) -> Told:
    said = results[-1].check().stdout
    if kind is Kind.CONTAINER:
        return Told(*(int(word) for word in said.split()))
    lines = said.splitlines()
    return Told(lines.count(STARTED), lines.count(ASKED))


class Counter(shem.Service):
    """Is brought up, asked once, and let run on."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.told: asyncio.Future[Told] = asyncio.get_running_loop().create_future()

    async def start(self) -> AsyncGenerator[shem.Script, list[shem.CommandResult]]:
        if self.kind is Kind.CONTAINER:
            is_up = f"until wget -q -O /dev/null {URL}; do sleep 0.1; done"
            yield shem.Run("/bin/sh", "-c", is_up)
        else:
            yield shem.Run("mandel", "note", STARTED)

    async def run(self) -> AsyncGenerator[shem.Script, list[shem.CommandResult]]:
        results = yield question(self.kind)
        self.told.set_result(answer(self.kind, results))
        await asyncio.Event().wait()  # until the program leaves


async def take_up(golem: shem.Golem, kind: Kind, url: str, digest: str) -> tuple[Told, shem.Ticket]:
    """Start the service, or take it up by its name; ask it, and let it run on."""
    counter = Counter(kind)
    async with golem.service(counter, name=NAME, payload=payload(kind, url, digest)) as running:
        ended = asyncio.ensure_future(running.wait())
        either: set[asyncio.Future[Any]] = {ended, counter.told}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ended.result()
        ended.cancel()
        return counter.told.result(), await running.suspend()


async def ask(golem: shem.Golem, kind: Kind, ticket: shem.Ticket) -> Told:
    """Ask the service of a ticket, which is all that is known of it."""
    async with golem.attach(ticket) as activity:
        batch = await activity.submit(question(kind))
        return answer(kind, await batch.wait())
