"""The end of work by its terms: when it is due, and how far it has come. Pure.

What is agreed (docs/protocol/extensions.md, "The end of work") is judged on what the journal and
the counters say. Once it is due nothing new is accepted; what runs is stopped, or, when it is only
the requestor that is away, let end; then the usage stands still, whatever delivering takes, and
what was agreed is delivered. Every step is a record of the journal: a process that comes after this
one goes on where it was, and nothing is delivered before the work is over.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final

from shem.exeunit.commands import Kind
from shem.exeunit.journal import Record
from shem.exeunit.results import as_int
from shem.rest.endwhen import ENDED_BY_TERMS, Condition, EndWhen

ABSENCE: Final = "absence"
"""The cause when the agent says that the requestor has been away for too long."""

ENDED_NAME: Final = "ended.json"
"""In the work directory: tells the agent, once the process has ended, that the work is over."""


class Phase(StrEnum):
    """How far the end has come."""

    WORKING = "working"
    STOPPING = "stopping"
    DELIVERING = "delivering"
    OVER = "over"


class Step(StrEnum):
    """What brings it further."""

    DUE = "due"
    QUIET = "quiet"
    PART = "part"
    ALL = "all"


TRANSITIONS: Final[dict[tuple[Phase, Step], Phase]] = {
    (Phase.WORKING, Step.DUE): Phase.STOPPING,
    (Phase.STOPPING, Step.QUIET): Phase.DELIVERING,
    (Phase.DELIVERING, Step.PART): Phase.DELIVERING,
    (Phase.DELIVERING, Step.ALL): Phase.OVER,
}
"""An absent pair is impossible."""


class Part(StrEnum):
    """What is delivered, in this order: the results say what became of the files."""

    FILES = "files"
    RESULTS = "results"


@dataclass(frozen=True, slots=True)
class Sight:
    """What the conditions are judged on."""

    running: bool
    """A batch has not ended."""
    worked: bool
    """A batch that ran a program has ended."""
    exits: frozenset[str]
    """The entry points of all programs that have ended."""
    idle_s: float
    """How long nothing has run; 0 while something runs."""
    age_s: float
    """How long the activity has been there, as it is billed."""
    cost: Decimal | None
    """What it has cost; None when that cannot be said."""


def _exited(wanted: EndWhen, sight: Sight) -> bool:
    return sight.exits != frozenset() if wanted.exit is True else wanted.exit in sight.exits


CONDITIONS: Final[Mapping[Condition, Callable[[EndWhen, Sight], bool]]] = {
    Condition.BUDGET: lambda wanted, sight: (
        wanted.budget is not None and sight.cost is not None and sight.cost >= wanted.budget
    ),
    Condition.TIME: lambda wanted, sight: (
        wanted.time_s is not None and sight.age_s >= wanted.time_s
    ),
    Condition.EXIT: _exited,
    Condition.BATCH_DONE: lambda _, sight: sight.worked and not sight.running,
    Condition.IDLE: lambda wanted, sight: (
        wanted.idle_s is not None and not sight.running and sight.idle_s >= wanted.idle_s
    ),
}
"""In the order in which they are told when several hold."""


def due(wanted: EndWhen, sight: Sight) -> Condition | None:
    """Return the condition that ends the work now; None: it goes on."""
    stated = wanted.conditions
    return next(
        (name for name, holds in CONDITIONS.items() if name in stated and holds(wanted, sight)),
        None,
    )


@dataclass(slots=True)
class End:
    """The end as the journal tells it."""

    phase: Phase = Phase.WORKING
    cause: str = ""
    usage: dict[str, float] | None = None
    """The usage that counts, from when it stands still."""
    quiet_ns: int = 0
    parts: dict[Part, str | None] = field(default_factory=dict)
    """What was delivered; or why not, and then nothing more is tried."""

    @property
    def begun(self) -> bool:
        return self.phase is not Phase.WORKING

    def apply(self, record: Record) -> None:
        """Take in a record that is on disk; KeyError when it is impossible."""
        self.phase = TRANSITIONS[self.phase, Step(str(record["step"]))]
        match record:
            case {"step": Step.DUE, "cause": cause}:
                self.cause = str(cause)
            case {"step": Step.QUIET, "at": at}:
                self.quiet_ns = as_int(at)
            case {"step": Step.PART, "part": part, "problem": problem}:
                self.parts[Part(str(part))] = None if problem is None else str(problem)
        usage = record.get("usage")
        if self.usage is None and isinstance(usage, dict):
            self.usage = {str(name): float(value) for name, value in usage.items()}

    def text(self) -> str:
        """Say for people why it ended and what became of the results."""
        delivered = [str(part) for part, problem in self.parts.items() if problem is None]
        failed = [f"{part} ({why})" for part, why in self.parts.items() if why is not None]
        told = [f"{ENDED_BY_TERMS}: {self.cause}"]
        told += [f"delivered: {', '.join(delivered)}"] if delivered else []
        told += [f"not delivered: {', '.join(failed)}"] if failed else []
        return "; ".join(told)


def due_record(cause: str, usage: Mapping[str, float] | None, now_ns: int) -> Record:
    """Return the record that the end is due; with `usage` it stands still from here on."""
    return {"kind": "end", "step": Step.DUE, "cause": cause, "usage": usage, "at": now_ns}


def quiet_record(usage: Mapping[str, float], now_ns: int) -> Record:
    """Return the record that nothing runs any more."""
    return {"kind": "end", "step": Step.QUIET, "usage": usage, "at": now_ns}


def part_record(part: Part, problem: str | None, now_ns: int) -> Record:
    """Return the record that a part was delivered, or why it will not be."""
    return {"kind": "end", "step": Step.PART, "part": part, "problem": problem, "at": now_ns}


def all_record(now_ns: int) -> Record:
    """Return the record that nothing is left to do."""
    return {"kind": "end", "step": Step.ALL, "at": now_ns}


def is_program(kind: Kind) -> bool:
    """Whether a command of this kind is work, and not only its preparation."""
    return kind is Kind.RUN
