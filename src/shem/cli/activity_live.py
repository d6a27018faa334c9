"""How `shem activity` tells: a timeline, results as they come, progress on a terminal.

Plain lines where the output is no terminal; with `--json` one document a line, for programs.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shem.cli.activity_rows import Happening, cut, happening, result_row, short_time
from shem.sdk.batch import CommandResult


class Telling:
    """Where things are told."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._console = Console(highlight=False, soft_wrap=True)
        self._progress: Progress | None = None

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
            self.happened(happening(result))

    def happened(self, entry: Happening) -> None:
        mark = "•" if entry.ok else "✗"
        self._line(f"{short_time(entry.at)}  {mark} {cut(entry.what)}")
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

    async def follow(
        self, name: str, results: AsyncIterator[CommandResult], *, done: int, of: int | None
    ) -> bool:
        """Tell a batch's results as they come; False when a command failed."""
        shown = self._progress
        task = None if shown is None else shown.add_task(f"batch {name[:8]}", total=of)
        if shown is not None and task is not None:
            shown.update(task, completed=done)
        good = True
        async for result in results:
            self.result(result)
            good = good and result.ok
            if shown is not None and task is not None:
                shown.advance(task)
        return good

    def _line(self, text: str) -> None:
        console = self._progress.console if self._progress is not None else self._console
        console.print(text, markup=False)
