"""How `shem activity` tells: a timeline, results as they come, progress on a terminal.

Plain lines where the output is no terminal; with `--json` one document a line, for programs.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shem.cli.activity_rows import Happening, Names, happening, result_row, short_time
from shem.kernel.errors import ShemError
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
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        return self._progress

    async def follow(self, batch: Batch, *, done: int, of: int | None) -> None:
        """Tell a batch from command `done` on: output while it is made, results as they come."""
        shown = self._progress
        task = None if shown is None else shown.add_task(f"batch {batch.id[:8]}", total=of)
        if shown is not None and task is not None:
            shown.update(task, completed=done)
        live = _Live(self, done)
        async with live.following(batch):
            async for result in batch.results(done):
                await live.told(result)
                if shown is not None and task is not None:
                    shown.advance(task)

    def output(self, line: str) -> None:
        """Print a line of output as it is made."""
        self._line(f"{'':21}  {line}")

    def _line(self, text: str) -> None:
        console = self._progress.console if self._progress is not None else self._console
        console.print(text, markup=False)


class _Live:
    """Output that was shown while its command ran, so that the result does not show it again."""

    def __init__(self, telling: Telling, first: int) -> None:
        self._telling = telling
        self._first = first
        self._seen: dict[int, int] = {}
        self._more = asyncio.Event()
        self._begun = ""

    @asynccontextmanager
    async def following(self, batch: Batch) -> AsyncIterator[None]:
        if self._telling.as_json:
            yield
            return
        task = asyncio.create_task(self._show(batch))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _show(self, batch: Batch) -> None:
        with suppress(ShemError):
            async for output in batch.stream():
                if output.index >= self._first:
                    self._seen[output.index] = self._seen.get(output.index, 0) + len(output.text)
                    self._print(output.text)
                    self._more.set()

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
