"""What is told of a batch while it runs (docs/protocol/activity-exeunit.md §8.3). Pure.

Best effort: results are complete, this is not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shem.rest.models import RuntimeEvent


@dataclass(frozen=True, slots=True)
class Started:
    """A command has begun."""

    index: int
    command: dict[str, Any]
    """As it was sent: `{"run": {"entry_point": …}}`."""


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a command says while it runs."""

    index: int
    stream: str
    """`stdout` or `stderr`."""
    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a command is: a transfer, or the fetching of an image."""

    index: int
    done: int
    total: int | None
    """None when it is not known beforehand."""
    unit: str | None = None
    message: str | None = None
    """A word in place of numbers."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command has ended; its result has all that it said."""

    index: int
    return_code: int
    message: str | None = None


Event = Started | Output | Progress | Finished


def events_of(raw: RuntimeEvent) -> Iterator[Event]:
    """Read what a node tells; kinds that are not known are left out."""
    for kind, body in raw.kind.items():
        if kind in {"stdout", "stderr"} and isinstance(body, str | list):
            yield Output(raw.index, kind, text_of(body))
        elif not isinstance(body, dict):
            continue
        elif kind == "started" and isinstance(body.get("command"), dict):
            yield Started(raw.index, body["command"])
        elif kind == "progress":
            yield from _progress(raw.index, body)
        elif kind == "finished" and isinstance(body.get("return_code"), int):
            yield Finished(raw.index, body["return_code"], _text_or_none(body.get("message")))


def text_of(captured: str | list[int] | None) -> str:
    """Return captured output as text."""
    if not isinstance(captured, list):
        return captured or ""
    try:
        return bytes(captured).decode(errors="replace")
    except (ValueError, TypeError):  # no bytes, whatever the node says
        return "\N{REPLACEMENT CHARACTER}"


def _progress(index: int, body: dict[str, Any]) -> Iterator[Progress]:
    numbers = body.get("progress")
    if not isinstance(numbers, list) or len(numbers) != 2 or not isinstance(numbers[0], int):
        return
    done, total = numbers
    yield Progress(
        index,
        done,
        total if isinstance(total, int) else None,
        _text_or_none(body.get("unit")),
        _text_or_none(body.get("message")),
    )


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None
