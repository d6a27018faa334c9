"""What an ExeUnit leaves behind: the batches of its journal, read when the process has ended.

A batch that the process did not bring to its end gets its last entry here, durably, as the next
process of the activity would have given it: interrupted, outcome unknown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shem.exeunit.core import Batch, Core
from shem.exeunit.journal import Journal
from shem.exeunit.results import select
from shem.kernel.errors import StorageFault

KEEPS: Final = "SHEM_RESULTS_HANDED_OVER"
"""Environment of an ExeUnit whose agent hands the journal over when the process has ended."""
PART_SIZE_MAX: Final = 1 << 20
"""Output in one part, unless a single result has more."""


@dataclass(frozen=True, slots=True)
class Part:
    """Results of one batch from index `first` on, and what the batch was."""

    position: int
    batch: Batch
    first: int
    results: list[dict[str, object]]
    """As the wire carries them."""


def read_estate(path: Path, now_ns: int) -> list[Batch]:
    """Return the batches of a journal in the order of acceptance, all of them ended.

    Conflict while its process lives; StorageFault when it is damaged or not there.
    """
    if not path.exists():
        raise StorageFault(f"{path} is not there")
    journal = Journal(path)
    core = Core()
    try:
        core.replay(journal.open())
        for record in core.recover(now_ns):
            journal.append(record)
            core.apply(record)
    finally:
        journal.close()
    return list(core.batches.values())


def parts(batches: list[Batch]) -> Iterator[Part]:
    """Cut the batches into messages of moderate size; one without results is a part as well."""
    for position, batch in enumerate(batches):
        first, size = 0, 0
        for index, result in enumerate(batch.results):
            if index > first and size + result.output_size > PART_SIZE_MAX:
                yield _part(position, batch, first, index)
                first, size = index, 0
            size += result.output_size
        yield _part(position, batch, first, len(batch.results))


def _part(position: int, batch: Batch, first: int, end: int) -> Part:
    return Part(position, batch, first, select(batch.results[first:end], batch.last_index, None))
