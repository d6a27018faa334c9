"""What an ExeUnit may do: its states, its batches, and the rules between them.

Pure. The core decides and returns records; the service makes each record durable and only then
gives it back to `apply`, so that memory never knows more than the disk. Replaying a journal through
`apply` gives the same core again, and `recover` ends what a dead process had left running: no
command is ever started twice (docs/protocol/activity-exeunit.md §5.1, §7).

One command runs at a time: a batch keeps its turn until it ends, another batch is told it is busy.
`terminate` and `sign` need no turn.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from shem.activity.messages import ENDING_WORDS, ActivityEnding
from shem.exeunit.commands import Command, Kind
from shem.exeunit.ending import End
from shem.exeunit.journal import Record
from shem.exeunit.results import (
    Outcome,
    Result,
    as_int,
    failure,
    result_fields,
    result_of_fields,
)
from shem.exeunit.script import Script, parse_script
from shem.kernel.errors import Conflict, NotFound, StorageFault, UsageError
from shem.rest.endwhen import ENDED_BY_TERMS

BATCHES_MAX: Final = 10_000
OUTPUT_SIZE_MAX: Final = 256 << 20
"""Output that an activity may keep; beyond it no batch is accepted."""
BATCH_OUTPUT_SIZE_MAX: Final = 16 << 20
"""Output of one batch; the command that exceeds it keeps none, so that one reply carries all."""

INTERRUPTED: Final = "interrupted, outcome unknown: the ExeUnit ended while this command ran"
_BATCH_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")


class State(StrEnum):
    """The states of an activity that an ExeUnit can be in."""

    INITIALIZED = "Initialized"
    DEPLOYED = "Deployed"
    READY = "Ready"
    TERMINATED = "Terminated"


TRANSITIONS: Final[dict[tuple[State, Kind], State]] = {
    (State.INITIALIZED, Kind.DEPLOY): State.DEPLOYED,
    (State.DEPLOYED, Kind.START): State.READY,
    (State.READY, Kind.RUN): State.READY,
    (State.READY, Kind.TRANSFER): State.READY,
    (State.INITIALIZED, Kind.TERMINATE): State.INITIALIZED,
    (State.DEPLOYED, Kind.TERMINATE): State.INITIALIZED,
    (State.READY, Kind.TERMINATE): State.INITIALIZED,
    (State.INITIALIZED, Kind.SIGN): State.INITIALIZED,
    (State.DEPLOYED, Kind.SIGN): State.DEPLOYED,
    (State.READY, Kind.SIGN): State.READY,
}
"""Which command may begin where, and the state a success leads to; an absent pair is refused."""

TURNLESS: Final = frozenset({Kind.TERMINATE, Kind.SIGN})
"""Commands that do not wait for the turn."""


@dataclass(slots=True)
class Batch:
    """An accepted batch and its results so far."""

    batch_id: str
    script: Script
    accepted_ns: int
    results: list[Result] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        done = len(self.results) == len(self.script.commands)
        return done or any(not result.outcome.ok for result in self.results)

    @property
    def last_index(self) -> int:
        return len(self.script.commands) - 1


@dataclass(frozen=True, slots=True)
class Begin:
    """The next command of a batch may begin."""

    index: int
    command: Command


@dataclass(frozen=True, slots=True)
class Refuse:
    """The next command of a batch may not begin, and ends the batch."""

    index: int
    outcome: Outcome


@dataclass(slots=True)
class Core:
    """The whole state of an ExeUnit."""

    state: State = State.INITIALIZED
    pending: State | None = None
    turn: tuple[str, int] | None = None
    """The batch and command index that run now."""
    terminating: bool = False
    batches: dict[str, Batch] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    """Batches that were asked about before they came: they never will be accepted."""
    usage: dict[str, float] = field(default_factory=dict)
    """The last usage checkpoint: what earlier processes of this activity used."""
    output_size: int = 0
    end: End = field(default_factory=End)

    # ---- decisions: they change nothing --------------------------------------------------------

    def accept(self, batch_id: str, script: Script, now_ns: int) -> Record | None:
        """Return the record that accepts a batch; None when it was accepted before."""
        require_batch_id(batch_id)
        known = self.batches.get(batch_id)
        if known is not None:
            if known.script.digest == script.digest:
                return None
            raise Conflict(f"Batch {batch_id} already exists")
        if batch_id in self.refused:
            raise Conflict(f"Batch {batch_id} was resolved as never accepted: use another id")
        if self.state is State.TERMINATED:
            raise ActivityEnding(f"{ENDING_WORDS}: it is terminated")
        if self.end.begun:
            raise ActivityEnding(f"{ENDING_WORDS}: {ENDED_BY_TERMS}: {self.end.cause}")
        if len(self.batches) >= BATCHES_MAX:
            raise Conflict(f"an activity takes at most {BATCHES_MAX} batches")
        if self.output_size >= OUTPUT_SIZE_MAX:
            raise Conflict(f"the results of this activity hold {OUTPUT_SIZE_MAX} bytes already")
        return {
            "kind": "accepted",
            "batch": batch_id,
            "digest": script.digest,
            "script": list(script.source),
            "at": now_ns,
        }

    def resolve(self, batch_id: str, now_ns: int) -> tuple[bool, Record | None]:
        """Say whether a batch was accepted; if not, return the record that it never will be."""
        require_batch_id(batch_id)
        if batch_id in self.batches:
            return True, None
        if batch_id in self.refused:
            return False, None
        if len(self.refused) >= BATCHES_MAX:
            raise Conflict(f"at most {BATCHES_MAX} batches are resolved as never accepted")
        return False, {"kind": "refused", "batch": batch_id, "at": now_ns}

    def next(self, batch_id: str) -> Begin | Refuse | None:
        """Return what happens next in a batch; None when it has ended."""
        batch = self.batch(batch_id)
        if batch.ended:
            return None
        index = len(batch.results)
        command = batch.script.commands[index]
        problem = self._problem(command.kind)
        return Begin(index, command) if problem is None else Refuse(index, failure(problem))

    def finish(self, batch_id: str, index: int, outcome: Outcome, now_ns: int) -> Record:
        """Return the record of a command's result."""
        batch = self.batch(batch_id)
        assert index == len(batch.results), (batch_id, index)
        kind = batch.script.commands[index].kind
        target = TRANSITIONS.get((self.state, kind)) if outcome.ok else None
        record = result_fields(Result(index, self._bounded(batch, outcome), now_ns))
        return {
            **record,
            "kind": "result",
            "batch": batch_id,
            "state": str(target if target is not None else self.state),
        }

    def recover(self, now_ns: int) -> list[Record]:
        """Return the records that end what an earlier process left unfinished."""
        return [
            self.finish(batch.batch_id, len(batch.results), failure(INTERRUPTED), now_ns)
            for batch in self.batches.values()
            if not batch.ended
        ]

    def batch(self, batch_id: str) -> Batch:
        try:
            return self.batches[batch_id]
        except KeyError:
            raise NotFound(f"batch_id = {batch_id}") from None

    # ---- changes --------------------------------------------------------------------------------

    def begin(self, batch_id: str, begin: Begin) -> None:
        """Give a batch the turn (or mark the termination that needs none)."""
        kind = begin.command.kind
        if kind is Kind.TERMINATE:
            self.terminating = True
        if kind not in TURNLESS:
            assert self.turn is None, self.turn
            self.turn = (batch_id, begin.index)
            self.pending = TRANSITIONS[self.state, kind]

    def apply(self, record: Record) -> None:
        """Take in a record that is on disk."""
        match record["kind"]:
            case "accepted":
                self._apply_accepted(record)
            case "refused":
                self.refused.add(str(record["batch"]))
            case "result":
                self._apply_result(record)
            case "state":
                self.state = State(str(record["state"]))
                self.pending = None
            case "usage":
                self._apply_usage(record)
            case "end":
                self.end.apply(record)
            case other:
                raise StorageFault(f"the journal has a record of the unknown kind {other!r}")

    def replay(self, records: Iterable[Record]) -> None:
        """Rebuild from a journal; StorageFault when it is not one of ours."""
        for record in records:
            try:
                self.apply(record)
            except (KeyError, ValueError, TypeError, AssertionError, UsageError) as error:
                raise StorageFault(f"the journal holds an impossible record: {error!r}") from error

    def _apply_accepted(self, record: Record) -> None:
        batch_id = str(record["batch"])
        script = parse_script(record["script"])
        assert batch_id not in self.batches, batch_id
        assert script.digest == record["digest"], batch_id
        self.batches[batch_id] = Batch(batch_id, script, as_int(record["at"]))

    def _apply_result(self, record: Record) -> None:
        batch = self.batches[str(record["batch"])]
        result = result_of_fields(record)
        assert result.index == len(batch.results) and not batch.ended, batch.batch_id
        batch.results.append(result)
        self.output_size += result.output_size
        self.state = State(str(record["state"]))
        if self.turn == (batch.batch_id, result.index):
            self.turn = None
            self.pending = None
        if batch.script.commands[result.index].kind is Kind.TERMINATE:
            self.terminating = False

    def _apply_usage(self, record: Record) -> None:
        values = record["values"]
        assert isinstance(values, dict), values
        self.usage = {str(name): float(value) for name, value in values.items()}

    # ---- rules ----------------------------------------------------------------------------------

    def _problem(self, kind: Kind) -> str | None:
        """Say why a command may not begin now; None when it may."""
        if (self.state, kind) not in TRANSITIONS:
            allowed = ", ".join(
                str(other)
                for state, other in TRANSITIONS
                if state is self.state and other not in TURNLESS
            )
            return (
                f"Local service error: State error: {kind} is not allowed while the activity is "
                f"{self.state}" + (f" (allowed: {allowed})" if allowed else "")
            )
        if self.terminating:
            return "Local service error: State error: Busy: the runtime is being terminated"
        if kind not in TURNLESS and self.turn is not None:
            return f"Local service error: State error: Busy: batch {self.turn[0]} is running"
        return None

    def _bounded(self, batch: Batch, outcome: Outcome) -> Outcome:
        held = sum(result.output_size for result in batch.results)
        size = len(outcome.stdout or "") + len(outcome.stderr or "")
        if held + size <= BATCH_OUTPUT_SIZE_MAX:
            return outcome
        message = f"the output was dropped: a batch keeps at most {BATCH_OUTPUT_SIZE_MAX} bytes"
        if outcome.message is not None:
            message = f"{outcome.message}; {message}"
        return Outcome(outcome.ok, message, outcome.return_code)


def require_batch_id(batch_id: str) -> None:
    """Refuse what cannot be an id."""
    if not _BATCH_ID.fullmatch(batch_id):
        raise UsageError(f"{batch_id[:80]!r} is not a batch id")
