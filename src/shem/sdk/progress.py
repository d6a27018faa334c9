"""How far a map has come: pure, rebuilt from its journal by the program that takes it up again.

    pending ──assigned──► in flight ──done──► done         the first accepted result is the result
                             └──lost──► pending            the input will be computed again

An input is known by its place and by the digest of its script. `lost` says whether the batch may
have run: if so, computing the input once more is a recomputation, and it is reported.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shem.kernel.errors import StorageFault, UsageError
from shem.sdk.batch import CommandResult
from shem.sdk.journal import Entry

FRESH: Final = "fresh"
ASSIGNED: Final = "assigned"
RENAMED: Final = "renamed"
DONE: Final = "done"
LOST: Final = "lost"


@dataclass(frozen=True, slots=True)
class Assignment:
    """An input on its way: the batch that computes it, and where."""

    index: int
    activity_id: str
    batch_id: str
    provider_id: str
    confirmed: bool = False
    """The node has told its own id of the batch (a yagna chooses ids itself)."""


@dataclass(frozen=True, slots=True)
class Recomputation:
    """An input that may have been computed before, in vain."""

    index: int
    batch_id: str
    provider_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Kept:
    """The accepted result of an input."""

    results: tuple[CommandResult, ...]
    provider_id: str


@dataclass(slots=True)
class Progress:
    """The state of one map."""

    name: str
    digests: Sequence[str]
    done: dict[int, Kept] = field(default_factory=dict)
    in_flight: dict[int, Assignment] = field(default_factory=dict)
    recomputed: list[Recomputation] = field(default_factory=list)
    pending: dict[int, None] = field(default_factory=dict)
    """Inputs to compute, in the order of their turn."""

    @classmethod
    def of(cls, name: str, digests: Sequence[str], entries: Iterable[Entry]) -> "Progress":
        """Rebuild from a journal; UsageError when the inputs are not what they were."""
        progress = cls(name, digests)
        progress._begin()
        for entry in entries:
            try:
                progress.apply(entry)
            except (KeyError, TypeError, ValueError) as error:
                raise StorageFault(f"the journal of map {name!r} is damaged: {error!r}") from error
        return progress

    def _begin(self) -> None:
        self.done.clear()
        self.in_flight.clear()
        self.recomputed.clear()
        self.pending = dict.fromkeys(range(len(self.digests)))

    @property
    def finished(self) -> bool:
        return len(self.done) == len(self.digests)

    def attempts_lost(self, index: int) -> int:
        """Count the tries of an input whose batch may have run."""
        return sum(lost.index == index for lost in self.recomputed)

    def apply(self, entry: Entry) -> None:
        """Take in an entry that is on disk."""
        kind = entry["kind"]
        if kind == FRESH:
            self._begin()
            return
        index = int(entry["input"])
        if not self._is_ours(index, entry["digest"]):
            return
        if kind == ASSIGNED:
            self._leave(index)
            self.in_flight[index] = _assignment(index, entry, confirmed=False)
        elif kind == RENAMED:
            self.in_flight[index] = _assignment(index, entry, confirmed=True)
        elif kind == DONE:
            self._leave(index)
            kept = tuple(_result(entry["batch"], raw) for raw in entry["results"])
            self.done.setdefault(index, Kept(kept, entry["provider"]))
        elif kind == LOST:
            self._lose(index, entry)
        else:
            raise ValueError(f"unknown kind {kind!r}")

    def _is_ours(self, index: int, digest: str) -> bool:
        """Check that an input is the one that was meant; one that is gone is left out."""
        if index >= len(self.digests):
            return False
        if self.digests[index] != digest:
            raise UsageError(
                f"input {index} of map {self.name!r} is not the one that its journal knows:"
                " choose another name, or begin anew with fresh=True"
            )
        return True

    def _leave(self, index: int) -> None:
        self.in_flight.pop(index, None)
        self.pending.pop(index, None)

    def _lose(self, index: int, entry: Entry) -> None:
        self.in_flight.pop(index, None)
        if entry["ran"]:
            lost = Recomputation(index, entry["batch"], entry["provider"], entry["why"])
            self.recomputed.append(lost)
        if index not in self.done:
            self.pending[index] = None


def _assignment(index: int, entry: Entry, *, confirmed: bool) -> Assignment:
    activity_id, batch_id, provider = entry["activity"], entry["batch"], entry["provider"]
    return Assignment(index, activity_id, batch_id, provider, confirmed)


def result_fields(result: CommandResult) -> dict[str, Any]:
    """Return what is kept of a result."""
    return {
        "index": result.index,
        "ok": result.ok,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "message": result.message,
        "at": result.at,
        "last": result.last,
    }


def _result(batch_id: str, raw: dict[str, Any]) -> CommandResult:
    return CommandResult(batch_id=batch_id, **raw)
