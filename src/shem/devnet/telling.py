"""How the story is told: colours and boxes on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from shem.devnet.promises import Check

PLAIN_WIDTH: Final = 120
MARKS: Final = {True: ("✓", "green"), False: ("BROKEN", "bold red"), None: ("–", "yellow")}
WORDS: Final = {True: ("yes", "bold green"), False: ("NO", "bold red"), None: ("–", "yellow")}
"""Of a promise that was kept, that was broken, that is not shown here."""


class Terminal:
    """Tells on standard output, or on standard error when that is wanted for JSON."""

    def __init__(self, *, stderr: bool = False) -> None:
        self._started = time.monotonic()
        self.console = Console(stderr=stderr, highlight=False, soft_wrap=True)
        if not self.console.is_terminal:
            self.console.width = PLAIN_WIDTH
        self._fancy = self.console.is_terminal

    def chapter(self, title: str) -> None:
        self.console.print()
        if self._fancy:
            self.console.rule(f"[bold cyan]{title}", style="cyan")
        else:
            self.console.print(f"== {title}")

    def step(self, text: str) -> None:
        self._line("•", text, "default")

    def check(self, check: Check) -> None:
        mark, style = MARKS[check.kept]
        self._line(mark, f"{check.promised}: {check.seen}", style)

    def blow(self, text: str) -> None:
        self._line("✗", text, "bold yellow")

    def output(self, text: str) -> None:
        """Show what the payload printed."""
        shown = Text(text.rstrip("\n"), style="green")
        if self._fancy and "\n" in text.rstrip("\n"):
            self.console.print(Panel.fit(shown, border_style="dim", box=box.ROUNDED))
            return
        for line in text.rstrip("\n").splitlines():
            self.console.print(Text("    " + line, style="green"))

    def table(self, checks: Sequence[Check]) -> None:
        """Show what was promised beside what was seen."""
        shape = box.ROUNDED if self._fancy else box.ASCII
        title = "What was promised, and what was seen"
        table = Table(box=shape, title=title, title_style="bold")
        table.add_column("promised", overflow="fold")
        table.add_column("seen", overflow="fold")
        table.add_column("kept", justify="center")
        chapter = ""
        for check in checks:
            if check.chapter != chapter:
                table.add_section()
                table.add_row(Text(check.chapter, style="bold cyan"))
                chapter = check.chapter
            word, style = WORDS[check.kept]
            table.add_row(Text(check.promised), Text(check.seen), Text(word, style=style))
        self.console.print()
        self.console.print(table)

    def _line(self, mark: str, text: str, style: str) -> None:
        seconds = time.monotonic() - self._started
        line = Text.assemble((f"{seconds:5.1f} s ", "dim"), (f"{mark} ", "cyan"), (text, style))
        self.console.print(line)
