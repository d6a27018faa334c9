"""What the story promises, what was seen of it, and where it is told."""

from dataclasses import dataclass
from typing import Protocol


class Telling(Protocol):
    """Where the story goes: a terminal, or nowhere."""

    def chapter(self, title: str) -> None: ...
    def step(self, text: str) -> None: ...
    def output(self, text: str) -> None: ...
    def blow(self, text: str) -> None: ...
    def check(self, check: "Check") -> None: ...


class Silence:
    """Tells nobody."""

    def chapter(self, title: str) -> None:
        del title

    def step(self, text: str) -> None:
        del text

    def output(self, text: str) -> None:
        del text

    def blow(self, text: str) -> None:
        del text

    def check(self, check: "Check") -> None:
        del check


@dataclass(frozen=True, slots=True)
class Check:
    """One promise and what was seen of it."""

    promised: str
    seen: str
    kept: bool | None
    """None when it cannot be shown here."""
    chapter: str = ""
