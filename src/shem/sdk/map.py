"""`golem.map`: one script per input, computed by a few workers, its progress kept.

    async with golem.map(script_of, inputs, payload=…, name="frames", workers=4) as mapping:
        async for done in mapping:
            print(done.index, done.result.stdout)

Every input has one accepted result, noted on disk before it is given out. A program that died is
continued by the next one of the same name: it gives the kept results again, waits for the batches
in flight by their noted ids, and computes only what is left. A worker whose provider has gone is
replaced; if its batch may have run, the recomputation is reported (`recomputed`). Rules of the
notes: `progress`; why it attaches like this: docs/adr/0009.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, Literal, Self, TypeVar

from shem.kernel.errors import ShemError, UsageError
from shem.kernel.tasks import TaskScope
from shem.sdk.activity import Activity
from shem.sdk.batch import CommandResult
from shem.sdk.claims import Claim, claims
from shem.sdk.errors import GolemError
from shem.sdk.journal import Journal, state_directory
from shem.sdk.leaving import Leaving
from shem.sdk.progress import FRESH, Progress, Recomputation
from shem.sdk.rental import Rental
from shem.sdk.script import Script, commands_of, encode
from shem.sdk.session import Session
from shem.sdk.workers import Crew

I = TypeVar("I")  # noqa: E741

INPUTS_MAX: Final = 1_000_000
WORKERS_MAX: Final = 1_000
ATTEMPTS: Final = 3
SILENCE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Done(Generic[I]):
    """One input with its accepted result."""

    index: int
    input: I
    results: tuple[CommandResult, ...]
    """Of every command of its script; empty when there is none (`error`)."""
    provider_id: str
    kept: bool
    """It was computed for an earlier program."""
    error: str | None = None
    """Why there is no result: every attempt was lost with its provider."""

    @property
    def ok(self) -> bool:
        return bool(self.results) and self.results[-1].ok

    @property
    def result(self) -> CommandResult:
        """The last command's result; GolemError when there is none."""
        if not self.results:
            raise GolemError(f"input {self.index} has no result: {self.error}", code="input-lost")
        return self.results[-1]


@dataclass(frozen=True, slots=True)
class Options:
    """How a map is computed."""

    workers: int = 1
    attempts: int = ATTEMPTS
    """How often an input may be lost with its provider before it is given up."""
    silence_s: float = SILENCE_S
    """How long a provider may not answer before its worker is replaced."""
    timeout_s: float | None = None
    """How long one input may take."""
    on_exit: Literal["end", "detach"] = "end"
    """What becomes of the workers when the block is left before all inputs are done."""
    fresh: bool = False
    """Forget what earlier programs of this name computed."""
    state_dir: Path | str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= WORKERS_MAX or self.attempts < 1:
            raise UsageError(f"a map has 1 to {WORKERS_MAX} workers and at least one attempt")


def check_leaving(leaving: Leaving, options: Options) -> Leaving:
    """Refuse terms that a map cannot mean: its workers compute input after input."""
    wanted = leaving.end_when
    if wanted is not None and (wanted.batch_done or wanted.exit):
        raise UsageError(
            "end_when: a map's worker would end after its first input; state idle_s, budget or "
            "time_s, which hold for each worker"
        )
    if leaving.sink is not None and options.workers > 1:
        raise UsageError("result_sink: several workers would deliver to the same place")
    return leaving


class Mapping(Generic[I]):
    """A map under way: `async with` it and iterate, or await it for the list of all results."""

    def __init__(
        self,
        open_session: Callable[[], Session],
        script_of: Callable[[I], Script],
        inputs: Iterable[I],
        *,
        name: str,
        rental: Rental,
        options: Options,
    ) -> None:
        self.name = name
        self._open_session = open_session
        self._script_of = script_of
        self._inputs = list(inputs)
        if len(self._inputs) > INPUTS_MAX:
            raise UsageError(f"a map has at most {INPUTS_MAX} inputs")
        self._rental = rental
        self._options = options
        self._scope = TaskScope()
        self._crew: Crew | None = None
        self._journal: Journal | None = None
        self._over = asyncio.Event()
        self._finished: asyncio.Queue[Done[I] | BaseException] = asyncio.Queue()

    @property
    def recomputed(self) -> tuple[Recomputation, ...]:
        """Inputs that were, or are being, computed again although an earlier batch may have run."""
        return tuple(self._opened.progress.recomputed)

    @property
    def workers(self) -> tuple[Activity, ...]:
        """The activities that compute now."""
        return tuple(self._opened.activities.values())

    @property
    def _opened(self) -> Crew:
        if self._crew is None:
            raise UsageError("this map is not open: use `async with golem.map(…) as mapping`")
        return self._crew

    async def __aenter__(self) -> Self:
        session = self._open_session().named(f"map:{self.name}")
        scripts = [commands_of(self._script_of(value)) for value in self._inputs]
        digests = [hashlib.sha256(encode(script).encode()).hexdigest() for script in scripts]
        directory = state_directory(self._options.state_dir)
        journal = self._journal = Journal.open(directory, "map", session.app, self.name)
        try:
            if self._options.fresh:
                journal.entries.append(journal.add(FRESH))
            progress = Progress.of(self.name, digests, journal.entries)
            self._crew = Crew(
                session=session,
                journal=journal,
                progress=progress,
                scripts=scripts,
                rental=self._rental,
                options=self._options,
                give=self._give,
            )
            held = await claims(session)
            for index in sorted(progress.done):
                self._give(index, kept=True)
            await self._scope.__aenter__()
        except BaseException:
            journal.close()
            raise
        self._scope.spawn(self._work(held), f"map {self.name}")
        return self

    async def _work(self, held: Sequence[Claim]) -> None:
        """Compute to the end; what fails is given to whoever iterates."""
        try:
            await self._opened.run(held)
        except ShemError as error:
            self._finished.put_nowait(error)
        finally:
            self._over.set()

    def _give(self, index: int, *, kept: bool = False, error: str | None = None) -> None:
        found = self._opened.progress.done.get(index)
        self._finished.put_nowait(
            Done(
                index=index,
                input=self._inputs[index],
                results=() if found is None else found.results,
                provider_id="" if found is None else found.provider_id,
                kept=kept,
                error=error,
            )
        )

    async def __aiter__(self) -> AsyncIterator[Done[I]]:
        """Yield every input once, as soon as its result is accepted; kept ones first."""
        for _ in range(len(self._inputs)):
            item = await self._finished.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None and self._opened.progress.finished:
                await self._over.wait()
            await self._scope.__aexit__(kind, error, trace)
            await self._opened.leave()
        finally:
            if self._journal is not None:
                self._journal.close()

    def __await__(self) -> Generator[object, None, list[Done[I]]]:
        return self.all().__await__()

    async def all(self) -> list[Done[I]]:
        """Compute everything and return it in the order of the inputs."""
        async with self as mapping:
            found = [done async for done in mapping]
        return sorted(found, key=lambda done: done.index)
