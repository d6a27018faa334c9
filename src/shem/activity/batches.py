"""What a requestor's node knows of one batch, as a table (docs/protocol/activity-exeunit.md §5.7).

    intent ──► accepted     the provider said so (Ok, "already exists", results, ResolveBatch)
       ├─────► refused      it answered our only Exec with an error: nothing ran
       ├─────► unknown ──► accepted | never         (no answer; then asked)
       └─────► never        the provider's ExeUnit noted that it will not run this id, or no
                            ExeUnit was there for our only Exec, and no other will be sent

Pure. `accepted`, `refused` and `never` are final: the first proof counts, and a peer that says the
opposite afterwards is not believed. An error proves nothing once an earlier Exec of the same id
went without an answer: it may still arrive.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class BatchState(StrEnum):
    """What is known; the names are those of the REST list of batches."""

    INTENT = "intent"
    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    REFUSED = "refused"
    NEVER = "never"


class News(StrEnum):
    """What can be learned about a batch."""

    ACCEPTED = "accepted"
    """The ExeUnit has it."""
    REFUSED = "refused"
    """The ExeUnit, or its node, answered an Exec with an error."""
    GONE = "gone"
    """The provider's node answered an Exec: no ExeUnit is there."""
    SILENCE = "silence"
    """An Exec may have been sent, and no answer came."""
    NEVER = "never"
    """The ExeUnit noted that it does not and will not run it."""


TRANSITIONS: Final[dict[tuple[BatchState, News], BatchState]] = {
    (BatchState.INTENT, News.ACCEPTED): BatchState.ACCEPTED,
    (BatchState.INTENT, News.REFUSED): BatchState.REFUSED,
    (BatchState.INTENT, News.GONE): BatchState.NEVER,
    (BatchState.INTENT, News.SILENCE): BatchState.UNKNOWN,
    (BatchState.INTENT, News.NEVER): BatchState.NEVER,
    (BatchState.UNKNOWN, News.ACCEPTED): BatchState.ACCEPTED,
    (BatchState.UNKNOWN, News.REFUSED): BatchState.UNKNOWN,
    (BatchState.UNKNOWN, News.GONE): BatchState.UNKNOWN,
    (BatchState.UNKNOWN, News.SILENCE): BatchState.UNKNOWN,
    (BatchState.UNKNOWN, News.NEVER): BatchState.NEVER,
    (BatchState.ACCEPTED, News.ACCEPTED): BatchState.ACCEPTED,
    (BatchState.ACCEPTED, News.REFUSED): BatchState.ACCEPTED,
    (BatchState.ACCEPTED, News.GONE): BatchState.ACCEPTED,
    (BatchState.ACCEPTED, News.SILENCE): BatchState.ACCEPTED,
    (BatchState.REFUSED, News.REFUSED): BatchState.REFUSED,
    (BatchState.NEVER, News.NEVER): BatchState.NEVER,
    (BatchState.NEVER, News.REFUSED): BatchState.NEVER,
    (BatchState.NEVER, News.GONE): BatchState.NEVER,
    (BatchState.NEVER, News.SILENCE): BatchState.NEVER,
}
"""(known, news) → known now. Absent: the news contradicts what was proven and is not believed."""

FINAL: Final = frozenset({BatchState.ACCEPTED, BatchState.REFUSED, BatchState.NEVER})
SENDABLE: Final = frozenset({BatchState.INTENT, BatchState.UNKNOWN})
"""States in which an Exec of this id may go out: never after a refusal was told."""


def learn(known: BatchState, news: News) -> BatchState | None:
    """Return what is known after `news`, or None when it contradicts what was proven."""
    return TRANSITIONS.get((known, news))


@dataclass(frozen=True, slots=True)
class Coverage:
    """How far a batch's results are known: `stored` entries from index 0, and the last one's end.

    `commands` is None for a batch whose script this node does not know.
    """

    commands: int | None
    stored: int
    failed: bool

    @property
    def finished(self) -> bool:
        """Nothing more will come: all commands have results, or one ended the batch."""
        return self.failed or (self.commands is not None and self.stored >= self.commands)

    def satisfies(self, command_index: int | None) -> bool:
        """Whether a poll for `command_index` (None: the last command) need not wait."""
        return self.finished or (command_index is not None and self.stored > command_index)
