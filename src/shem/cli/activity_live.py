"""How `shem activity` tells: a timeline, results as they come, progress on a terminal.

Plain lines where the output is no terminal; with `--json` one document a line, for programs.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import replace
from typing import Any, Final, Self

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from shem.cli.activity_rows import (
    Happening,
    Names,
    command_name,
    cut,
    happening,
    result_row,
    short_time,
)
from shem.kernel.errors import ShemError
from shem.sdk import live as sdk
from shem.sdk.batch import Batch, CommandResult

LATE_OUTPUT_S: Final = 0.5
"""How long a result waits for the rest of its output, which comes another way."""


class Telling:
    """Where things are told."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._console = Console(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self.names: Names = {}

    @property
    def is_fancy(self) -> bool:
        return self._console.is_terminal and not self.as_json

    def document(self, event: str, **facts: Any) -> None:
        """Print one JSON document on a line of its own."""
        click.echo(json.dumps({"event": event, **facts}, separators=(",", ":")))

    def timeline(self, entries: Sequence[Happening]) -> None:
        for entry in entries:
            if self.as_json:
                self.document("happened", **entry.json())
            else:
                self.happened(entry)

    def result(self, result: CommandResult) -> None:
        if self.as_json:
            self.document("result", **result_row(result))
        else:
            self.happened(happening(result, self.names))

    def happened(self, entry: Happening) -> None:
        mark = "•" if entry.ok else "✗"
        self._line(f"{short_time(entry.at)}  {mark} {entry.what}")
        for line in entry.output.rstrip("\n").splitlines():
            self._line(f"{'':21}  {line}")

    def say(self, text: str) -> None:
        if not self.as_json:
            self._line(text)

    def progress(self) -> AbstractContextManager[object]:
        """Show bars while the block lasts, on a terminal."""
        if not self.is_fancy:
            return nullcontext()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        return self._progress

    def bar(self, what: str) -> "Bar":
        """Return a bar of its own for something that goes on."""
        return Bar(self._progress, what)

    @contextmanager
    def copying(self, what: str) -> Iterator[Callable[[sdk.Progress], None]]:
        """Tell how far a copy is while the block lasts."""
        moved = 0

        def told(event: sdk.Progress) -> None:
            nonlocal moved
            moved = event.done
            if self.as_json:
                self.document("progress", done=event.done, total=event.total)
            else:
                bar.at(event.done, event.total, _bytes(event))

        with self.progress(), self.bar(what) as bar:
            yield told
        self.say(f"{what} copied" + (f", {moved} bytes" if moved else ""))

    async def follow(self, batch: Batch, *, done: int, of: int | None) -> None:
        """Tell a batch from command `done` on: output while it is made, results as they come."""
        live = _Live(self, batch.id, done)
        with self.bar(f"batch {batch.id[:8]}") as bar:
            bar.at(done, of, _count(done, of))
            async with live.following(batch):
                async for result in batch.results(done):
                    await live.told(result)
                    done += 1
                    bar.at(done, of, _count(done, of))

    def output(self, line: str) -> None:
        """Print a line of output as it is made."""
        self._line(f"{'':21}  {line}")

    def _line(self, text: str) -> None:
        console = self._progress.console if self._progress is not None else self._console
        console.print(text, markup=False)


class Bar:
    """A bar on a terminal, or nothing elsewhere."""

    def __init__(self, progress: Progress | None, what: str) -> None:
        self._progress = progress
        self._what = what
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._task = self._progress.add_task(self._what, total=None, count="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)

    def at(self, done: int, total: int | None, count: str) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, count=count)


def _count(done: int, total: int | None) -> str:
    return f"{done}/{'?' if total is None else total}"


def _bytes(event: sdk.Progress) -> str:
    """Return how far something is, in the unit it is told in."""
    if event.message is not None:
        return event.message
    if event.unit not in {None, "Bytes"}:
        return f"{_count(event.done, event.total)} {event.unit}"
    done = decimal(event.done)
    return done if event.total is None else f"{done} of {decimal(event.total)}"


class _Live:
    """Output that was shown while its command ran, so that the result does not show it again."""

    def __init__(self, telling: Telling, batch_id: str, first: int) -> None:
        self._telling = telling
        self._batch_id = batch_id
        self._first = first
        self._seen: dict[int, int] = {}
        self._more = asyncio.Event()
        self._begun = ""

    @asynccontextmanager
    async def following(self, batch: Batch) -> AsyncIterator[None]:
        task = asyncio.create_task(self._show(batch))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _show(self, batch: Batch) -> None:
        with suppress(ShemError), self._telling.bar("") as bar:
            async for event in batch.events():
                if event.index < self._first:
                    continue
                if self._telling.as_json:
                    self._tell_program(event)
                elif isinstance(event, sdk.Output):
                    self._seen[event.index] = self._seen.get(event.index, 0) + len(event.text)
                    self._print(event.text)
                    self._more.set()
                elif isinstance(event, sdk.Progress):
                    bar.at(event.done, event.total, _bytes(event))
                elif isinstance(event, sdk.Started):
                    bar.at(0, None, cut(command_name(event.command)))

    def _tell_program(self, event: sdk.Event) -> None:
        place = {"batchId": self._batch_id, "index": event.index}
        match event:
            case sdk.Started():
                self._telling.document("started", **place, command=event.command)
            case sdk.Output():
                self._telling.document("output", **place, stream=event.stream, text=event.text)
            case sdk.Progress():
                facts = {"unit": event.unit, "message": event.message}
                self._telling.document(
                    "progress", **place, done=event.done, total=event.total, **facts
                )

    def _print(self, text: str) -> None:
        """Print the lines that are complete by now."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._telling.output(line)

    async def told(self, result: CommandResult) -> None:
        """Tell a result; its output only if it was not shown, or not to the end."""
        length = len(result.stdout + result.stderr)
        with suppress(TimeoutError):
            async with asyncio.timeout(LATE_OUTPUT_S):
                while 0 < self._seen.get(result.index, 0) < length:
                    self._more.clear()
                    await self._more.wait()
        if self._begun:
            self._print("\n")
        whole = self._seen.get(result.index, 0) >= length
        shown = replace(result, stdout="", stderr="") if whole and length else result
        self._seen[result.index] = max(length, self._seen.get(result.index, 0))
        self._telling.result(shown)


async def pass_on(batch: Batch) -> CommandResult:
    """Make the output of a batch of one command ours, as it is made; return its result."""
    shown = {"stdout": "", "stderr": ""}

    def show(stream: str, text: str) -> None:
        shown[stream] += text
        click.echo(text, nl=False, err=stream == "stderr")

    async def listen() -> None:
        with suppress(ShemError):
            async for output in batch.stream():
                show(output.stream, output.text)

    listening = asyncio.create_task(listen())
    try:
        result = (await batch.wait())[-1]
        with suppress(TimeoutError):
            async with asyncio.timeout(LATE_OUTPUT_S):
                await asyncio.shield(listening)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    for stream, whole in (("stdout", result.stdout), ("stderr", result.stderr)):
        show(stream, whole[len(shown[stream]) :])
    return result
